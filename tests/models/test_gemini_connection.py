"""One connection to Gemini Live against a service that is played by hand: what ours does not do, and the vendor's does."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from duologue.engine.conversation import Item
from duologue.errors import ModelError
from duologue.models import GeminiLive
from duologue.models import base as b
from duologue.models.transport import TransportClosedError
from duologue.speech.vad import EnergyVAD
from duologue.testing.clock import run_virtual
from duologue.tools.base import ToolSpec

MANUAL = {"automatic_activity_detection": {"disabled": True}, "vad": lambda: EnergyVAD(threshold_dbfs=-100.0)}
FRAME = 320


class Service:
    """The other end, as a transport and as the session around the connection: it answers nothing by itself."""

    generation = 1

    def __init__(self, *, speaks: bool = True, **options: Any) -> None:
        self.speaks = speaks
        self.memory: dict[str, Any] = {}
        self.evidence: list[b.Evidence] = []
        self.items: list[Item] = []
        self.turn = ""
        self.model = GeminiLive(connector=self._connect, **options)
        self._down: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue()
        self._sent: list[dict[str, Any]] = []
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._position = 0
        self.connection: Any = None

    async def _connect(self, model: GeminiLive) -> Any:
        return self

    async def open(self) -> Any:
        self._down.put_nowait('{"setupComplete":{}}')
        self.connection = await self.model.open(self)  # type: ignore[arg-type]
        self.connection.begin(self.items)
        await self.flows()
        self.sent()
        return self.connection

    # the transport

    async def send(self, message: str) -> None:
        self._sent.append(json.loads(message))

    async def receive(self) -> str:
        got = await self._down.get()
        if isinstance(got, tuple):
            raise TransportClosedError(*got)
        return got

    async def close(self) -> None:
        self._down.put_nowait((1000, ""))

    # the context

    def report(self, evidence: b.Evidence) -> None:
        self.evidence.append(evidence)
        if isinstance(evidence, b.ProviderCommitted):
            # The floor answers the provider's word with a commit.
            self._count += 1
            self.connection.commit(f"t{self._count}")

    def next_response(self) -> str:
        self._count += 1
        return f"r{self._count}"

    def history(self) -> list[Item]:
        return self.items

    def setup(self) -> b.Setup:
        return b.Setup(tools=(ToolSpec(name="f"),))

    async def room(self, response: str) -> None: ...

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            await run()

        self._tasks.append(asyncio.ensure_future(guarded()))

    # what a test does

    async def flows(self, seconds: float = 0.01) -> None:
        await asyncio.sleep(seconds)

    async def says(self, *messages: dict[str, Any]) -> list[str]:
        """The service sends these; the evidence that they amount to."""
        self.evidence.clear()
        for message in messages:
            self._down.put_nowait(json.dumps(message))
        await self.flows()
        return self.told()

    def told(self) -> list[str]:
        return [type(entry).__name__ for entry in self.evidence]

    def sent(self) -> list[dict[str, Any]]:
        """What was sent since the last time, audio as its count."""
        out: list[dict[str, Any]] = []
        for message in self._sent:
            if "audio" in message.get("realtimeInput", {}):
                if not out or "audio" not in out[-1]:
                    out.append({"audio": 0})
                out[-1]["audio"] += 1
            else:
                out.append(message.get("realtimeInput", message))
        self._sent.clear()
        return out

    async def hears(self, seconds: float, level: int = 1000) -> None:
        """The user's microphone."""
        for _ in range(int(seconds * 50)):
            self.connection.audio(struct.pack("<h", level) * FRAME, self._position)
            self._position += FRAME
        await self.flows()


def content(**fields: Any) -> dict[str, Any]:
    return {"serverContent": fields}


def audio(samples: int = 240, rate: int = 24_000) -> dict[str, Any]:
    data = base64.b64encode(bytes(samples * 2)).decode()
    return content(modelTurn={"parts": [{"inlineData": {"mimeType": f"audio/pcm;rate={rate}", "data": data}}]})


OVER = content(turnComplete=True)
BLOCKING = {"function_behavior": "BLOCKING"}
HEARD = content(inputTranscription={"text": " hello"})


