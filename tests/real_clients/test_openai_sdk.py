"""The vendor's own SDK, unmodified, against a served agent and a served model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from duologue import Agent, tool
from duologue.audio import resample, rms_dbfs
from duologue.models import Cascade
from duologue.serve import RunningServer, ServeOptions, serving
from duologue.speech.piper import PiperTTS
from duologue.testing.script import Script
from duologue.testing.script_model import ScriptModel
from duologue.wire.openai_realtime import ServerLimits
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, session_of, speech

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME = {"type": "function", "name": "get_time", "description": "The time.", "parameters": {"type": "object"}}


@tool
def get_weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


@asynccontextmanager
async def _served(**options: Any) -> AsyncIterator[RunningServer]:
    agent = Agent(model=Scripted(UTTERANCES, echo), tools=[get_weather], name="sdk")
    async with serving(agent, ServeOptions(port=0, studio=False, **options)) as server:
        yield server


@asynccontextmanager
async def _connected(server: RunningServer, key: str = "unused") -> AsyncIterator[AsyncRealtimeConnection]:
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1")
    async with client.realtime.connect(model="gpt-realtime") as connection:
        yield connection
    await client.close()


class Heard:
    """What a client makes of the events up to a point."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.events: list[Any] = []

    async def until(self, type: str, count: int = 1) -> Any:
        """Read on up to the next event of this type."""
        async with asyncio.timeout(20):
            while True:
                event = await self.connection.recv()
                self.events.append(event)
                if event.type == type:
                    count -= 1
                    if not count:
                        return event

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def said(self) -> str:
        return "".join(event.delta for event in self.events if event.type == "response.output_audio_transcript.delta")

    @property
    def audio(self) -> bytes:
        return b"".join(
            base64.b64decode(event.delta) for event in self.events if event.type == "response.output_audio.delta"
        )


async def _say(connection: AsyncRealtimeConnection, pcm: bytes, frame: int = 4800) -> None:
    for at in range(0, len(pcm), frame):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + frame]).decode())


async def test_a_spoken_turn_is_answered_and_transcribed() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        created = await heard.until("session.created")
        assert created.session.audio.output.voice == "alloy"
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        )
        await _say(connection, speech(0, 0.2) + speech(1, 1.0) + speech(0, 2.0))
        done = await heard.until("response.done")
        turn = [
            "session.updated",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.completed",
            "response.created",
        ]
        assert heard.types[1 : len(turn) + 1] == turn
        assert heard.said == "You said hello there."
        assert len(heard.audio) == 2 * int(len("You said hello there.") / 15 * 24_000)
        assert done.response.status == "completed"
        started = next(e for e in heard.events if e.type == "input_audio_buffer.speech_started")
        stopped = next(e for e in heard.events if e.type == "input_audio_buffer.speech_stopped")
        assert started.audio_start_ms == pytest.approx(200, abs=50)
        assert stopped.audio_end_ms == pytest.approx(1200, abs=60)


async def test_a_typed_turn_is_answered_when_the_client_asks() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "good day"}]}
        )
        await connection.response.create(response={"metadata": {"mine": "1"}})
        done = await heard.until("response.done")
        assert heard.said == "You said good day."
        assert done.response.metadata == {"mine": "1"}
        assert heard.types.count("conversation.item.added") == 2, "the question and the answer"


async def test_an_agents_tools_are_its_own() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await _say(connection, speech(3, 1.0) + speech(0, 2.0))
        done = await heard.until("response.done")
        assert heard.said == "It is rain in Oslo."
        assert [item.type for item in done.response.output] == ["message"], "one answer, whatever it took"
        assert not any("function_call" in type for type in heard.types)


async def test_a_served_model_leaves_tools_to_the_client() -> None:
    async with _served(as_model=True) as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.session.update(
            session={"type": "realtime", "instructions": "Be brief.", "tools": [WEATHER, TIME]}  # type: ignore[list-item]
        )
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "both please"}]}
        )
        await connection.response.create()
        done = await heard.until("response.done")
        calls = [item for item in done.response.output if item.type == "function_call"]
        assert [(call.name, call.arguments) for call in calls] == [
            ("get_weather", '{"city":"Oslo"}'),
            ("get_time", "{}"),
        ]
        session = session_of(server)
        assert session.setup().instructions == "Be brief."
        for call, output in zip(calls, ("sun", "noon"), strict=True):
            await connection.conversation.item.create(
                item={"type": "function_call_output", "call_id": call.call_id, "output": output}
            )
        await connection.response.create()
        await heard.until("response.done")
        assert heard.said == "It is noon."
        assert [item.text for item in session.history if item.kind == "result"] == ["sun", "noon"]


