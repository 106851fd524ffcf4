"""What models declare, and what each difference means in a call: the part of the suite that is not the same for all."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from duologue.events import (
    ActivityInput,
    ConnectionLost,
    ConnectionRotated,
    ResponseFinished,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
)
from duologue.models import Fallback
from duologue.testing.clock import run_virtual
from tests.conformance.caller import Call
from tests.conformance.parts import cascade
from tests.conformance.rigs import (
    CascadeRig,
    GeminiBlockingRig,
    GeminiEngineRig,
    GeminiRig,
    NovaRig,
    OpenAIEngineRig,
    OpenAIManualRig,
    OpenAIRig,
    Rig,
)
from tests.conformance.talk import SENTENCES
from tests.conformance.test_common import PATIENT, slow_weather

pytestmark = pytest.mark.scripted


def _sent(rig: Rig, wire: int = -1) -> list[dict[str, Any]]:
    """The client's events on a link as objects, audio left out."""
    events = [json.loads(text) if isinstance(text, str) else text for text in rig.wires[wire].sent]
    return [event for event in events if event.get("type") != "input_audio_buffer.append"]


def _received(rig: Rig) -> list[dict[str, Any]]:
    """The server's events on the first link, from now on."""
    client, events = rig.wires[0].client, []
    receive = client.receive

    async def watched() -> str:
        message: str = await receive()
        events.append(json.loads(message))
        return message

    client.receive = watched
    return events


def test_what_is_declared(rig: Rig) -> None:
    model = rig.make()
    declared = model.capabilities
    assert declared.authority == rig.authority
    assert declared.inputs == frozenset(rig.inputs)
    assert declared.say == rig.say
    assert declared.can_truncate is rig.can_truncate
    assert declared.can_cancel is rig.can_cancel
    assert declared.can_update is rig.can_update
    assert declared.can_disable_detection is (not isinstance(rig, CascadeRig | NovaRig))
    assert declared.in_process is isinstance(rig, CascadeRig)
    life = {"cascade": None, "openai": 3600.0, "nova": 480.0, "gemini": 600.0}
    assert declared.connection_s == life[rig.name.split("-")[0]]
    if declared.voices:
        assert rig.other_voice in declared.voices


def _cut(rig: Rig) -> Call:
    """A call in which the caller takes the floor after the answer was made and before it was heard."""

    async def case(call: Call) -> None:
        await call.speak("story")
        await call.until(lambda: call.played() > 2.0, "nothing was played")
        await call.speak("stop")
        await call.hear("three")
        await call.wait(1.0)

    return rig.hold(case)


@pytest.mark.parametrize("kind", [OpenAIRig, OpenAIEngineRig])
def test_openai_is_told_what_was_heard(kind: type[Rig]) -> None:
    rig = kind()
    call = _cut(rig)
    first = call.caller.of(ResponseFinished)[0]
    (truncated,) = [event for event in _sent(rig) if event["type"] == "conversation.item.truncate"]
    assert truncated["audio_end_ms"] == pytest.approx(first.heard_ms, abs=25)


@pytest.mark.parametrize("kind", [NovaRig, GeminiRig, GeminiEngineRig])
def test_who_cannot_be_told_learns_it_from_the_history_of_the_next_connection(kind: type[Rig]) -> None:
    """Nothing is sent at the cut; what a connection that follows is given ends where the caller took the floor."""
    rig = kind()

    async def case(call: Call) -> None:
        await call.speak("story")
        await call.until(lambda: call.played() > 2.0, "nothing was played")
        await call.speak("stop")
        await call.hear("three")
        await call.session.update(voice=rig.other_voice)
        await call.event(ConnectionRotated)
        await call.speak("hello")
        await call.hear("hello there")

    call = rig.hold(case)
    assert "truncate" not in json.dumps(_sent(rig, 0))
    first = call.caller.of(ResponseFinished)[0]
    assert first.status == "interrupted"
    if isinstance(rig, NovaRig):
        told = "\n".join(rig.wires[-1].texts("ASSISTANT"))
        assert first.heard.split()[-1] in told
        assert "number 8" not in told, "what was not heard is not told"


def test_nova_meets_both_idle_limits() -> None:
    """Silence is sent where no audio comes (55 s), and a stream on which nobody speaks is left in time (295 s)."""
    rig = NovaRig()

    async def case(call: Call) -> None:
        await call.session.send(ActivityInput(kind="mute"))
        await call.wait(900.0)

    call = rig.hold(case, limits=PATIENT)
    assert not call.caller.of(ConnectionLost)
    rotations = call.caller.of(ConnectionRotated)
    gaps = [after.at - before.at for before, after in itertools.pairwise(rotations)]
    assert len(rotations) >= 3
    assert all(gap < 295.0 for gap in [rotations[0].at, *gaps])
    fed = sum(len(wire.audio) for wire in rig.wires) / 32_000
    assert fed == pytest.approx(900.0, rel=0.02), "silence took the place of the muted microphone, all the time"