def played(script: Callable[[Service], Coroutine[Any, Any, None]], **options: Any) -> Service:
    async def run() -> Service:
        service = Service(**options)
        await service.open()
        await script(service)
        await service.connection.close()
        await asyncio.gather(*service._tasks)
        return service

    return run_virtual(run())


# ---------------------------------------------------------------------- the provider decides


def test_words_an_answer_and_its_end() -> None:
    async def script(service: Service) -> None:
        assert await service.says(HEARD) == ["ProviderSpeech", "Recognised"]
        told = await service.says(audio(), content(outputTranscription={"text": "Hi."}))
        assert told == ["Recognised", "ProviderSpeech", "ProviderCommitted", "Began", "Spoke", "Said"]
        began = service.evidence[3]
        assert isinstance(began, b.Began)
        assert began.turn == "t1"
        assert await service.says(content(generationComplete=True)) == []
        assert await service.says(OVER) == ["Ended"]

    played(script)


def test_an_answer_ends_although_its_turn_does_not() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio(), content(generationComplete=True))
        await service.flows(0.4)
        assert service.told()[-1] == "Ended", "turnComplete may lag for as long as the audio is assumed to play"
        assert await service.says(content(outputTranscription={"text": "more"}), OVER) == []

    played(script)


def test_words_that_trail_belong_to_the_turn_that_is_answered() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio())
        await service.says(content(inputTranscription={"text": " there"}))
        (late,) = service.evidence
        assert late == b.Recognised(text="hello there", final=True, turn="t1")
        await service.says(content(generationComplete=True), OVER)
        assert await service.says(content(inputTranscription={"text": "next"})) == ["ProviderSpeech", "Recognised"]

    played(script)


def test_words_after_an_interruption_are_the_next_turn() -> None:
    async def script(service: Service) -> None:
        told = await service.says(HEARD, audio(), content(interrupted=True), OVER)
        assert told[-3:] == ["ProviderSpeech", "ProviderSpeech", "Ended"]
        facts = [entry.fact for entry in service.evidence if isinstance(entry, b.ProviderSpeech)]
        assert facts == ["started", "stopped", "interrupted", "started"]
        await service.says(content(inputTranscription={"text": "wait"}))
        assert service.evidence == [b.Recognised(text="wait")]

    played(script)


def test_an_interruption_that_nothing_follows_was_none() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio(), content(interrupted=True), OVER)
        await service.flows(13)
        assert isinstance(service.evidence[-1], b.ProviderSpeech)
        assert service.evidence[-1].fact == "discarded"
        service.connection.say("s1", "Hello?", "idle")
        await service.flows()
        assert "text" in service.sent()[-1], "it may speak again"

    played(script)


def test_what_the_service_says_of_speech_itself() -> None:
    def activity(kind: str, offset: str) -> dict[str, Any]:
        return {"voiceActivity": {"voiceActivityType": f"ACTIVITY_{kind}", "audioOffset": offset}}

    async def script(service: Service) -> None:
        service._position = 16_000
        await service.hears(1.0, level=0)
        await service.says(activity("START", "0.5s"), activity("END", "0.75s"))
        assert service.evidence == [
            b.ProviderSpeech(fact="started", position=24_000),
            b.ProviderSpeech(fact="stopped", position=28_000),
        ]

    played(script)


def test_an_answer_to_what_nobody_could_write_down() -> None:
    async def script(service: Service) -> None:
        told = await service.says(audio())
        assert told == ["ProviderSpeech", "ProviderSpeech", "ProviderCommitted", "Began", "Spoke"]

    played(script, input_audio_transcription=False)


def test_thoughts_are_not_spoken_and_interim_words_are_not_final() -> None:
    async def script(service: Service) -> None:
        thought = {"modelTurn": {"parts": [{"text": "Hm.", "thought": True}]}}
        interim = {"interimInputTranscription": {"text": "hel"}}
        assert await service.says(content(**thought), content(**interim)) == ["ProviderSpeech", "Recognised"]

    played(script)


