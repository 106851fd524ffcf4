"""GeminiLive in a session, against our own server of the protocol, in memory and in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from duologue import Agent, tool
from duologue.engine.conversation import Item
from duologue.errors import (
    ConfigurationError,
    CredentialsError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
    UnknownOptionError,
)
from duologue.events import (
    ActivityInput,
    ConnectionRotated,
    ImageInput,
    Interruption,
    ResponseFinished,
    SessionEnded,
    TextInput,
    ToolFinished,
    TurnCommitted,
    UsageReported,
    UserTranscript,
)
from duologue.models import Audio, GeminiLive
from duologue.models.base import Setup
from duologue.models.gemini_history import contents_of, result
from duologue.models.gemini_transport import address, error_of_close, error_of_status
from duologue.models.refusals import AccessNotEnabledError, QuotaError, UnknownModelError
from duologue.speech.vad import EnergyVAD
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Line, Reply
from duologue.tools.base import ToolSpec
from duologue.wire.gemini_live import messages as g
from tests.models.gemini_pair import Call, Provider
from tests.real_clients.scripted_server import echo

MANUAL = {"automatic_activity_detection": {"disabled": True}, "vad": lambda: EnergyVAD(threshold_dbfs=-100.0)}


def obedient(text: str | None, context: Any) -> Reply:
    """Says what it is told to say word for word; otherwise as `echo`."""
    if text is not None and text.startswith("Say exactly"):
        return Reply(text=text.split("\n\n", 1)[1])
    return echo(text, context)


def held(lines: list[Line], until_s: float, provider: dict[str, Any] | None = None, **given: Any) -> Call:
    async def run() -> Call:
        call = Call(lines, until_s, Provider(**{"answer": obedient, **(provider or {})}), **given)
        await call.run()
        return call

    return run_virtual(run())


def meanwhile(call: Call, *steps: tuple[float, Any]) -> None:
    """Hold the call, and do these things at these times."""

    async def run() -> None:
        async def act() -> None:
            for at_s, step in steps:
                await asyncio.sleep(at_s - asyncio.get_running_loop().time())
                done = step()
                if asyncio.iscoroutine(done):
                    await done

        acting = asyncio.ensure_future(act())
        await call.run()
        await acting

    run_virtual(run())


def answers(call: Call) -> list[str]:
    return [event.heard for event in call.caller.of(ResponseFinished) if event.status != "cancelled"]


def users(call: Call) -> list[str]:
    return [item.text for item in call.session.history if item.kind == "user"]


@tool
async def get_weather(city: str) -> str:
    """The weather."""
    await asyncio.sleep(0.5)
    return f"rain in {city}"


@tool
async def get_time() -> str:
    """The time."""
    return "noon"


# ---------------------------------------------------------------------- calls


@pytest.mark.parametrize("options", [{}, MANUAL], ids=["provider", "engine"])
def test_a_call_with_a_greeting_and_a_barge_in(options: dict[str, Any]) -> None:
    lines = [
        Line(at_s=3.0, utterance=1, seconds=1.0),
        Line(at_s=7.0, utterance=2, seconds=1.0),
        Line(at_s=12.0, utterance=4, seconds=1.0),
    ]
    call = held(lines, 18.0, options=options, greeting="Welcome.", instructions="Be brief.")
    assert users(call) == ["hello there", "tell me a story", "stop please"]
    greeting, first, story, last = call.caller.of(ResponseFinished)
    assert (greeting.heard, first.heard, last.heard) == ("Welcome.", "You said hello there.", "You said stop please.")
    assert story.status == "interrupted"
    assert "number 1" in story.heard
    assert "number 4" not in story.heard
    assert any(event.stage == "yield" for event in call.caller.of(Interruption))
    rendered = sum(samples for _, response, _, samples in call.caller.rendered if response == story.response)
    assert rendered / 24 == pytest.approx(story.heard_ms, abs=30)
    (setup,) = call.provider.sent(part="setup")
    assert setup["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    reasons = [event.reason for event in call.caller.of(TurnCommitted)]
    assert all(reason.startswith("provider" if not options else "turn over") for reason in reasons)
    activity = [message for message in call.provider.sent(part="realtimeInput") if "text" not in message]
    assert [next(iter(message)) for message in activity] == (["activityStart", "activityEnd"] * 4 if options else [])


def test_audio_is_sent_only_within_an_activity_where_the_engine_decides() -> None:
    call = held([Line(at_s=3.0, utterance=1, seconds=1.0)], 8.0, options=MANUAL)
    open_, sent = False, 0
    for text in call.provider.wires[0].sent:
        part = json.loads(text).get("realtimeInput", {})
        open_ = open_ or "activityStart" in part
        assert open_ or "audio" not in part
        sent += "audio" in part
        open_ = open_ and "activityEnd" not in part
    assert 40 <= sent <= 110, "a second of speech, with a little before and the pause after it"


def test_a_short_sound_over_the_agent_does_not_cut_it_where_the_engine_decides() -> None:
    lines = [Line(at_s=1.0, utterance=2, seconds=1.0), Line(at_s=5.0, utterance=4, seconds=0.2)]
    call = held(lines, 34.0, options=MANUAL)
    (story,) = call.caller.of(ResponseFinished)
    assert story.status == "completed"
    starts = [part for part in call.provider.sent(part="realtimeInput") if "activityStart" in part]
    assert len(starts) == 1, "an activity would have cut the answer"


def test_a_tool_is_run_and_spoken_of() -> None:
    call = held([Line(at_s=1.0, utterance=3, seconds=1.0)], 9.0, tools=[get_weather])
    (finished,) = call.caller.of(ToolFinished)
    assert (finished.status, finished.output) == ("ok", "rain in Oslo")
    (response,) = call.provider.sent(part="toolResponse")
    assert [(entry["name"], entry["response"]) for entry in response["functionResponses"]] == [
        ("get_weather", {"output": "rain in Oslo"})
    ]
    assert answers(call)[-1] == "It is rain in Oslo."
    (declared,) = call.provider.sent(part="setup")[0]["tools"][0]["functionDeclarations"]
    assert declared["parameters"]["properties"]["city"] == {"type": "STRING"}
    assert declared["behavior"] == "NON_BLOCKING"
    newer = GeminiLive(model="gemini-3.1-flash-live").setup(Setup(tools=(ToolSpec(name="f"),)))
    assert newer.functions[0].behavior is None, "which only 2.5 can"


def test_parallel_tools_are_answered_together() -> None:
    def answer(text: str | None, context: Any) -> Reply:
        return Reply(tools=(("get_weather", {"city": "Oslo"}), ("get_time", {}))) if text else echo(text, context)

    lines = [Line(at_s=1.0, utterance=3, seconds=1.0)]
    call = held(lines, 9.0, {"answer": answer}, tools=[get_weather, get_time])
    assert sorted(event.output for event in call.caller.of(ToolFinished)) == ["noon", "rain in Oslo"]
    (response,) = call.provider.sent(part="toolResponse")
    assert len(response["functionResponses"]) == 2
    spoken = [event for event in call.caller.of(ResponseFinished) if event.heard]
    assert len(spoken) == 1


def test_a_call_is_cancelled_when_the_user_takes_the_floor() -> None:
    """The provider cuts its answer, cancels the call that came with it, and nobody answers it."""

    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        await asyncio.sleep(60)
        return "late"

    def answer(text: str | None, context: Any) -> Reply:
        if text is not None and "weather" in text:
            story = " ".join(f"Let me see number {n}." for n in range(1, 9))
            return Reply(text=story, tools=(("get_weather", {"city": "Oslo"}),))
        return echo(text, context)

    lines = [Line(at_s=1.0, utterance=3, seconds=1.0), Line(at_s=6.0, utterance=4, seconds=1.0)]
    options = {"function_behavior": "BLOCKING"}
    call = held(lines, 14.0, {"answer": answer}, tools=[get_weather], options=options)
    (finished,) = call.caller.of(ToolFinished)
    assert finished.status == "cancelled"
    assert not call.provider.sent(part="toolResponse")
    assert answers(call)[-1] == "You said stop please."


def test_typed_turns_pictures_and_notes() -> None:
    call = Call([], 12.0, Provider(answer=obedient))
    seen: list[str] = []

    async def send() -> None:
        await call.session.send(TextInput(text="hello"))

    def note() -> None:
        call.session._connection.item(Item(kind="note", text="the battery is low"))

    def look() -> None:
        seen.extend(item.text for item in call.provider.sessions()[0].history if item.kind == "user")

    meanwhile(call, (1.0, send), (5.0, note), (6.0, look))
    assert answers(call) == ["You said hello."]
    assert call.provider.sent(part="realtimeInput") == [{"text": "hello"}]
    (content,) = call.provider.sent(part="clientContent")
    assert content["turns"] == [{"parts": [{"text": "[Context: the battery is low]"}]}]
    assert "turnComplete" not in content
    assert seen == ["hello", "[Context: the battery is low]"]


def test_a_picture_is_sent_as_video() -> None:
    call = Call([], 3.0, Provider())

    async def send() -> None:
        await call.session.send(ImageInput(data=b"\xff\xd8picture", mime="image/jpeg"))

    meanwhile(call, (1.0, send))
    (part,) = call.provider.sent(part="realtimeInput")
    assert part["video"]["mimeType"] == "image/jpeg"
    assert call.session.ended is not None
    assert call.session.ended.reason == "hangup", "what a model cannot take costs the call nothing"


def test_push_to_talk_ends_the_turn_at_once() -> None:
    call = Call([Line(at_s=1.0, utterance=1, seconds=1.0)], 8.0, Provider(), options=MANUAL)

    async def release() -> None:
        await call.session.send(ActivityInput(kind="end"))

    meanwhile(call, (2.25, release))
    (turn,) = call.caller.of(TurnCommitted)
    assert turn.at < 2.3
    assert answers(call) == ["You said hello there."]


def test_muting_ends_the_stream() -> None:
    call = Call([Line(at_s=1.0, utterance=1, seconds=1.0)], 6.0, Provider())

    async def mute() -> None:
        await call.session.send(ActivityInput(kind="mute"))

    meanwhile(call, (2.1, mute))
    assert {"audioStreamEnd": True} in call.provider.sent(part="realtimeInput")
    assert answers(call) == ["You said hello there."]


def test_an_interruption_without_words_gives_the_floor_back() -> None:
    def silent(text: str | None, context: Any) -> Reply:
        return obedient(text, context) if text else Reply()

    call = Call([Line(at_s=1.0, utterance=2, seconds=1.0)], 30.0, Provider(answer=silent), options={})
    link: list[Any] = []

    def cut() -> None:
        (session,) = call.provider.sessions()
        link.append(session)
        session.conductor.fact("interrupt", "test")

    async def ask() -> None:
        await call.session.say("Still here.")

    meanwhile(call, (5.0, cut), (18.0, ask))
    assert call.caller.of(ResponseFinished)[0].status == "interrupted"
    assert answers(call)[-1] == "Still here."


def test_usage_is_told() -> None:
    provider = Provider()
    call = Call([Line(at_s=1.0, utterance=1, seconds=1.0)], 6.0, provider)

    def count() -> None:
        from duologue.models.base import UsageEvidence

        (connection,) = provider.model.connections
        connection._context.report(UsageEvidence(input_tokens=5, output_tokens=7))

    meanwhile(call, (1.5, count))
    (usage,) = call.caller.of(UsageReported)
    assert (usage.input_tokens, usage.output_tokens, usage.details["totalTokenCount"]) == (5, 7, 12)


# ---------------------------------------------------------------------- rotation


@pytest.mark.parametrize("resumes", [True, False], ids=["by handle", "by history"])
def test_a_call_outlives_its_connections(resumes: bool) -> None:
    lines = [Line(at_s=1.0 + 5 * n, utterance=1 + n % 2 * 3, seconds=1.0) for n in range(8)]
    options = {"session_resumption": resumes, "session_s": 12.0}
    call = held(lines, 44.0, {"connection_s": 13.0, "notice_s": 1.0}, options=options, instructions="Be brief.")
    assert users(call) == ["hello there", "stop please"] * 4
    assert answers(call) == ["You said hello there.", "You said stop please."] * 4
    assert len(call.caller.of(ConnectionRotated)) >= 3
    told = call.provider.model.connections[-1]._context.history()
    said = [item.text for item in told if item.kind == "user" and not item.text.startswith("[")]
    assert said[:6] == ["hello there", "stop please"] * 3, "the last connection has the whole conversation"
    last = call.provider.sent(-1)
    if resumes:
        assert last[0]["setup"]["sessionResumption"]["handle"]
        assert said == users(call)[: len(said)], "nothing is sent twice"
    else:
        assert "sessionResumption" not in last[0]["setup"]
        (content,) = [message["clientContent"] for message in last if "clientContent" in message]
        assert content["turns"][-1].get("role", "user") == "user", "2.5 wants the user to have the last word"
        assert "turnComplete" not in content


def test_a_go_away_is_followed_in_time() -> None:
    lines = [Line(at_s=1.0, utterance=1, seconds=1.0), Line(at_s=12.0, utterance=4, seconds=1.0)]
    call = held(lines, 15.5, {"connection_s": 12.0, "notice_s": 4.0})
    (rotated,) = call.caller.of(ConnectionRotated)
    assert rotated.reason == "going away"
    assert 8.0 <= rotated.at < 12.0
    assert answers(call) == ["You said hello there.", "You said stop please."]


@pytest.mark.parametrize("options", [{}, MANUAL], ids=["provider", "engine"])
@pytest.mark.parametrize("at_s", [0.7, 1.5, 2.2, 2.7, 3.5])
def test_a_drop_at_any_point_loses_nothing(at_s: float, options: dict[str, Any]) -> None:
    lines = [Line(at_s=1.0, utterance=1, seconds=1.0), Line(at_s=10.0, utterance=4, seconds=1.0)]
    call = Call(lines, 16.0, Provider(), options=options)
    meanwhile(call, (at_s, lambda: call.provider.wires[-1].break_()))
    assert len(call.caller.of(ConnectionRotated)) == 1
    assert users(call) == ["hello there", "stop please"]
    assert answers(call)[-1] == "You said stop please."
    heard = " ".join(answers(call)[:-1])
    assert "You said hello there." in heard or (heard.startswith("You said") and "Here I am." in heard)


def test_a_handle_that_is_good_for_nothing_costs_only_the_state() -> None:
    lines = [Line(at_s=1.0, utterance=1, seconds=1.0), Line(at_s=10.0, utterance=4, seconds=1.0)]
    call = Call(lines, 16.0, Provider())

    def spoil() -> None:
        call.provider.gemini._handles._kept.clear()
        call.provider.wires[-1].break_()

    meanwhile(call, (6.0, spoil))
    assert answers(call) == ["You said hello there.", "You said stop please."]
    refused, accepted = call.provider.sent(1), call.provider.sent(2)
    assert refused[0]["setup"]["sessionResumption"]["handle"]
    assert accepted[0]["setup"]["sessionResumption"] == {}
    (content,) = [message["clientContent"] for message in accepted if "clientContent" in message]
    assert content["turns"][0]["parts"] == [{"text": "hello there"}]


def test_a_result_of_a_call_of_the_connection_before_comes_as_text() -> None:
    @tool
    async def get_weather(city: str) -> str:
        """The weather."""
        await asyncio.sleep(4)
        return f"rain in {city}"

    def answer(text: str | None, context: Any) -> Reply:
        return Reply(text="It rains.") if text and text.startswith("[") else echo(text, context)

    call = Call([Line(at_s=1.0, utterance=3, seconds=1.0)], 14.0, Provider(answer=answer), tools=[get_weather])
    meanwhile(call, (4.0, lambda: call.provider.wires[-1].break_()))
    assert not call.provider.sent(1, "toolResponse")
    texts = [part["text"] for part in call.provider.sent(1, "realtimeInput") if "text" in part]
    assert texts == ["[The tool get_weather answered: rain in Oslo]"]
    assert answers(call)[-1] == "It rains."


def test_other_instructions_come_by_rotation_or_by_an_update() -> None:
    for name, rotates in (("gemini-2.5-flash-native-audio", True), ("gemini-3.8-live", False)):
        call = Call([Line(at_s=6.0, utterance=1, seconds=1.0)], 10.0, Provider(), options={"model": name})

        async def change(call: Call = call) -> None:
            await call.session.update(instructions="Be rude.", tools=[get_time])

        meanwhile(call, (2.0, change))
        assert bool(call.caller.of(ConnectionRotated)) is rotates
        if rotates:
            told = call.provider.sent(-1, "setup")[0]
            assert told["systemInstruction"]["parts"] == [{"text": "Be rude."}]
        else:
            (update,) = call.provider.sent(-1, "contextUpdate")
            assert update["systemInstruction"]["parts"] == [{"text": "Be rude."}]
            assert [entry["name"] for entry in update["tools"]["tools"][0]["functionDeclarations"]] == ["get_time"]
        assert answers(call) == ["You said hello there."]


def test_history_of_3_comes_first_and_is_not_answered() -> None:
    lines = [Line(at_s=1.0, utterance=1, seconds=1.0), Line(at_s=10.0, utterance=4, seconds=1.0)]
    options = {"model": "gemini-3.1-flash-live", "session_resumption": False}
    call = Call(lines, 16.0, Provider(), options=options)
    meanwhile(call, (6.0, lambda: call.provider.wires[-1].break_()))
    assert answers(call) == ["You said hello there.", "You said stop please."]
    for wire in (0, 1):
        assert call.provider.sent(wire)[0]["setup"]["historyConfig"] == {"initialHistoryInClientContent": True}
    first, second = call.provider.sent(0, "clientContent"), call.provider.sent(1, "clientContent")
    assert first == [{"turnComplete": True}], "the server waits for it, even where there is no history"
    assert [turn.get("role", "user") for turn in second[0]["turns"]] == ["user", "model"]
    assert second[0]["turnComplete"] is True


def test_a_refusal_that_cannot_be_mended_ends_the_call_with_its_reason() -> None:
    call = Call([], 20.0, Provider())

    def refuse() -> None:
        call.provider.refuse = lambda: CredentialsError("The key was revoked.")
        call.provider.wires[-1].break_()

    meanwhile(call, (2.0, refuse))
    (ended,) = call.caller.of(SessionEnded)
    assert ended.reason == "error"
    assert "revoked" in ended.detail


# ---------------------------------------------------------------------- options, errors, form


def test_what_the_options_amount_to() -> None:
    model = GeminiLive(
        model="models/gemini-3.1-flash-live",
        audio=Audio(voice="Kore"),
        language_code="nb-NO",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_output_tokens=512,
        thinking={"thinking_level": "LOW"},
        media_resolution="MEDIA_RESOLUTION_LOW",
        automatic_activity_detection={"prefix_padding_ms": 20, "silence_duration_ms": 300},
        activity_handling="NO_INTERRUPTION",
        turn_coverage="TURN_INCLUDES_ALL_INPUT",
        context_window_compression={"trigger_tokens": 20000, "sliding_window": {"targetTokens": 9000}},
        enable_affective_dialog=True,
        proactive_audio=True,
        function_behavior="NON_BLOCKING",
        google_search=True,
    )
    told = Setup(instructions="Hi.", tools=(ToolSpec(name="f"),), language="nb", voice="Puck")
    setup = json.loads(g.encode(g.ClientMessage(setup=model.setup(told, "h-1"))))["setup"]
    assert setup == {
        "model": "models/gemini-3.1-flash-live",
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "maxOutputTokens": 512,
            "mediaResolution": "MEDIA_RESOLUTION_LOW",
            "speechConfig": {
                "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Puck"}},
                "languageCode": "nb-NO",
            },
            "thinkingConfig": {"thinkingLevel": "LOW"},
            "enableAffectiveDialog": True,
        },
        "systemInstruction": {"parts": [{"text": "Hi.\nSpeak the language nb."}]},
        "tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}, {"googleSearch": {}}],
        "realtimeInputConfig": {
            "automaticActivityDetection": {"prefixPaddingMs": 20, "silenceDurationMs": 300},
            "activityHandling": "NO_INTERRUPTION",
            "turnCoverage": "TURN_INCLUDES_ALL_INPUT",
        },
        "sessionResumption": {"handle": "h-1"},
        "contextWindowCompression": {"triggerTokens": 20000, "slidingWindow": {"targetTokens": 9000}},
        "inputAudioTranscription": {},
        "outputAudioTranscription": {},
        "proactivity": {"proactiveAudio": True},
        "historyConfig": {"initialHistoryInClientContent": True},
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temprature": 1}, UnknownOptionError),
        ({"automatic_activity_detection": {"silence_ms": 1}}, UnknownOptionError),
        ({"thinking": {"thinking_budget": "much"}}, ConfigurationError),
        ({"temperature": 3}, ConfigurationError),
        ({"top_p": -1}, ConfigurationError),
        ({"max_output_tokens": 0}, ConfigurationError),
        ({"activity_handling": "SOMETIMES"}, ConfigurationError),
        ({"media_resolution": "LOW"}, ConfigurationError),
        ({"response_modalities": ("AUDIO", "TEXT")}, ConfigurationError),
        ({"api_version": "v2"}, ConfigurationError),
        ({"audio": Audio(input_rate=8000)}, ConfigurationError),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        GeminiLive(**options)


def test_a_voice_that_the_vendor_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no voice"):
        Agent(model=GeminiLive(), voice="tiffany")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (1007, "API key not valid. Please pass a valid API key.", CredentialsError),
        (1008, "Method doesn't allow unregistered callers. Please use an API Key.", CredentialsError),
        (1008, "", CredentialsError),
        (1008, "models/x is not found for API version v1beta, or is not supported for bidi.", UnknownModelError),
        (1007, "Request contains an invalid argument.", ModelRequestError),
        (1011, "You exceeded your current quota, please check your plan.", QuotaError),
        (1011, "RESOURCE_EXHAUSTED: rate limit", ModelThrottledError),
        (1011, "Internal error encountered.", ModelConnectionError),
        (1006, "", ModelConnectionError),
        (1000, "", ModelConnectionError),
    ],
)
def test_closes_become_typed_errors(code: int, reason: str, kind: type[ModelError]) -> None:
    assert type(error_of_close(code, reason)) is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "", CredentialsError),
        (403, "", AccessNotEnabledError),
        (403, "API key not valid", CredentialsError),
        (429, "check your plan and billing", QuotaError),
        (400, "API key not valid", CredentialsError),
        (400, "what", ModelRequestError),
        (404, "", ModelRequestError),
        (429, "", ModelThrottledError),
        (503, "", ModelConnectionError),
    ],
)
def test_refused_handshakes_become_typed_errors(status: int, body: str, kind: type[ModelError]) -> None:
    assert type(error_of_status(status, body, "there")) is kind


def test_where_the_endpoint_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL", raising=False)
    service = "google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
    url, headers = address(None, "v1beta", "k")
    assert url == f"wss://generativelanguage.googleapis.com/ws/{service}"
    assert headers == {"x-goog-api-key": "k"}
    url, headers = address("http://localhost:80/pre", "v1alpha", "auth_tokens/t")
    assert url.startswith("ws://localhost:80/pre/ws/")
    assert url.endswith("v1alpha.GenerativeService.BidiGenerateContentConstrained")
    assert headers == {"Authorization": "Token auth_tokens/t"}
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://proxy")
    assert address(None, "v1", "k")[0].startswith("wss://proxy/ws/")
    with pytest.raises(ConfigurationError):
        address("localhost:80", "v1", "k")


def test_a_history_of_everything() -> None:
    history = [
        Item(kind="assistant", id="r1", text="Hello."),
        Item(kind="user", id="t1", text="And the weather?"),
        Item(kind="call", id="c1", name="f", arguments={"city": "Oslo"}),
        Item(kind="result", id="c1", name="f", text="rain"),
        Item(kind="assistant", id="r2", text="It rai", complete=False),
        Item(kind="note", text="low battery"),
        Item(kind="user", id="i1", image=b"\xff\xd8", mime="image/jpeg"),
        Item(kind="call", id="c2", name="g", complete=False),
        Item(kind="assistant", id="r3"),
    ]
    turns = contents_of(history)
    assert [turn.role for turn in turns] == ["model", "user", "model", "user"]
    texts = [part.text for part in turns[1].parts]
    assert texts == ["And the weather?", '[The tool f with {"city":"Oslo"} answered: rain]']
    assert turns[2].text == "It rai …"
    assert turns[3].parts[1].inline_data == g.Blob(mime_type="image/jpeg", data=b"\xff\xd8")
    assert turns[3].parts[2].text == "[The tool g was started; its result will follow.]"
    assert contents_of(history[:1], user_last=True)[-1].role == "user"
    assert contents_of([], user_last=True) == []


def test_results_are_told_under_the_vendors_names() -> None:
    assert result('{"a":1}', error=False) == {"output": {"a": 1}}
    assert result("plain", error=False) == {"output": "plain"}
    assert result("broken", error=True) == {"error": "broken"}


def test_every_frame_can_be_watched() -> None:
    frames: list[tuple[str, dict[str, Any]]] = []

    async def run() -> None:
        provider = Provider()
        model = GeminiLive(
            connector=provider.connect, on_wire=lambda direction, frame: frames.append((direction, json.loads(frame)))
        )
        async with model.connect() as connection:
            async for message in connection:
                assert isinstance(message, g.ServerMessage)
                if message.setup_complete is not None:
                    await connection.send(g.ClientMessage(realtime_input=g.RealtimeInput(text="hello")))
                elif message.server_content is not None and message.server_content.turn_complete:
                    break
        await provider.close()

    run_virtual(run())
    assert frames[0][0] == "sent"
    assert "setup" in frames[0][1]
    assert frames[1] == ("received", frames[1][1])
    assert "setupComplete" in frames[1][1]
    assert any("modelTurn" in message.get("serverContent", {}) for _, message in frames)


def test_transcripts_are_told_before_the_turn_is_over_where_the_engine_decides() -> None:
    call = held([Line(at_s=1.0, utterance=1, seconds=1.0)], 6.0, options=MANUAL)
    told = call.caller.of(UserTranscript)
    (committed,) = call.caller.of(TurnCommitted)
    assert told[0].text == "hello there"
    assert told[0].at < committed.at
    assert committed.text == "hello there"