@pytest.mark.parametrize("kind", [OpenAIRig, CascadeRig])
def test_others_stay_on_one_connection_through_silence(kind: type[Rig]) -> None:
    rig = kind()

    async def case(call: Call) -> None:
        await call.wait(900.0)

    assert not rig.hold(case, limits=PATIENT).caller.of(ConnectionRotated)


@pytest.mark.parametrize("kind", [OpenAIRig, OpenAIManualRig, NovaRig, GeminiRig, GeminiEngineRig, CascadeRig])
def test_a_tool_goes_on_while_the_caller_speaks(kind: type[Rig]) -> None:
    assert _spoken_over(kind()).status == "ok"


def test_gemini_withdraws_a_call_when_the_caller_takes_the_floor() -> None:
    assert _spoken_over(GeminiBlockingRig()).status == "cancelled"


@pytest.mark.parametrize("kind", [OpenAIEngineRig, OpenAIManualRig])
def test_what_the_caller_says_is_known_before_it_is_answered(kind: type[Rig]) -> None:
    """The provider transcribes what is committed: the engine weighs it, and does not wait the longest that it may."""
    rig = kind()

    async def case(call: Call) -> None:
        await call.speak("hello")
        await call.event(TurnCommitted)
        await call.answer()

    call = rig.hold(case)
    (turn,) = call.caller.of(TurnCommitted)
    assert turn.text == "hello there"
    assert turn.reason.startswith("turn over")
    events = [event["type"] for event in _sent(rig)]
    assert events.index("input_audio_buffer.commit") < events.index("response.create")
    assert events.count("response.create") == 1


@pytest.mark.parametrize("kind", [OpenAIRig, OpenAIEngineRig, OpenAIManualRig])
def test_each_answer_has_the_name_that_it_was_asked_for_by(kind: type[Rig]) -> None:
    """Also where the model answers within the step that ends the turn."""
    rig = kind()
    received: list[list[dict[str, Any]]] = []

    async def case(call: Call) -> None:
        received.append(_received(rig))
        for sentence in ("hello", "stop", "hello"):
            before = len(call.heard)
            await call.session.send(SENTENCES[sentence])
            await call.answer(before + 1)

    call = rig.hold(case)
    done = [event["response"] for event in received[0] if event["type"] == "response.done"]
    named = {
        (response["metadata"] or {}).get("duologue"): response["output"][0]["content"][0]["transcript"]
        for response in done
    }
    asked = [event["response"]["metadata"]["duologue"] for event in _sent(rig) if event["type"] == "response.create"]
    assert [named[key] for key in asked] == call.heard
    assert set(named) == set(asked)


def test_a_turn_that_goes_on_before_its_answer_is_transcribed_once() -> None:
    rig = OpenAIRig()
    received: list[list[dict[str, Any]]] = []

    async def case(call: Call) -> None:
        received.append(_received(rig))
        await call.speak("slow")
        await call.wait(1.2)
        await call.speak("stop")
        await call.hear("three")

    rig.hold(case)
    kind = "conversation.item.input_audio_transcription.completed"
    transcripts = [event["transcript"] for event in received[0] if event["type"] == kind]
    assert transcripts == [SENTENCES["slow"], SENTENCES["stop"]]


def _spoken_over(rig: Rig) -> ToolFinished:
    async def case(call: Call) -> None:
        await call.speak("weather")
        await call.event(ToolStarted)
        await call.wait(0.3)
        await call.speak("stop")
        await call.event(ToolFinished)
        await call.hear("three")

    call = rig.hold(case, tools=[slow_weather(8.0)], filler=None)
    (finished,) = call.caller.of(ToolFinished)
    return finished  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [NovaRig, GeminiRig])
def test_where_there_is_no_update_another_connection_has_it(kind: type[Rig]) -> None:
    rig = kind()
    call = _updated(rig, instructions="The code word is pineapple.")
    assert len(call.caller.of(ConnectionRotated)) == 1
    assert "pineapple" in json.dumps(_sent(rig, 1))


@pytest.mark.parametrize("kind", [OpenAIRig, OpenAIEngineRig])
def test_where_there_is_an_update_the_connection_stays(kind: type[Rig]) -> None:
    rig = kind()
    call = _updated(rig, instructions="The code word is pineapple.")
    assert not call.caller.of(ConnectionRotated)
    updates = [event["session"] for event in _sent(rig) if event["type"] == "session.update"]
    assert "pineapple" in updates[1]["instructions"]
    assert "audio" not in updates[1], "the voice is not touched"