def test_audio_at_another_rate_is_brought_to_ours() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio(480, 48_000), audio(480, 48_000), content(generationComplete=True), OVER)
        samples = sum(len(entry.pcm) // 2 for entry in service.evidence if isinstance(entry, b.Spoke))
        assert samples == pytest.approx(480, abs=2)

    played(script)


def test_text_answers_and_unheard_ones() -> None:
    async def script(service: Service) -> None:
        told = await service.says(HEARD, content(modelTurn={"parts": [{"text": "Hi."}]}), audio())
        assert "Said" in told
        assert ("Spoke" in told) is service.speaks

    played(script, response_modalities=("TEXT",))
    played(script, speaks=False)


def test_a_service_that_says_nothing_answers_nothing() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, OVER)
        assert service.evidence[-1] == b.ProviderSpeech(fact="discarded", position=0)
        service.connection.text("t9", "typed")
        service.connection.commit("t9")
        assert await service.says(OVER) == ["Began", "Ended"]
        service.connection.say("s1", "Hello.", "say")
        await service.flows()
        await service.says(content(turnComplete=True, turnCompleteReason="RESPONSE_REJECTED"))
        (ended,) = service.evidence
        assert isinstance(ended, b.Ended)
        assert ended.status == "failed"
        assert "RESPONSE_REJECTED" in str(ended.error)

    played(script)


# ---------------------------------------------------------------------- answers that are asked for


def test_one_thing_is_asked_for_at_a_time() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        connection.say("s1", "One.", "say")
        connection.say("s2", "Two.", "say")
        await service.flows()
        assert len(service.sent()) == 1
        await service.says(audio(), content(generationComplete=True))
        assert service.sent() == []
        await service.says(OVER)
        assert [entry.response for entry in service.evidence if isinstance(entry, b.Ended)] == ["s1"]
        assert service.sent()[0]["text"].endswith("Two.")

    played(script)


def test_what_nobody_wants_any_more_is_dropped_up_to_the_end_of_its_turn() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.says(HEARD, audio())
        began = next(entry for entry in service.evidence if isinstance(entry, b.Began))
        connection.cancel(began.response)
        assert isinstance(service.evidence[-1], b.Ended)
        called = {"toolCall": {"functionCalls": [{"id": "c", "name": "f", "args": {}}]}}
        service.sent()
        assert await service.says(audio(), called, content(outputTranscription={"text": "x"})) == []
        (refused,) = service.sent()
        assert "error" in refused["toolResponse"]["functionResponses"][0]["response"], "the model waits for it"
        assert (await service.says(OVER, HEARD, audio()))[-1] == "Spoke"

    played(script)


def test_what_was_asked_for_and_not_begun_can_be_taken_back() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        connection.say("s1", "One.", "say")
        connection.respond("r9", "Be kind.", "idle")
        await service.flows()
        connection.cancel("s1")
        connection.cancel("r9")
        assert await service.says(audio(), OVER) == []
        assert len(service.sent()) == 1
        assert (await service.says(HEARD, audio()))[-1] == "Spoke"

    played(script)


def test_a_typed_turn_takes_back_what_was_asked_for_before() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        connection.say("s1", "Are you there?", "idle")
        await service.flows()
        connection.text("t5", "yes")
        connection.commit("t5")
        ended = [entry for entry in service.evidence if isinstance(entry, b.Ended)]
        assert [(entry.response, entry.status) for entry in ended] == [("s1", "cancelled")]
        await service.flows()
        assert service.sent()[-1] == {"text": "yes"}

    played(script)


# ---------------------------------------------------------------------- tools


CALLED = {"toolCall": {"functionCalls": [{"id": "a", "name": "f", "args": {"x": 1}}, {"id": "b", "name": "f"}]}}


