"""OpenAIRealtime in a session, against our own server of the protocol, in memory and in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from duologue import Agent, tool
from duologue.errors import (
    ConfigurationError,
    CredentialsError,
    ModelRequestError,
    ModelThrottledError,
    UnknownOptionError,
)
from duologue.events import (
    ConnectionRotated,
    ErrorEvent,
    ImageInput,
    Interruption,
    ResponseFinished,
    SensorInput,
    ToolFinished,
    TurnCommitted,
    UserTranscript,
)
from duologue.models import Audio, OpenAIRealtime
from duologue.models.openai_transport import error_of, error_of_close, error_of_status
from duologue.speech.vad import EnergyVAD
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Line, Reply
from duologue.wire.openai_realtime import SemanticVAD
from tests.models.realtime_pair import Call, Provider
from tests.real_clients.scripted_server import echo


@tool
async def get_weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


@tool
async def get_time() -> str:
    """The time."""
    return "noon"


def _sent(provider: Provider, kind: str, wire: int = 0) -> list[dict[str, Any]]:
    messages = [json.loads(text) for text in provider.wires[wire].sent]
    return [message for message in messages if message["type"] == kind]


def _answers(call: Call) -> list[str]:
    return [event.heard for event in call.caller.of(ResponseFinished)]


def _held(lines: list[Line], until_s: float, **agent: Any) -> Call:
    async def run() -> Call:
        call = Call(lines, until_s, Provider(), **agent)
        await call.run()
        return call

    return run_virtual(run())


def test_a_call_with_the_providers_own_detection() -> None:
    call = _held([Line(at_s=1.0, utterance=1, seconds=1.0)], 8.0, instructions="Be brief.")
    assert _answers(call) == ["You said hello there."]
    (committed,) = call.caller.of(TurnCommitted)
    assert committed.reason.startswith("provider")
    assert [event.text for event in call.caller.of(UserTranscript) if event.final] == ["hello there"]
    (update,) = _sent(call.provider, "session.update")
    assert update["session"]["instructions"] == "Be brief."
    assert not _sent(call.provider, "response.create"), "the provider answers by itself"
    assert [item.text for item in call.session.history] == ["hello there", "You said hello there."]


def test_barge_in_after_generation_has_ended_tells_the_provider_what_was_heard() -> None:
    lines = [Line(at_s=1.0, utterance=2, seconds=1.0), Line(at_s=7.0, utterance=4, seconds=1.0)]
    call = _held(lines, 14.0)
    first = call.caller.of(ResponseFinished)[0]
    assert first.status == "interrupted"
    rendered = sum(samples for _, response, _, samples in call.caller.rendered if response == first.response)
    assert first.heard_ms == pytest.approx(rendered / 24, abs=30)
    (truncate,) = _sent(call.provider, "conversation.item.truncate")
    assert truncate["audio_end_ms"] == first.heard_ms
    assert any(event.stage == "yield" for event in call.caller.of(Interruption))
    assert _answers(call)[-1] == "You said stop please."
    told = call.provider.model.connections[0]._context.history()
    cut = next(item for item in told if item.kind == "assistant")
    assert len(cut.text) == pytest.approx(len(first.heard), abs=8)


def test_parallel_tools_are_answered_together() -> None:
    def answer(text: str | None, context: Any) -> Reply:
        return Reply(tools=(("get_weather", {"city": "Oslo"}), ("get_time", {}))) if text else echo(text, context)

    async def run() -> Call:
        lines = [Line(at_s=1.0, utterance=3, seconds=1.0)]
        call = Call(lines, 9.0, Provider(answer=answer), tools=[get_weather, get_time])
        await call.run()
        return call

    call = run_virtual(run())
    assert sorted(event.output for event in call.caller.of(ToolFinished)) == ["noon", "rain in Oslo"]
    outputs = [entry["item"] for entry in _sent(call.provider, "conversation.item.create")]
    assert [item["type"] for item in outputs] == ["function_call_output"] * 2
    assert len(_sent(call.provider, "response.create")) == 1
    assert _answers(call)[-1] == "It is noon."


def test_a_greeting_is_asked_for_word_for_word() -> None:
    call = _held([], 4.0, greeting="Welcome aboard.")
    (create,) = _sent(call.provider, "response.create")
    assert create["response"]["instructions"].endswith("Welcome aboard.")
    assert create["response"]["tool_choice"] == "none"


def test_a_typed_turn_a_picture_and_a_reading() -> None:
    async def run() -> Call:
        call = Call([], 1e9, Provider())
        async with call.session as session:
            await session.send(ImageInput(data=b"\x89PNG", mime="image/png"))
            await session.send(SensorInput(name="speed", value=3))
            await session.send("good day")
            async for event in session.receive():
                if isinstance(event, ResponseFinished):
                    assert event.text == "You said good day."
                    break
        await call.provider.close()
        return call

    call = run_virtual(run())
    items = [entry["item"] for entry in _sent(call.provider, "conversation.item.create")]
    assert items[0]["content"] == [{"type": "input_image", "image_url": "data:image/png;base64,iVBORw=="}]
    assert items[-1]["content"] == [{"type": "input_text", "text": "good day"}]


@pytest.mark.parametrize("detection", [None, SemanticVAD(create_response=False, interrupt_response=False)])
def test_the_engine_decides_where_the_provider_is_not_to(detection: Any) -> None:
    async def run() -> Call:
        provider = Provider()
        model = OpenAIRealtime(
            api_key="x", connector=provider.connect, turn_detection=detection, vad=lambda: EnergyVAD(threshold_dbfs=-95)
        )
        assert model.capabilities.authority == "engine"
        call = Call([Line(at_s=1.0, utterance=1, seconds=1.0)], 9.0, provider, model)
        await call.run()
        return call

    call = run_virtual(run())
    (committed,) = call.caller.of(TurnCommitted)
    assert not committed.reason.startswith("provider")
    assert len(_sent(call.provider, "response.create")) == 1
    assert _sent(call.provider, "input_audio_buffer.commit")
    assert _answers(call) == ["You said hello there."]


def test_a_session_that_expires_is_rotated_before_it_does() -> None:
    async def run() -> Call:
        provider = Provider(session_s=20.0)
        lines = [Line(at_s=2.0 + 10 * n, utterance=1, seconds=1.0) for n in range(5)]
        model = OpenAIRealtime(api_key="x", connector=provider.connect, session_s=20.0)
        call = Call(lines, 52.0, provider, model)
        await call.run()
        return call

    call = run_virtual(run())
    assert len(call.provider.wires) >= 3
    assert all(event.reason == "planned" for event in call.caller.of(ConnectionRotated))
    assert _answers(call) == ["You said hello there."] * 5
    replayed = [entry["item"] for entry in _sent(call.provider, "conversation.item.create", wire=1)]
    assert [item["content"][0]["text"] for item in replayed[:2]] == ["hello there", "You said hello there."]
    assert not call.caller.of(ErrorEvent)


def _broken(at_s: float, lines: list[Line], until_s: float, provider: Provider) -> Call:
    """A call whose first connection is reset at `at_s`."""

    async def run() -> Call:
        call = Call(lines, until_s, provider)

        async def breaks() -> None:
            await asyncio.sleep(at_s)
            provider.wires[0].break_()

        task = asyncio.get_running_loop().create_task(breaks())
        await call.run()
        await task
        return call

    return run_virtual(run())


def test_a_reset_while_an_answer_plays_goes_unheard() -> None:
    call = _broken(4.0, [Line(at_s=1.0, utterance=2, seconds=1.0)], 32.0, Provider())
    (rotated,) = call.caller.of(ConnectionRotated)
    assert rotated.reason.startswith("lost")
    (finished,) = call.caller.of(ResponseFinished)
    assert finished.heard.endswith("number 8 of the story.")
    replayed = [entry["item"] for entry in _sent(call.provider, "conversation.item.create", wire=1)]
    assert [item["role"] for item in replayed] == ["user", "assistant"]


def test_a_turn_that_a_lost_connection_owed_is_answered_by_the_next_once() -> None:
    def answer(text: str | None, context: Any) -> Reply:
        return Reply(text="Late but here.", delay_s=2.0)

    call = _broken(4.0, [Line(at_s=1.0, utterance=1, seconds=1.0)], 14.0, Provider(answer=answer))
    assert len(call.provider.wires) == 2
    assert _answers(call) == ["Late but here."]
    assert len(call.caller.of(TurnCommitted)) == 1


def test_a_reset_in_mid_speech_loses_nothing_of_what_was_said() -> None:
    call = _broken(1.6, [Line(at_s=1.0, utterance=1, seconds=1.0)], 12.0, Provider())
    assert _answers(call) == ["You said hello there."]
    assert len(call.caller.of(TurnCommitted)) == 1


def test_a_provider_that_falls_silent_is_replaced() -> None:
    async def run() -> Call:
        provider = Provider(answer=lambda text, context: Reply(text="Here.", delay_s=1.0))
        call = Call([Line(at_s=1.0, utterance=1, seconds=1.0)], 24.0, provider)

        async def stalls() -> None:
            await asyncio.sleep(3.0)  # the turn is committed, its answer is on the way
            provider.wires[0].silent = True

        task = asyncio.get_running_loop().create_task(stalls())
        await call.run()
        await task
        return call

    call = run_virtual(run())
    (rotated,) = call.caller.of(ConnectionRotated)
    assert "said nothing" in rotated.reason
    assert _answers(call) == ["Here."]


def test_text_only_for_who_reads() -> None:
    async def run() -> Provider:
        provider = Provider()
        model = OpenAIRealtime(api_key="x", connector=provider.connect)
        async with Agent(model=model).session(text_only=True) as session:
            await session.send("good day")
            async for event in session.receive():
                if isinstance(event, ResponseFinished):
                    assert event.heard == "You said good day."
                    break
        await provider.close()
        return provider

    provider = run_virtual(run())
    (update,) = _sent(provider, "session.update")
    assert update["session"]["output_modalities"] == ["text"]


def test_options_are_strict() -> None:
    with pytest.raises(UnknownOptionError, match="Did you mean 'turn_detection'"):
        OpenAIRealtime(turn_detektion=None)
    for bad in (
        {"turn_detection": "vad"},
        {"turn_detection": {"type": "server_vad", "silence": 3}},
        {"audio": Audio(input_rate=16_000)},
        {"speed": 3.0},
        {"max_output_tokens": 0},
        {"output_modalities": ("audio", "text")},
    ):
        with pytest.raises(ConfigurationError):
            OpenAIRealtime(**bad)  # type: ignore[arg-type]
    assert OpenAIRealtime(turn_detection={"type": "semantic_vad", "eagerness": "high"}).automatic


def test_what_the_vendor_reports_is_typed() -> None:
    assert isinstance(error_of("invalid_api_key", "x"), CredentialsError)
    assert isinstance(error_of("insufficient_quota", "x"), ModelThrottledError)
    assert isinstance(error_of("model_not_found", "x"), ModelRequestError)
    assert error_of(None, "x", type="server_error").retryable
    assert isinstance(error_of_close(4000, "invalid_request_error.model_not_found"), ModelRequestError)
    assert error_of_close(1001, "Your session hit the maximum duration of 60 minutes.").retryable
    assert isinstance(error_of_status(401, "", "x"), CredentialsError)
    assert isinstance(error_of_status(404, "", "x"), ModelRequestError)
    assert isinstance(error_of_status(429, "", "x"), ModelThrottledError)
    assert error_of_status(503, "", "x").retryable
