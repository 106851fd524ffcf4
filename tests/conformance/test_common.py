"""The common core: what every model does in a call, whoever decides turns and however its provider words it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from duologue import tool
from duologue.engine.limits import LimitOptions
from duologue.errors import ConfigurationError, ToolError, UnsupportedInputError
from duologue.events import (
    ActivityInput,
    ConnectionLost,
    ImageInput,
    ResponseAudio,
    ResponseFinished,
    ResponseStarted,
    SensorInput,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    UserTranscript,
)
from duologue.session.toolbench import FillerOptions
from tests.conformance.caller import Call
from tests.conformance.rigs import Rig

PATIENT = LimitOptions(idle_s=0.0)
SILENT_TOOLS = FillerOptions(after_s=0.0)
#: a picture of one red pixel
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)


@tool
async def get_weather(city: str) -> str:
    """The weather in a city."""
    return "rain with snow"


@tool
async def get_time() -> str:
    """The time of day."""
    return "noon"


def slow_weather(seconds: float) -> Any:
    """A weather service that takes its time."""

    @tool(name="get_weather")
    async def slow(city: str) -> str:
        """The weather in a city. Takes long; the conversation goes on meanwhile."""
        await asyncio.sleep(seconds)
        return "rain with snow"

    return slow


async def _first_sample(call: Call) -> str:
    """Wait for the first sample of an answer to be played; its response."""
    await call.until(lambda: call.caller.rendered, "nothing was played")
    return str(call.caller.rendered[-1][1])


def test_a_spoken_turn_is_heard_answered_and_remembered(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    (answer,) = [event for event in call.caller.of(ResponseFinished) if event.heard]
    assert answer.status == "completed"
    assert answer.heard.split() == answer.text.split(), "all of it was heard"
    (turn,) = call.caller.of(TurnCommitted)
    assert [item.kind for item in call.session.history] == ["user", "assistant"]
    finals = [event for event in call.caller.of(UserTranscript) if event.final]
    assert finals[-1].turn == turn.turn
    assert "there" in finals[-1].text.lower()
    assert call.session.history[0].text == finals[-1].text
    assert not call.caller.errors
    if not rig.live:
        assert answer.heard.strip() == "You said hello there."


# ---------------------------------------------------------------------- barge-in


def test_barge_in_before_the_answer_begins(rig: Rig) -> None:
    """The caller goes on while the model thinks: one answer, to all of it, and none to the first half alone."""

    async def case(call: Call) -> None:
        await call.speak("slow")
        await call.wait(1.2)  # not every provider says that a turn is over before it answers it
        assert not call.caller.rendered
        await call.speak("stop")
        await call.hear("three")
        await call.wait(6.0)

    if rig.live:
        pytest.skip("when a live model begins to answer is not ours to say")
    call = rig.hold(case)
    assert call.heard == ["One, two, three."], "the answer that nobody waited for is not given"
    assert call.session.history[-1].text.split() == ["One,", "two,", "three."]


@pytest.mark.parametrize("phase", ["first sample", "mid answer", "generated"])
def test_barge_in_while_the_agent_speaks(rig: Rig, phase: str) -> None:
    """The answer stops, history ends where it was heard to, and what the caller said instead is answered."""
    interrupted: list[str] = []

    async def case(call: Call) -> None:
        await call.speak("story")
        response = await _first_sample(call)
        interrupted.append(response)
        if phase == "mid answer":
            await call.until(lambda: call.played(response) > 2.5, "the story was not played")
        elif phase == "generated":
            entry = call.session.conductor.responses.get(response)
            assert entry is not None
            await call.until(lambda: entry.generated and call.played(response) > 1.0, "the story was never finished")
            assert call.played(response) < entry.seconds - 2.5, "there is more to play than a barge-in takes"
        await call.speak("stop")
        await call.hear("three")
        await call.wait(2.0)

    call = rig.hold(case)
    (response,) = interrupted
    ended = call.finished(response)
    assert ended is not None
    assert ended.status == "interrupted"
    assert len(ended.heard) < len(ended.text) or ended.text == ended.heard
    assert ended.heard_ms == pytest.approx(call.played(response) * 1000, abs=60)
    second = next(at for at, id, _, _ in call.caller.rendered if id != response)
    assert call.last_played_at(response) < second
    told = next((item for item in call.session.history if item.id == response), None)
    assert (told.text.strip() if told is not None else "") == ended.heard.strip()
    assert told is None or not told.complete
    assert told is not None or phase == "first sample"
    if not rig.live:
        assert call.heard[-1] == "One, two, three."
        assert "number 8" not in ended.heard


def test_barge_in_while_a_tool_runs(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.speak("weather")
        await call.event(ToolStarted)
        await call.wait(0.3)
        await call.speak("stop")
        await call.hear("three")
        await call.event(ToolFinished)
        await call.wait(3.0)
        await call.speak("hello")
        await call.answer(len(call.heard) + 1)

    call = rig.hold(case, tools=[slow_weather(6.0)], filler=SILENT_TOOLS)
    (finished,) = call.caller.of(ToolFinished)
    assert finished.status in (("ok",) if rig.keeps_tools else ("ok", "cancelled"))
    told = [text for text in call.heard if "rain" in text]
    assert len(told) == (1 if finished.status == "ok" else 0), call.heard
    assert not call.caller.of(ConnectionLost)


# ---------------------------------------------------------------------- tools


def test_parallel_tools_are_answered_together(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.speak("both")
        await call.hear("noon")
        await call.wait(2.0)

    call = rig.hold(case, tools=[get_weather, get_time])
    assert sorted(event.name for event in call.caller.of(ToolFinished)) == ["get_time", "get_weather"]
    answers = [text for text in call.heard if "noon" in text.lower()]
    assert len(answers) == 1
    assert "rain" in answers[0].lower(), "one answer tells of both"


def test_a_slow_tool_leaves_the_conversation_free(rig: Rig) -> None:
    """The caller talks beside it; its result is told once, after that."""

    async def case(call: Call) -> None:
        await call.speak("weather")
        await call.event(ToolStarted)
        if rig.keeps_tools:
            await call.speak("hello")
            await call.answer()
            assert not call.caller.of(ToolFinished), "it runs still"
        await call.hear("rain")
        await call.wait(3.0)

    call = rig.hold(case, tools=[slow_weather(10.0)], filler=SILENT_TOOLS)
    assert len([text for text in call.heard if "rain" in text]) == 1
    assert not call.caller.of(ConnectionLost)


# ---------------------------------------------------------------------- silence


@pytest.mark.parametrize("muted", [False, True], ids=["silent", "muted"])
def test_a_caller_who_says_nothing_for_a_quarter_of_an_hour_stays_in_the_call(rig: Rig, muted: bool) -> None:
    async def case(call: Call) -> None:
        if muted:
            await call.session.send(ActivityInput(kind="mute"))
        await call.wait(900.0)
        if muted:
            await call.session.send(ActivityInput(kind="unmute"))
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case, limits=PATIENT)
    assert not call.caller.of(ConnectionLost)
    assert len(call.heard) == 1


# ---------------------------------------------------------------------- other inputs


def test_a_typed_turn(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.session.send("hello there")
        await call.answer()

    call = rig.hold(case)
    (turn,) = call.caller.of(TurnCommitted)
    assert (turn.text, turn.reason) == ("hello there", "typed")
    assert [item.kind for item in call.session.history] == ["user", "assistant"]
    if not rig.live:
        assert call.heard == ["You said hello there."]


def test_a_picture_is_taken_or_refused(rig: Rig) -> None:
    async def case(call: Call) -> None:
        picture = ImageInput(data=PICTURE, mime="image/png", respond=True)
        if "image" in rig.inputs:
            await call.session.send(picture)
            await call.answer()
            with pytest.raises(UnsupportedInputError, match="image/tiff"):
                await call.session.send(ImageInput(data=PICTURE, mime="image/tiff"))
        else:
            sent = [len(wire.sent) for wire in rig.wires]
            with pytest.raises(UnsupportedInputError, match="takes no images"):
                await call.session.send(picture)
            assert [len(wire.sent) for wire in rig.wires] == sent, "nothing was sent"
        await call.speak("hello")
        await call.answer(2 if "image" in rig.inputs else 1)

    call = rig.hold(case)
    pictures = [item for item in call.session.history if item.image]
    assert [(item.image, item.mime) for item in pictures] == (
        [(PICTURE, "image/png")] if "image" in rig.inputs else []
    ), "what was refused is not remembered"
    if not rig.live and "image" in rig.inputs:
        assert rig.talker.pictures == [(PICTURE, "image/png")]


def test_a_reading_is_taken_or_refused(rig: Rig) -> None:
    async def case(call: Call) -> None:
        reading = SensorInput(name="speed", value=80)
        if "sensor" in rig.inputs:
            await call.session.send(reading)
            await call.wait(1.0)
            assert not call.heard, "it is context, and not answered by itself"
            await call.speak("speed")
            await call.hear("80", "eight")
        else:
            with pytest.raises(UnsupportedInputError, match="takes no sensor input"):
                await call.session.send(reading)
            await call.speak("hello")
            await call.answer()
        with pytest.raises((ConfigurationError, UnsupportedInputError)):
            await call.session.send(SensorInput(name="speed", value=object()))

    call = rig.hold(case)
    notes = [item.text for item in call.session.history if item.kind == "note"]
    assert notes == (["speed: 80"] if "sensor" in rig.inputs else [])


# ---------------------------------------------------------------------- saying


def test_greeting_say_and_respond_by_the_models_plan(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.hear("aboard")
        await call.session.say("The tide is high.")
        await call.hear("tide")
        await call.session.respond("mention the harbour.")
        await call.hear("harbour")

    call = rig.hold(case, greeting="Welcome aboard.")
    assert call.model.capabilities.say == rig.say
    assert call.origins()[:3] == ["greeting", "say", "respond"]
    assert not call.caller.of(TurnCommitted), "what is asked of the model is no turn of the caller's"
    assert {item.kind for item in call.session.history} == {"assistant"}
    if not rig.live:
        assert call.heard[:2] == ["Welcome aboard.", "The tide is high."]


# ---------------------------------------------------------------------- changes in mid-call


def test_instructions_tools_and_voice_change_in_mid_call(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.speak("code")
        await call.hear("banana")
        with pytest.raises(ToolError):
            await call.session.update(tools=["no tool"])
        await call.session.update(
            instructions="Answer in one short sentence. The code word is pineapple. For the time call the function.",
            tools=[get_time],
            voice=rig.other_voice,
        )
        await call.wait(5.0)
        await call.speak("code")
        await call.hear("pineapple")
        await call.speak("time")
        await call.hear("noon")

    call = rig.hold(case, tools=[get_weather])
    assert [event.name for event in call.caller.of(ToolFinished)] == ["get_time"]
    assert not call.caller.of(ConnectionLost)
    assert "banana" in " ".join(item.text for item in call.session.history), "what was said before is not forgotten"


@pytest.mark.scripted
def test_a_change_before_anything_was_said_costs_nothing(rig: Rig) -> None:
    async def case(call: Call) -> None:
        await call.wait(0.5)
        await call.session.update(voice=rig.other_voice)
        await call.wait(3.0)
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert call.heard == ["You said hello there."]
    assert call.caller.of(ResponseAudio) or call.caller.of(ResponseStarted)
