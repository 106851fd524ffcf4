"""NovaSonic in a session, against our own server of the protocol, in memory and in virtual time."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from duologue import tool
from duologue.engine.limits import LimitOptions
from duologue.errors import (
    ConfigurationError,
    CredentialsError,
    ModelConnectionError,
    ModelRequestError,
    ModelThrottledError,
    UnknownOptionError,
)
from duologue.events import (
    ActivityInput,
    ConnectionLost,
    ConnectionRotated,
    ErrorEvent,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    ToolFinished,
    TurnCommitted,
    UsageReported,
    UserSpeechStarted,
    UserTranscript,
)
from duologue.models import Audio, NovaSonic, nova_transport
from duologue.models.nova_errors import error_of_name
from duologue.models.refusals import AccessNotEnabledError, QuotaError, UnknownModelError
from duologue.models.transport import TransportClosedError
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Line, Reply
from duologue.wire.nova_sonic import ServerProtocol, StreamException, StreamLimits, faults, inputs, outputs
from tests.models.nova_pair import Call, Provider, Wire, value_of
from tests.real_clients.scripted_server import echo


@tool
async def get_weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


@tool
async def get_time() -> str:
    """The time."""
    return "noon"


def _answers(call: Call) -> list[str]:
    return [event.heard.strip() for event in call.caller.of(ResponseFinished) if event.heard]


def _held(
    lines: list[Line],
    until_s: float,
    *,
    provider: Callable[[], Provider] = Provider,
    beside: Callable[[Call], Any] | None = None,
    **agent: Any,
) -> Call:
    """A call from start to hang-up. `beside` runs beside it."""

    async def run() -> Call:
        call = Call(lines, until_s, provider(), **agent)
        task = asyncio.ensure_future(beside(call)) if beside is not None else None
        await call.run()
        if task is not None:
            await task
        return call

    return run_virtual(run())


def _line(at_s: float, utterance: int, seconds: float = 1.0) -> Line:
    return Line(at_s=at_s, utterance=utterance, seconds=seconds)


# ---------------------------------------------------------------------- a conversation


def test_a_call() -> None:
    call = _held([_line(1.0, 1)], 8.0, instructions="Be brief.", language="en-GB")
    assert _answers(call) == ["You said hello there."]
    (committed,) = call.caller.of(TurnCommitted)
    assert committed.reason.startswith("provider")
    assert committed.text == "hello there"
    (started,) = call.caller.of(UserSpeechStarted)
    assert started.position == pytest.approx(16_000, abs=1600), "the provider's offset, on the user's track"
    assert [event.text for event in call.caller.of(UserTranscript) if event.final] == ["hello there"]
    assert [item.text for item in call.session.history] == ["hello there", "You said hello there. "]
    (wire,) = call.provider.wires
    assert wire.texts("SYSTEM") == ["Be brief.\nSpeak the language en-GB."]
    prompt = wire.of("promptStart")[0]
    assert prompt["audioOutputConfiguration"]["voiceId"] == "amy", "a voice of the language"
    assert prompt["audioOutputConfiguration"]["sampleRateHertz"] == 24000
    assert wire.of("sessionStart")[0] == {
        "inferenceConfiguration": {"maxTokens": 1024, "topP": 0.9, "temperature": 0.7}
    }


def test_one_container_holds_the_audio_and_the_session_ends_in_order() -> None:
    call = _held([_line(1.0, 1), _line(6.0, 4)], 11.0)
    (wire,) = call.provider.wires
    assert len([block for block in wire.of("contentStart") if block["type"] == "AUDIO"]) == 1
    assert [next(iter(event)) for event in wire.sent][-3:] == ["contentEnd", "promptEnd", "sessionEnd"]
    assert value_of(wire) == [1, 4]
    assert wire.closed


def test_frames_are_32_ms() -> None:
    seen: list[int] = []

    def watch(direction: str, frame: Any) -> None:
        event = json.loads(frame)["event"]
        if direction == "sent" and "audioInput" in event:
            seen.append(len(event["audioInput"]["content"]) * 3 // 4 // 2)

    async def run() -> None:
        provider = Provider()
        call = Call([], 3.0, provider, NovaSonic(connector=provider.connect, on_wire=watch))
        await call.run()

    run_virtual(run())
    assert set(seen) <= {512, 513}  # base64's padding
    assert len(seen) == pytest.approx(3.0 / 0.032, abs=5)


def test_text_comes_before_its_audio_sentence_by_sentence() -> None:
    call = _held([_line(1.0, 2)], 30.0)
    texts = call.caller.of(ResponseText)
    assert [text.text.strip() for text in texts] == [f"This is sentence number {n} of the story." for n in range(1, 9)]
    offsets = [text.offset for text in texts]
    assert offsets == [n * offsets[1] for n in range(8)]
    assert offsets[1] == len("This is sentence number 1 of the story. ") * 24_000 // 15


def test_barge_in_while_the_answer_is_played_flushes_and_cuts_the_history() -> None:
    call = _held([_line(1.0, 2), _line(7.0, 4)], 14.0)
    first = call.caller.of(ResponseFinished)[0]
    assert first.status == "interrupted"
    rendered = sum(samples for _, response, _, samples in call.caller.rendered if response == first.response)
    assert first.heard_ms == pytest.approx(rendered / 24, abs=30)
    assert any(event.stage == "yield" for event in call.caller.of(Interruption))
    assert _answers(call)[-1] == "You said stop please."
    history = [item.text for item in call.session.history if item.kind == "assistant"]
    assert history[0].startswith("This is sentence number 1")
    assert "sentence number 8" not in history[0]
    assert not any("interrupted" in item.text for item in call.session.history), "marks are no words"


def test_each_mark_of_a_barge_in_is_enough() -> None:
    for drop in ("userSpeechStart", "textOutput", "contentEnd"):
        call = _held([_line(1.0, 2), _line(7.0, 4)], 14.0, beside=_later(0.5, functools.partial(_without, drop=drop)))
        assert call.caller.of(ResponseFinished)[0].status == "interrupted", drop
        assert _answers(call)[-1] == "You said stop please.", drop


def _without(wire: Wire, drop: str) -> None:
    """A service that does not send one of the marks of an interruption."""
    send = wire.server.send

    async def chosen(event: bytes) -> None:
        name, body = next(iter(json.loads(event)["event"].items()))
        if name == drop == "userSpeechStart":
            return
        if name == drop == "textOutput" and "interrupted" in body["content"]:
            return
        if name == drop == "contentEnd" and body.get("stopReason") == "INTERRUPTED":
            event = event.replace(b"INTERRUPTED", b"PARTIAL_TURN")
        await send(event)

    wire.server.send = chosen  # type: ignore[method-assign]


def test_typed_turns_need_no_voice() -> None:
    async def typing(call: Call) -> None:
        await asyncio.sleep(2.0)
        await call.session.send("how are you")

    call = _held([], 8.0, beside=typing)
    assert _answers(call) == ["You said how are you."]
    (wire,) = call.provider.wires
    assert wire.texts("USER") == ["how are you"]
    (block,) = [b for b in wire.of("contentStart") if b["role"] == "USER" and b["type"] == "TEXT"]
    assert block["interactive"] is True
    assert [item.text for item in call.session.history if item.kind == "user"] == ["how are you"]


def test_a_greeting_is_asked_for_word_for_word_and_its_echo_is_nobodys_turn() -> None:
    call = _held([], 30.0, greeting="Welcome aboard.")
    (wire,) = call.provider.wires
    (asked,) = wire.texts("USER")
    assert asked.endswith("Welcome aboard.")
    assert [event.origin for event in call.caller.of(ResponseStarted)] == ["greeting"]
    assert not call.caller.of(TurnCommitted)


def test_tools() -> None:
    def answer(text: str | None, context: Any) -> Reply:
        if text is not None:
            return Reply(tools=(("get_weather", {"city": "Oslo"}), ("get_time", {})))
        return echo(text, context)

    call = _held([_line(1.0, 3)], 9.0, provider=lambda: Provider(answer=answer), tools=[get_weather, get_time])
    assert sorted(event.output for event in call.caller.of(ToolFinished)) == ["noon", "rain in Oslo"]
    (wire,) = call.provider.wires
    results = sorted(event["content"] for event in wire.of("toolResult"))
    assert [json.loads(result) for result in results] == [{"result": "noon"}, {"result": "rain in Oslo"}]
    prompt = wire.of("promptStart")[0]
    spec = prompt["toolConfiguration"]["tools"][0]["toolSpec"]
    assert spec["name"] == "get_weather"
    assert json.loads(spec["inputSchema"]["json"])["properties"]["city"]["type"] == "string"
    assert len([text for text in _answers(call) if text.startswith("It is")]) == 1, "answered together, once"


def test_a_slow_tool_leaves_the_conversation_free() -> None:
    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        await asyncio.sleep(12.0)
        return "rain"

    call = _held([_line(1.0, 3), _line(6.0, 1)], 24.0, tools=[get_weather], filler=None)
    answers = _answers(call)
    assert answers.index("You said hello there.") < answers.index('It is {"result":"rain"}.')
    assert not call.caller.of(ConnectionLost)


def test_a_failed_tool_says_so() -> None:
    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        raise ValueError("no such city")

    call = _held([_line(1.0, 3)], 9.0, tools=[get_weather])
    (result,) = call.provider.wires[0].of("toolResult")
    assert "no such city" in json.loads(result["content"])["error"]


def test_usage_is_reported() -> None:
    call = _held([_line(1.0, 1)], 6.0, beside=_later(2.0, lambda wire: _usage(wire)))
    assert [(e.input_tokens, e.output_tokens) for e in call.caller.of(UsageReported)] == [(12, 34)]


def _usage(wire: Wire) -> None:
    event = {"totalInputTokens": 12, "totalOutputTokens": 34, "totalTokens": 46}
    wire.down.put_nowait(json.dumps({"event": {"usageEvent": event}}).encode())


def _later(at_s: float, act: Callable[[Wire], None]) -> Callable[[Call], Any]:
    async def run(call: Call) -> None:
        await asyncio.sleep(at_s)
        act(call.provider.wires[-1])

    return run


def test_noise_without_words_gives_the_floor_back() -> None:
    def noise(wire: Wire) -> None:
        for name, body in (
            ("userSpeechStart", {"inputAudioOffsetMs": 1000}),
            ("userSpeechEnd", {"inputAudioOffsetMs": 1200, "inputAudioDetectionOffsetMs": 2000}),
        ):
            wire.down.put_nowait(json.dumps({"event": {name: body}}).encode())

    async def beside(call: Call) -> None:
        await _later(2.0, noise)(call)
        await asyncio.sleep(7.0)
        await call.session.say("Anybody there?")

    call = _held([], 25.0, beside=beside)
    assert not call.caller.of(TurnCommitted)
    assert [event.status for event in call.caller.of(ResponseFinished)] == ["completed"]


def test_what_cannot_be_taken_is_refused_and_the_call_goes_on() -> None:
    from duologue.events import ImageInput

    async def show(call: Call) -> None:
        await asyncio.sleep(0.5)
        with pytest.raises(Exception, match="takes no images"):
            await call.session.send(ImageInput(data=b"x"))

    call = _held([_line(1.0, 1)], 7.0, beside=show)
    assert _answers(call) == ["You said hello there."]


# ---------------------------------------------------------------------- limits and rotation

PATIENT = LimitOptions(idle_s=0.0)
SHORT = StreamLimits(connection_s=30.0, audio_gap_s=5.0, interactive_gap_s=20.0)


def test_a_muted_caller_stays_in_the_call() -> None:
    async def mute(call: Call) -> None:
        await asyncio.sleep(1.0)
        call.session.user_input(ActivityInput(kind="mute"))
        await asyncio.sleep(14.0)
        call.session.user_input(ActivityInput(kind="unmute"))

    lines = [_line(16.0, 1)]
    call = _held(lines, 22.0, provider=lambda: Provider(limits=SHORT), beside=mute)
    assert not call.caller.of(ConnectionLost)
    assert _answers(call) == ["You said hello there."]


def test_a_caller_who_says_nothing_stays_in_the_call() -> None:
    call = _held([_line(130.0, 1)], 136.0, provider=lambda: Provider(limits=SHORT), limits=PATIENT)
    assert not call.caller.of(ConnectionLost)
    assert len(call.caller.of(ConnectionRotated)) >= 5
    assert _answers(call) == ["You said hello there."]


def test_fifteen_silent_minutes_at_the_services_own_limits() -> None:
    call = _held([_line(900.0, 1)], 906.0, limits=PATIENT)
    assert not call.caller.of(ConnectionLost)
    assert _answers(call) == ["You said hello there."]
    assert 3 <= len(call.provider.wires) <= 6


def test_rotation_carries_history_with_tools_and_loses_nothing() -> None:
    lines = [_line(1.0, 3), _line(8.0, 1), _line(40.0, 4), _line(62.0, 1)]
    limits = StreamLimits(connection_s=30.0)
    call = _held(lines, 70.0, provider=lambda: Provider(limits=limits), tools=[get_weather])
    assert not call.caller.of(ConnectionLost)
    assert len(call.caller.of(ConnectionRotated)) >= 2
    assert [value for wire in call.provider.wires for value in value_of(wire)] == [3, 1, 4, 1], "each once"
    assert _answers(call)[-1] == "You said hello there."
    told = call.provider.wires[-1].texts("USER")
    assert any("get_weather" in text and "rain in Oslo" in text for text in told)
    assert "hello there" in "\n".join(told)


def test_a_turn_that_is_cut_in_two_is_heard_whole_by_the_next_stream() -> None:
    def cut(wire: Wire) -> None:
        wire.break_()

    call = _held([_line(1.0, 1, 2.0)], 9.0, beside=_later(2.0, cut))
    assert len(call.caller.of(ConnectionLost)) == 1
    assert _answers(call) == ["You said hello there."]
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["hello there"]
    assert len(value_of(call.provider.wires[-1])) == 1
    ones = call.provider.wires[-1].audio.count(b"\x01\x00")
    assert ones == pytest.approx(2.0 * 16_000, abs=700), "all of it, once"


def test_a_stream_lost_while_it_owes_an_answer_is_replaced_and_the_turn_answered_once() -> None:
    def cut(wire: Wire) -> None:
        wire.break_()

    def slow(text: str | None, context: Any) -> Reply:
        return Reply(text=f"You said {text}.", delay_s=3.0)

    call = _held([_line(1.0, 1)], 14.0, provider=lambda: Provider(answer=slow), beside=_later(3.5, cut))
    assert _answers(call) == ["You said hello there."]
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["hello there"]


@pytest.mark.parametrize(
    "error",
    [
        StreamException("internalServerException", "x"),
        StreamException("modelStreamErrorException", "x"),
        StreamException("throttlingException", faults.THROTTLED),
        StreamException("modelTimeoutException", faults.TIMED_OUT),
        StreamException("serviceUnavailableException", "x"),
        StreamException("validationException", faults.IDLE.format(seconds=55)),
        StreamException("validationException", faults.UNSTABLE),
        TransportClosedError(),
    ],
    ids=str,
)
def test_every_end_of_a_stream_is_recovered_from(error: Exception) -> None:
    call = _held([_line(6.0, 1)], 12.0, beside=_later(2.0, lambda wire: wire.break_(error)))
    (lost,) = call.caller.of(ConnectionLost)
    assert "Nova Sonic" in lost.reason
    assert _answers(call) == ["You said hello there."]


def test_a_service_that_owes_an_answer_and_falls_silent_is_replaced() -> None:
    def silence(wire: Wire) -> None:
        wire.silent = True

    def slow(text: str | None, context: Any) -> Reply:
        return Reply(text=f"You said {text}.", delay_s=2.0)

    call = _held([_line(1.0, 1)], 25.0, provider=lambda: Provider(answer=slow), beside=_later(3.0, silence))
    (lost,) = call.caller.of(ConnectionLost)
    assert "said nothing" in lost.reason
    assert _answers(call) == ["You said hello there."]
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["hello there"]


class Marks:
    """Hears what the scripted caller says."""

    rate = 16_000
    window = 512

    def __init__(self) -> None:
        self._rest = b""
        self._at = 0

    def reset(self, position: int = 0) -> None:
        self._at, self._rest = position, b""

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        self._rest += pcm
        out = []
        while len(self._rest) >= 1024:
            self._at += 512
            out.append((self._at, 0.95 if any(self._rest[:1024]) else 0.02))
            self._rest = self._rest[1024:]
        return out


def test_ears_of_our_own_notice_a_service_that_has_gone_deaf() -> None:
    def silence(wire: Wire) -> None:
        wire.silent = True

    async def run() -> Call:
        provider = Provider()
        model = NovaSonic(connector=provider.connect, vad=Marks)  # type: ignore[arg-type]
        call = Call([_line(4.0, 1), _line(16.0, 4)], 25.0, provider, model)
        task = asyncio.ensure_future(_later(2.0, silence)(call))
        await call.run()
        await task
        return call

    call = run_virtual(run())
    (rotated,) = call.caller.of(ConnectionRotated)
    assert rotated.generation == 2
    assert _answers(call)[-1] == "You said stop please."


def test_a_service_that_takes_nothing_is_replaced() -> None:
    def deafen(wire: Wire) -> None:
        wire.deaf = True

    call = _held([_line(12.0, 1)], 20.0, beside=_later(2.0, deafen))
    (lost,) = call.caller.of(ConnectionLost)
    assert "nothing was taken for 5 s" in lost.reason
    assert _answers(call) == ["You said hello there."]


def test_a_waiting_stream_is_kept_fresh() -> None:
    """The successor is opened 60 s early, and the caller talks on: nothing may be said to it for longer than it lives."""
    lines = [_line(at, 1, 0.9) for at in range(2, 118, 4)]
    limits = StreamLimits(connection_s=120.0, audio_gap_s=10.0)
    slow = lambda text, context: Reply(text="word " * 200, delay_s=0.1)  # noqa: E731
    call = _held(lines, 130.0, provider=lambda: Provider(limits=limits, answer=slow))
    assert not call.caller.of(ConnectionLost)
    assert len(call.caller.of(ConnectionRotated)) == 1
    assert len(call.provider.wires) > 3, "streams that waited too long were replaced"
    assert sum(bool(wire.audio) for wire in call.provider.wires) == 2, "and were used by nobody"


def test_credentials_that_expire_bring_the_next_stream_in_time() -> None:
    call = _held([], 130.0, provider=lambda: Provider(life_s=100.0))
    assert not call.caller.of(ConnectionLost)
    assert call.caller.of(ConnectionRotated)


def test_a_tool_result_for_an_older_stream_goes_as_text_once() -> None:
    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        await asyncio.sleep(8.0)
        return "rain"

    call = _held(
        [_line(1.0, 3)], 25.0, tools=[get_weather], beside=_later(5.0, lambda wire: wire.break_()), filler=None
    )
    first, second = call.provider.wires
    assert not first.of("toolResult")
    assert not second.of("toolResult")
    texts = [text for text in second.texts("USER") if "get_weather answered: rain" in text]
    assert len(texts) == 1
    assert not [e for e in call.caller.of(ErrorEvent) if e.code != "model_connection"]


def test_new_instructions_come_with_a_new_stream() -> None:
    async def update(call: Call) -> None:
        await asyncio.sleep(2.0)
        await call.session.update(instructions="Speak like a pirate.", voice="amy")

    call = _held([_line(5.0, 1)], 11.0, beside=update, instructions="Be brief.")
    first, second = call.provider.wires
    assert first.texts("SYSTEM") == ["Be brief."]
    assert second.texts("SYSTEM") == ["Speak like a pirate."]
    assert second.of("promptStart")[0]["audioOutputConfiguration"]["voiceId"] == "amy"
    assert _answers(call) == ["You said hello there."]


# ---------------------------------------------------------------------- opening, options, errors


def test_what_refuses_to_open_is_told_at_once() -> None:
    async def run() -> None:
        provider = Provider()
        provider.refuse = lambda: AccessNotEnabledError("no access")
        call = Call([], 3.0, provider)
        with pytest.raises(CredentialsError, match="no access"):
            await call.run()

    run_virtual(run())


def test_a_service_that_never_answers_is_given_up_in_time() -> None:
    async def run() -> None:
        provider = Provider()

        async def connect(model: NovaSonic) -> Any:
            client = await Provider.connect(provider, model)
            client._wire.taken = asyncio.Event()  # nothing ever sets this one

            async def answered() -> None:
                await asyncio.Event().wait()

            client.answered = answered
            return client

        call = Call([], 3.0, provider, NovaSonic(connector=connect))
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ModelConnectionError, match="did not answer within 4 s"):
            async with asyncio.timeout(60):
                await call.model.open(_context(call))
        assert loop.time() - began < 6

    run_virtual(run())


def _context(call: Call) -> Any:
    from duologue.models.base import Setup

    class Alone:
        generation = 1
        speaks = True

        def __init__(self) -> None:
            self.evidence: list[Any] = []

        def report(self, evidence: Any) -> None:
            self.evidence.append(evidence)

        def setup(self) -> Setup:
            return Setup(instructions="x")

        def now(self) -> float:
            return asyncio.get_running_loop().time()

        def spawn(self, run: Any, name: str) -> None:
            task = asyncio.get_running_loop().create_task(run())
            tasks.add(task)

    tasks: set[Any] = set()
    return Alone()


@pytest.mark.parametrize(
    ("name", "text", "type"),
    [
        ("ThrottlingException", "", ModelThrottledError),
        ("ServiceQuotaExceededException", "", QuotaError),
        ("AccessDeniedException", "You don't have access to the model", AccessNotEnabledError),
        ("ResourceNotFoundException", "", UnknownModelError),
        ("ValidationException", "The provided model identifier is invalid.", UnknownModelError),
        ("UnrecognizedClientException", "", CredentialsError),
        ("com.amazon.coral#ExpiredTokenException:http://x", "", CredentialsError),
        ("validationException", faults.HISTORY, ModelRequestError),
        ("validationException", faults.BLOCKED, ModelRequestError),
        ("ModelNotReadyException", "", ModelConnectionError),
        ("somethingNew", "", ModelConnectionError),
    ],
)
def test_errors_have_types_of_their_own(name: str, text: str, type: type[Exception]) -> None:
    error = error_of_name(name, text, model="amazon.nova-2-sonic-v1:0", region="us-east-1")
    assert error.__class__ is type
    assert str(error)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temprature": 0.5}, "temperature"),
        ({"temperature": 2.0}, "0 to 1"),
        ({"max_tokens": 0}, "1 to 10000"),
        ({"endpointing_sensitivity": "SOME"}, "HIGH, MEDIUM or LOW"),
        ({"voice": "robot"}, "tiffany"),
        ({"audio": Audio(output_rate=44100)}, "24000"),
        ({"model_id": "amazon.nova-sonic-v1:0"}, "withdrawn"),
        ({"endpoint_url": "http://localhost"}, "TLS"),
    ],
)
def test_options_are_strict(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        NovaSonic(connector=Provider.connect, **options)  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="region"):
        NovaSonic(region_name="us-east-1")


def test_options_reach_the_wire() -> None:
    async def run() -> Wire:
        provider = Provider()
        model = NovaSonic(
            connector=provider.connect,
            model_id="amazon.nova-2-5-sonic",
            temperature=0.2,
            top_p=0.5,
            max_tokens=77,
            endpointing_sensitivity="LOW",
            audio=Audio(voice="lupe", output_rate=16_000, input_rate=8_000),
            tool_choice="get_time",
        )
        await Call([], 1.0, provider, model, tools=[get_time]).run()
        return provider.wires[0]

    wire = run_virtual(run())
    assert wire.of("sessionStart")[0] == {
        "inferenceConfiguration": {"maxTokens": 77, "topP": 0.5, "temperature": 0.2},
        "turnDetectionConfiguration": {"endpointingSensitivity": "LOW"},
    }
    prompt = wire.of("promptStart")[0]
    assert prompt["audioOutputConfiguration"]["voiceId"] == "lupe"
    assert prompt["audioOutputConfiguration"]["sampleRateHertz"] == 16_000
    assert prompt["toolConfiguration"]["toolChoice"] == {"tool": {"name": "get_time"}}
    (container,) = [block for block in wire.of("contentStart") if block["type"] == "AUDIO"]
    assert container["audioInputConfiguration"]["sampleRateHertz"] == 8_000


def test_raw_events_both_ways_without_a_session() -> None:
    async def run() -> tuple[list[str], list[tuple[str, str]]]:
        provider = Provider()
        wired: list[tuple[str, str]] = []
        model = NovaSonic(connector=provider.connect)
        got: list[str] = []
        async with model.connect(
            on_wire=lambda direction, frame: wired.append((direction, next(iter(json.loads(frame)["event"]))))
        ) as stream:

            async def read() -> None:
                async for event in stream:
                    got.append(type(event).__name__)
                    if isinstance(event, outputs.ContentEnd) and event.stop_reason == "END_TURN":
                        return

            reading = asyncio.ensure_future(read())
            await stream.send(inputs.SessionStart(inference_configuration=inputs.InferenceConfiguration()))
            await stream.send(inputs.PromptStart(prompt_name="p", audio_output_configuration=inputs.VoiceFormat()))
            await stream.send_payloads([stream.protocol.open_audio(16000), stream.protocol.audio(bytes(3200))])
            await stream.send_payloads(stream.protocol.text("hello"))
            await reading
            await stream.send_payloads(stream.protocol.end())
        await provider.close()
        return got, wired

    got, wired = run_virtual(run())
    assert got[0] == "CompletionStart"
    assert "AudioOutput" in got
    assert ("sent", "sessionEnd") in wired
    assert ("received", "audioOutput") in wired


def test_the_fake_is_as_strict_as_the_documentation() -> None:
    """What our client sends in all of these tests passes a server that also refuses what is only documented."""
    seen: list[bytes] = []

    async def run() -> None:
        provider = Provider(limits=StreamLimits(connection_s=30.0))
        model = NovaSonic(
            connector=provider.connect,
            limits=provider.limits,
            on_wire=lambda direction, frame: seen.append(frame) if direction == "sent" else None,  # type: ignore[arg-type,func-returns-value]
        )
        lines = [_line(1.0, 3), _line(8.0, 1)]
        await Call(lines, 14.0, provider, model, tools=[get_weather], greeting="Hi.").run()

    run_virtual(run())
    strict = ServerProtocol("amazon.nova-2-sonic-v1:0", now=0.0, strict=True)
    for frame in seen:
        event = json.loads(frame)["event"]
        result = event.get("contentStart", {}).get("toolResultInputConfiguration")
        if result is not None:
            strict.sequence.tool_asked(result["toolUseId"])
        strict.receive(frame, 0.0)
    assert strict.sequence.phase == "over"


@pytest.mark.virtual
async def test_what_the_sdk_does_not_finish_closing_is_ended_though_it_waits_again_when_cancelled() -> None:
    over = False

    async def close() -> None:  # as AWSEventPublisher.close over a link that was reset
        nonlocal over
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                over = True

    await nova_transport._bounded(close())
    await asyncio.sleep(0)
    assert over