async def test_an_answer_asked_for_during_the_greeting_waits_for_its_end() -> None:
    script = Script.parse("{speed: 3, replies: [{say: You said hi.}]}")  # the greeting takes a while to be made
    agent = Agent(model=ScriptModel(script), greeting="Welcome to a long greeting.", name="sdk")
    async with serving(agent, ServeOptions(port=0, studio=False)) as server, _connected(server) as connection:
        said: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for event in connection:
                if event.type == "response.created" and not said:
                    said[event.response.id or ""] = ""
                    item: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
                    await connection.conversation.item.create(item=item)
                    await connection.response.create()
                elif event.type == "response.output_audio_transcript.done":
                    said[event.response_id] = event.transcript
                    if len(said) == 2:
                        break
                assert event.type != "error", event
    assert [text.strip() for text in said.values()] == ["Welcome to a long greeting.", "You said hi."]


async def test_a_barge_in_cancels_and_history_ends_where_the_client_stopped() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await _say(connection, speech(2, 1.0) + speech(0, 1.5))
        done = await heard.until("response.done")
        item = done.response.output[0].id
        total = len(heard.audio) // 48
        assert total > 10_000, "a burst: all of it came long before it could be played"
        await _say(connection, speech(4, 1.0))
        await heard.until("input_audio_buffer.speech_started")
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=4000)
        await heard.until("conversation.item.truncated")
        await _say(connection, speech(0, 1.5))
        await heard.until("response.done")
        history = session_of(server).history
        cut = next(entry for entry in history if entry.kind == "assistant")
        assert not cut.complete
        assert len(cut.text) == pytest.approx(60, abs=12), cut.text  # 4 s at 15 characters a second
        assert heard.said.endswith("You said stop please.")


async def test_the_client_may_keep_turns_to_itself() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})  # type: ignore[typeddict-item]
        await _say(connection, speech(1, 1.0) + speech(0, 4.0) + speech(4, 1.0))
        await connection.input_audio_buffer.commit()
        await heard.until("conversation.item.done")
        assert "response.created" not in heard.types
        assert "input_audio_buffer.speech_started" not in heard.types
        await connection.response.create()
        await heard.until("response.done")
        assert heard.said == "You said hello there stop please."


_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


async def _configure(connection: AsyncRealtimeConnection, detection: Any) -> None:
    audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": detection}}
    session: Any = {"type": "realtime", "audio": audio}
    await connection.session.update(session=session)


async def test_each_message_that_the_client_commits_is_transcribed_for_itself() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await _configure(connection, None)
        for utterance, text in ((1, "hello there"), (0, ""), (4, "stop please")):
            await _say(connection, speech(utterance, 1.0))
            await connection.input_audio_buffer.commit()
            committed = await heard.until("input_audio_buffer.committed")
            transcribed = await heard.until(_TRANSCRIBED)
            assert (transcribed.item_id, transcribed.transcript) == (committed.item_id, text)
        assert not {"response.created", "input_audio_buffer.speech_started"} & set(heard.types)
        await connection.response.create()
        await heard.until("response.done")
        assert heard.said == "You said hello there stop please."
        assert heard.types.count(_TRANSCRIBED) == 3
        assert session_of(server).history[0].text == "hello there stop please"


async def test_a_message_that_the_client_takes_back_is_not_answered() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await _configure(connection, None)
        await _say(connection, speech(4, 1.0))
        await connection.input_audio_buffer.commit()
        transcribed = await heard.until(_TRANSCRIBED)
        await connection.conversation.item.delete(item_id=transcribed.item_id)
        await heard.until("conversation.item.deleted")
        await _say(connection, speech(1, 1.0))
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        await heard.until("response.done")
        assert heard.said == "You said hello there."