def test_calls_end_their_answer_and_results_begin_another() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        told = await service.says(HEARD, CALLED)
        assert told[-4:] == ["Began", "ToolRequested", "ToolRequested", "Ended"]
        connection.say("f1", "One moment.", "filler")
        assert [type(entry) for entry in service.evidence[-2:]] == [b.Began, b.Ended], "it is blocked by its calls"
        connection.tool_result("a", "f", '{"y":2}', error=False)
        connection.respond("r8", "", "tool")
        assert service.evidence[-1] == b.Ended(response="r8"), "the other one is still out"
        connection.tool_result("b", "f", "broken", error=True)
        connection.respond("r9", "", "tool")
        await service.flows()
        sent = [message["toolResponse"]["functionResponses"][0] for message in service.sent()]
        assert [(entry["id"], entry["response"]) for entry in sent] == [
            ("a", {"output": {"y": 2}}),
            ("b", {"error": "broken"}),
        ]
        assert await service.says(audio()) == ["Spoke"]
        assert isinstance(service.evidence[0], b.Spoke)
        assert service.evidence[0].response == "r9"

    played(script, **BLOCKING)


def test_the_conversation_goes_on_beside_calls() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        told = await service.says(HEARD, CALLED, audio(), OVER)
        assert told[-6:] == ["ToolRequested", "ToolRequested", "Ended", "Began", "Spoke", "Ended"]
        began = next(entry for entry in service.evidence[::-1] if isinstance(entry, b.Began))
        assert (began.origin, began.turn) == ("respond", ""), "it may speak on in its turn; nobody asked for that"
        service.sent()
        connection.say("f1", "One moment.", "filler")
        await service.flows()
        assert service.sent(), "it is not blocked by its calls"
        await service.says(audio(), OVER)
        for call in "ab":
            connection.tool_result(call, "f", "1", error=False)
        await service.flows()
        assert service.sent() == [], "it would speak of the first without the second"
        told = await service.says(content(inputTranscription={"text": " and now"}))
        connection.commit("t2")
        await service.says(audio(), OVER)
        began = next(entry for entry in service.evidence if isinstance(entry, b.Began))
        assert began.turn == "t2"
        connection.respond("r9", "", "tool")
        await service.flows()
        (results,) = [
            message["toolResponse"]["functionResponses"] for message in service.sent() if "toolResponse" in message
        ]
        assert [(entry["id"], entry.get("scheduling")) for entry in results] == [("a", None), ("b", None)]
        assert await service.says(audio(), OVER) == ["Spoke", "Ended"]
        assert isinstance(service.evidence[0], b.Spoke)
        assert service.evidence[0].response == "r9"

    played(script)


def test_an_answer_to_results_that_the_user_came_before_is_waited_for_once() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.says(HEARD, CALLED, OVER)
        for call in "ab":
            connection.tool_result(call, "f", "1", error=False)
        connection.respond("r9", "", "tool")
        for turn in ("t2", "t3"):
            assert b.Ended(response="r9") not in service.evidence
            await service.says(content(inputTranscription={"text": " and now"}))
            connection.commit(turn)
            ended = b.Ended(response="r9") in service.evidence
            await service.says(audio(), OVER)
        assert ended, "it has been spoken of with something else"

    played(script)


def test_results_that_are_told_in_other_words_are_not_spoken_of_by_themselves() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.says(HEARD, CALLED, OVER)
        for call in "ab":
            connection.tool_result(call, "f", "1", error=False)
        connection.respond("r9", "be brief", "tool")
        await service.flows()
        results, told = service.sent()[-2:]
        assert [entry["scheduling"] for entry in results["toolResponse"]["functionResponses"]] == ["SILENT"] * 2
        assert "be brief" in told["text"]

    played(script)


def test_a_model_that_speaks_of_a_result_before_it_is_asked_to() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, CALLED)
        for call in "ab":
            service.connection.tool_result(call, "f", "1", error=False)
        told = await service.says(audio())
        assert told == ["Began", "Spoke"]
        began = service.evidence[0]
        assert isinstance(began, b.Began)
        assert (began.origin, began.turn) == ("tool", "")
        service.connection.respond("r9", "", "tool")
        assert service.evidence[-1] == b.Ended(response="r9"), "it has been spoken of"

    played(script, **BLOCKING)