def test_a_voice_that_has_spoken_changes_with_the_next_connection() -> None:
    rig = OpenAIRig()
    call = _updated(rig, voice="cedar")
    assert len(call.caller.of(ConnectionRotated)) == 1
    (setup, *_) = [event["session"] for event in _sent(rig, 1) if event["type"] == "session.update"]
    assert setup["audio"]["output"]["voice"] == "cedar"


def test_a_voice_that_has_not_spoken_changes_where_it_is() -> None:
    rig = OpenAIRig()

    async def case(call: Call) -> None:
        await call.wait(0.5)
        await call.session.update(voice="cedar")
        await call.speak("hello")
        await call.answer()

    call = rig.hold(case)
    assert not call.caller.of(ConnectionRotated)
    updates = [event["session"] for event in _sent(rig) if event["type"] == "session.update"]
    assert updates[1]["audio"]["output"]["voice"] == "cedar"


def test_geminis_newest_is_told_in_mid_session_but_for_the_voice() -> None:
    class Newest(GeminiRig):
        options: ClassVar[dict[str, Any]] = {"model": "gemini-3.8-live"}
        can_update = True

    rig = Newest()
    call = _updated(rig, instructions="The code word is pineapple.")
    assert not call.caller.of(ConnectionRotated)
    assert "pineapple" in json.dumps([event for event in _sent(rig) if "contextUpdate" in event])
    rig = Newest()
    call = _updated(rig, voice="Kore")
    assert len(call.caller.of(ConnectionRotated)) == 1
    assert "Kore" in json.dumps(_sent(rig, 1)[0])


def _updated(rig: Rig, **change: Any) -> Call:
    async def case(call: Call) -> None:
        await call.speak("hello")
        await call.answer()
        await call.session.update(**change)
        await call.session.update(**change)  # what is so already changes nothing
        await call.wait(6.0)
        await call.speak("hello")
        await call.answer(2)

    return rig.hold(case)


def test_an_unknown_voice_is_refused_and_changes_nothing(rig: Rig) -> None:
    from duologue.errors import ConfigurationError

    async def case(call: Call) -> None:
        if call.model.capabilities.voices:
            with pytest.raises(ConfigurationError, match="has no voice 'nobody'"):
                await call.session.update(instructions="The code word is pineapple.", voice="nobody")
        await call.speak("code")
        await call.hear("banana")

    assert not rig.hold(case).caller.of(ConnectionRotated)


def test_a_fallback_takes_what_the_model_in_use_takes() -> None:
    """Of two models the first takes pictures; while the second answers they are refused, and the call goes on."""
    from duologue import Agent
    from duologue.errors import ModelConnectionError, UnsupportedInputError
    from duologue.events import ImageInput
    from tests.conformance.caller import Caller
    from tests.conformance.test_common import PICTURE

    async def run() -> None:
        rig = GeminiRig()
        first = rig.make()
        rig.provider.refuse = lambda: ModelConnectionError("gone")
        model = Fallback([first, cascade()])
        caller = Caller(model.capabilities.input_rate)
        async with Agent(model=model, greeting="", idle_prompt="").session(caller, tool_runner="inline") as session:
            call = Call(session, caller, CascadeRig().speech, 30.0)
            with pytest.raises(UnsupportedInputError, match="takes no images"):
                await session.send(ImageInput(data=PICTURE, mime="image/png"))
            await session.send("hello there")
            await call.answer()
            caller.hang_up()
            await session.wait()
        assert not [item for item in session.history if item.image]
        await rig.provider.close()

    run_virtual(run())


def test_a_live_run_without_a_key_says_so_in_plain_words() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--live", "openai", "-k", "typed_turn"]
    root = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    result = subprocess.run(
        [*command, "tests/conformance"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.strip().startswith("ERROR: There is no OpenAI key. Set OPENAI_API_KEY")
    assert "Traceback" not in result.stdout + result.stderr


def test_the_documentation_names_every_option_voice_and_language() -> None:
    from duologue.models import gemini_live, nova_sonic, openai_realtime
    from duologue.wire import gemini_live as gemini_wire
    from duologue.wire import nova_sonic as nova_wire
    from duologue.wire import openai_realtime as openai_wire

    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")}
    for name, module, voices in (
        ("OpenAIRealtime", openai_realtime, openai_wire.VOICES),
        ("NovaSonic", nova_sonic, (*nova_wire.VOICE_IDS, *nova_wire.LANGUAGES, *nova_wire.REGIONS, *nova_wire.MODELS)),
        ("GeminiLive", gemini_live, gemini_wire.VOICES),
    ):
        missing = [option for option in module._OPTIONS if f"`{option}`" not in sections[name]]
        missing += [voice for voice in voices if voice not in sections[name]]
        assert not missing, f"{name}: {missing}"