@pytest.mark.parametrize("interrupts", [True, False])
async def test_a_client_that_only_keeps_answers_to_itself_is_told_of_its_turns(interrupts: bool) -> None:
    """As the vendor's detection does without `create_response`: it makes a message of each pause."""
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        detection = {"type": "server_vad", "create_response": False, "interrupt_response": interrupts}
        await _configure(connection, detection)
        for utterance, text in ((1, "hello there"), (4, "stop please")):
            await _say(connection, speech(utterance, 1.0) + speech(0, 0.3))
            before = len(heard.types)
            transcribed = await heard.until(_TRANSCRIBED)
            assert transcribed.transcript == text
            assert [kind for kind in heard.types[before:] if kind.startswith("input_audio_buffer")] == [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
            ]
        await connection.response.create()
        await heard.until("response.done")
        assert heard.said == "You said hello there stop please."
        assert heard.types.count(_TRANSCRIBED) == 2


async def test_what_is_said_over_the_agent_is_heard_once_the_client_has_silenced_it() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        detection = {"type": "server_vad", "create_response": False, "interrupt_response": False}
        await _configure(connection, detection)
        await _say(connection, speech(2, 1.0) + speech(0, 0.3))
        await heard.until(_TRANSCRIBED)
        await connection.response.create()
        done = await heard.until("response.done")
        item = done.response.output[0].id
        await _say(connection, speech(4, 1.0) + speech(0, 0.3))
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=1000)
        await heard.until("conversation.item.truncated")
        await _say(connection, speech(0, 0.3))
        assert (await heard.until(_TRANSCRIBED)).transcript == "stop please"


async def test_cancel_ends_the_answer_and_the_link_goes_on() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.response.cancel()
        error = await heard.until("error")
        assert error.error.code == "response_cancel_not_active"
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a story"}]}
        )
        await connection.response.create()
        await heard.until("response.created")
        await connection.response.cancel()
        done = await heard.until("response.done")
        assert (done.response.status, done.response.status_details.reason) == ("cancelled", "client_cancelled")
        await connection.response.create(response={"instructions": "Go on."})
        assert (await heard.until("response.done")).response.status == "completed"


async def test_a_text_session_has_text() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
        )
        await connection.response.create()
        done = await heard.until("response.done")
        assert done.response.output[0].content[0].text == "You said hi."
        assert not heard.audio


async def test_telephone_audio_both_ways() -> None:
    async with _served() as server, _connected(server) as connection:
        heard = Heard(connection)
        await connection.session.update(
            session={
                "type": "realtime",
                "audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcmu"}}},
            }
        )
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
        )
        await connection.response.create()
        await heard.until("response.done")
        assert len(heard.audio) == pytest.approx(len("You said hi.") / 15 * 8000, abs=40)


async def test_a_key_is_wanted_where_one_is_set_and_a_client_secret_will_do() -> None:
    async with _served(key="sesame") as server:
        with pytest.raises(Exception, match="401"):
            async with _connected(server, key="wrong"):
                pass
        client = openai.AsyncOpenAI(api_key="sesame", base_url=f"{server.url}/v1")
        secret = await client.realtime.client_secrets.create(
            session={"type": "realtime", "audio": {"output": {"voice": "marin"}}}
        )
        assert secret.value.startswith("ek_")
        async with _connected(server, key=secret.value) as connection:
            created = await Heard(connection).until("session.created")
            assert created.session.audio.output.voice == "marin"
        await client.close()


async def test_a_session_that_is_too_old_ends_as_the_vendor_ends_it() -> None:
    async with _served(openai=ServerLimits(session_s=1.0)) as server, _connected(server) as connection:
        heard = Heard(connection)
        error = await heard.until("error")
        assert error.error.code == "session_expired"
        with pytest.raises(Exception, match="1001"):
            await heard.until("never")


@tool(examples=["what's my next stop", "where do I go next"])
async def next_stop() -> str:
    """The driver's next delivery address."""
    return "12 Harbour Street"


async def test_real_speech_is_recognised_and_answered_in_real_speech() -> None:
    tts = PiperTTS()
    spoken = b"".join([resample(c.pcm, c.rate, 24_000) async for c in tts.synthesize("What's my next stop?")])
    await tts.close()
    agent = Agent(model=Cascade.local("phrase"), tools=[next_stop])
    async with serving(agent, ServeOptions(port=0, studio=False)) as server, _connected(server) as connection:
        heard = Heard(connection)
        await _say(connection, bytes(24_000) + spoken + bytes(96_000))
        done = await heard.until("response.done")
        assert done.response.status == "completed"
        assert "Harbour Street" in heard.said
        assert len(heard.audio) > 48_000
        assert rms_dbfs(heard.audio) > -40
        words = [item.text for item in session_of(server).history if item.kind == "user"]
        assert "next stop" in words[0].lower()