def test_calls_that_are_withdrawn_are_not_answered() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, CALLED)
        await service.says({"toolCallCancellation": {"ids": ["a", "b"]}})
        assert service.evidence == [b.ToolWithdrawn(calls=("a", "b"))]
        service.sent()
        service.connection.tool_result("a", "f", "late", error=False)
        await service.flows()
        assert service.sent() == []
        service.connection.respond("r9", "", "tool")
        await service.says(OVER)
        assert service.sent()[-1] == {"text": "[The tool f answered: late]"}

    played(script)


def test_results_that_come_while_the_user_speaks_wait_where_the_engine_decides() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.hears(0.3)
        connection.commit("t1")
        await service.says(CALLED)
        connection.turns.take_floor()
        await service.hears(0.3)
        connection.turns.take_floor()
        await service.hears(0.1)
        service.sent()
        for call in "ab":
            connection.tool_result(call, "f", "1", error=False)
        await service.flows()
        assert service.sent() == []
        connection.commit("t2")
        await service.flows()
        sent = service.sent()
        assert len(sent[0]["toolResponse"]["functionResponses"]) == 2
        assert sent[1] == {"activityEnd": {}}

    played(script, **MANUAL, **BLOCKING)


# ---------------------------------------------------------------------- the engine decides


def test_activity_follows_the_floor() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.hears(1.0, level=0)
        assert service.sent() == []
        await service.hears(0.5)
        (start, frames) = service.sent()
        assert start == {"activityStart": {}}
        assert frames["audio"] > 25, "and a little from before it began"
        connection.prepare("t1", reply=True)
        await service.says(HEARD)
        assert service.told() == ["TurnProbability", "Recognised"], "what is transcribed late counts at once"
        connection.commit("t1")
        await service.flows()
        assert service.sent() == [{"activityEnd": {}}]
        told = await service.says(content(inputTranscription={"text": " there"}), audio())
        assert told == ["Recognised", "Began", "Spoke"]
        assert service.evidence[0] == b.Recognised(text="hello there", final=True, turn="t1")

    played(script, **MANUAL)


def test_a_turn_that_goes_on_cuts_the_answer_that_was_begun() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        await service.hears(0.5)
        await service.says(HEARD)
        connection.commit("t1")
        await service.says(audio())
        service.sent()
        connection.reopen("t1")
        assert service.evidence[-1] == b.Ended(response="r1", status="cancelled")
        await service.hears(0.3)
        assert service.sent()[0] == {"activityStart": {}}
        await service.says(content(interrupted=True), OVER, content(inputTranscription={"text": " again"}))
        assert service.evidence == [b.Recognised(text="hello again")]
        connection.commit("t1")
        assert (await service.says(audio()))[0] == "Began"

    played(script, **MANUAL)


def test_a_sound_that_is_no_turn_leaves_the_activity_open_for_the_next() -> None:
    async def script(service: Service) -> None:
        await service.hears(0.2)
        await service.hears(0.2, level=0)
        service.connection.discard("t1")
        service.sent()
        await service.hears(1.0, level=0)
        assert service.sent() == [], "silence is not sent"
        await service.hears(0.3)
        (frames,) = service.sent()
        assert frames["audio"] > 15, "it goes on in the activity that is open"

    played(script, **MANUAL)


def test_a_sound_that_the_floor_never_noticed_ends_by_itself() -> None:
    async def script(service: Service) -> None:
        await service.hears(0.04)
        await service.hears(2.0, level=0)
        service.sent()
        assert not service.connection.turns.busy
        service.connection.say("s1", "Hello.", "say")
        await service.flows()
        assert [next(iter(message)) for message in service.sent()] == ["text", "activityEnd"]

    played(script, **MANUAL)


def test_the_users_audio_is_held_while_the_model_speaks_until_the_floor_is_theirs() -> None:
    async def script(service: Service) -> None:
        connection = service.connection
        connection.say("s1", "Hello.", "greeting")
        await service.says(audio())
        service.sent()
        await service.hears(0.6)
        assert service.sent() == []
        connection.truncate("s1", 100)
        await service.flows()
        start, frames = service.sent()
        assert start == {"activityStart": {}}
        assert frames["audio"] >= 30

    played(script, **MANUAL)


def test_a_turn_with_nothing_in_it_is_answered_with_nothing() -> None:
    async def script(service: Service) -> None:
        service.connection.commit("t1")
        assert service.told() == ["Began", "Ended"]
        assert service.sent() == []

    played(script, **MANUAL)


# ---------------------------------------------------------------------- context


def test_context_waits_until_it_interrupts_nobody() -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio())
        service.sent()
        service.connection.item(Item(kind="note", text="rain"))
        await service.flows()
        assert service.sent() == []
        await service.says(content(generationComplete=True), OVER)
        assert service.sent() == [{"clientContent": {"turns": [{"parts": [{"text": "[Context: rain]"}]}]}}]

    played(script)


def test_context_goes_with_the_next_text_where_client_content_is_for_history_alone() -> None:
    async def script(service: Service) -> None:
        service.connection.item(Item(kind="note", text="rain"))
        await service.flows()
        assert service.sent() == []
        service.connection.text("t1", "hello")
        service.connection.commit("t1")
        await service.flows()
        assert service.sent() == [{"text": "[Context: rain]\nhello"}]

    played(script, model="gemini-3.1-flash-live")


def test_a_handle_stands_for_what_the_provider_knew_when_it_came() -> None:
    async def open_again(service: Service) -> list[dict[str, Any]]:
        service._down.put_nowait('{"setupComplete":{}}')
        service.connection = await service.model.open(service)  # type: ignore[arg-type]
        (setup,) = service.sent()
        assert setup["setup"]["sessionResumption"] == {"handle": "h-1"}
        service.connection.begin(service.items)
        await service.flows()
        return service.sent()

    async def run() -> None:
        service = Service()
        await service.open()
        service.items.append(Item(kind="user", id="t1", text="hello"))
        await service.says({"sessionResumptionUpdate": {"newHandle": "h-1", "resumable": True}})
        service.items.append(Item(kind="user", id="t2", text="later"))
        await service.connection.close()
        await asyncio.gather(*service._tasks)
        while not service._down.empty():
            service._down.get_nowait()
        assert await open_again(service) == [{"clientContent": {"turns": [{"parts": [{"text": "later"}]}]}}]
        await service.connection.close()

    run_virtual(run())


# ---------------------------------------------------------------------- the link


@pytest.mark.parametrize(("code", "reason"), [(1011, "Internal error encountered."), (1000, ""), (1006, "")])
def test_a_link_that_ends_is_lost(code: int, reason: str) -> None:
    async def script(service: Service) -> None:
        await service.says(HEARD, audio(), content(generationComplete=True))
        service._down.put_nowait((code, reason))
        await service.flows()
        assert service.told()[-2:] == ["Ended", "Lost"], "an answer that was whole is over, not cut"
        lost = service.evidence[-1]
        assert isinstance(lost, b.Lost)
        assert isinstance(lost.error, ModelError)
        assert lost.error.retryable
        service.connection.audio(bytes(640), 0)
        service.connection.image(b"x", "image/png")
        service.connection.say("s", "x", "say")
        service.connection.commit("t")
        service.connection.tool_result("a", "f", "x", error=False)
        service.connection.update(b.Setup())

    played(script)


def test_what_is_no_message_is_left_out() -> None:
    async def script(service: Service) -> None:
        service._down.put_nowait("garbage")
        assert (await service.says(HEARD))[-1] == "Recognised"
        assert service.connection.protocol.malformed == 1

    played(script)


def test_going_away_and_usage() -> None:
    async def script(service: Service) -> None:
        usage = {"promptTokenCount": 5, "responseTokenCount": 7, "thoughtsTokenCount": 2, "totalTokenCount": 14}
        await service.says({"goAway": {"timeLeft": "50s"}, "usageMetadata": usage})
        ending, used = service.evidence
        assert ending == b.Ending(in_s=50.0, reason="the provider goes away")
        assert isinstance(used, b.UsageEvidence)
        assert (used.input_tokens, used.output_tokens, used.details["thoughtsTokenCount"]) == (5, 9, 2)

    played(script)
