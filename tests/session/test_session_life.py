"""A session's life: starting, the program's interface, stopping from anywhere, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from duologue.channels.base import Channel, Port, Traits
from duologue.channels.program import Program
from duologue.errors import (
    AudioFormatError,
    ConfigurationError,
    ModelConnectionError,
    OverloadedError,
    SessionClosedError,
    UnsupportedInputError,
)
from duologue.events import (
    AudioInput,
    ErrorEvent,
    Event,
    ImageInput,
    InterruptInput,
    ResponseAudio,
    ResponseFinished,
    ResponseHeard,
    SensorInput,
    SessionEnded,
    SessionStarted,
    TurnCommitted,
)
from duologue.models.base import Connection, Context
from duologue.session.definition import Definition
from duologue.session.session import Session
from duologue.testing.scripted import Reply, ScriptedModel
from tests.session.calls import LONG, SHORT, STOP, Call, hold, line, make, run

pytestmark = pytest.mark.virtual


def long_answer(text: str | None, context: Context) -> Reply:
    return Reply(text=LONG)


def others() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def test_nothing_is_left_behind() -> None:
    await run(make([line(1.0, STOP, 1.0)], long_answer, until_s=5, greeting="Hello."))
    await asyncio.sleep(0)
    assert others() == set()


async def stop_twice(call: Call) -> None:
    await call.session.stop()
    await call.session.stop()


async def stop_at_once_from_many(call: Call) -> None:
    await asyncio.gather(*(call.session.stop() for _ in range(5)))


async def stop_while_receiving(call: Call) -> None:
    async for event in call.session.receive():
        if isinstance(event, ResponseHeard):
            await call.session.stop()


async def stop_from_another_thread(call: Call) -> None:
    await asyncio.to_thread(lambda: asyncio.run(call.session.stop()))


async def cancel_the_waiter(call: Call) -> None:
    waiter = asyncio.create_task(call.session.stop())
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait({waiter})
    await call.session.stop()


@pytest.mark.parametrize(
    "stop", [stop_twice, stop_at_once_from_many, stop_while_receiving, stop_from_another_thread, cancel_the_waiter]
)
async def test_stop_is_safe(stop: Callable[[Call], Awaitable[None]]) -> None:
    call = make(until_s=60, greeting=LONG)
    await call.session.start()
    await hold(call, 1.0)
    async with asyncio.timeout(10):
        await stop(call)
    assert call.session.ended is not None
    assert call.session.ended.reason == "stopped"
    assert [type(event) for event in call.caller.events].count(SessionEnded) == 1
    assert call.caller.events[-1] == call.session.ended
    (greeting,) = call.finished("greeting")
    assert greeting.status == "cancelled"
    assert greeting.heard
    assert LONG.startswith(greeting.heard)
    await asyncio.sleep(1)
    assert others() == set()


async def test_stop_before_the_start_is_nothing_and_after_the_end_too() -> None:
    call = make(until_s=1)
    await call.session.stop()
    await run(call)
    await call.session.stop()


async def test_stopping_inside_a_channel_ends_the_session() -> None:
    class Impatient(Channel):
        name = "impatient"

        @property
        def traits(self) -> Traits:
            return Traits(essential=False)

        def event(self, event: Event, encoded: bytes) -> None: ...

        async def run(self) -> None:
            await asyncio.sleep(1)
            await call.session.stop()

    call = make(until_s=60, channels=[Impatient()])
    await run(call)
    assert call.session.ended is not None
    assert call.session.ended.at == pytest.approx(1.0, abs=0.1)


async def test_after_the_end_everything_says_so() -> None:
    call = await run(make(until_s=1))
    session = call.session
    for attempt in (
        session.send("hello"),
        session.say("hello"),
        session.respond("hello"),
        session.interrupt(),
        session.update(instructions="x"),
    ):
        with pytest.raises(SessionClosedError):
            await attempt
    with pytest.raises(SessionClosedError):
        await session.start()
    async with asyncio.timeout(1):
        assert isinstance([event async for event in session.receive()][-1], SessionEnded), "what was not read yet"
        assert [event async for event in session.receive()] == [], "and then it ends"


async def test_a_model_that_cannot_be_opened_is_the_starters_error() -> None:
    class Unreachable(ScriptedModel):
        async def open(self, context: Context) -> Connection:
            raise ModelConnectionError("Nobody answers.", hint="Check the address.")

    model = Unreachable((), lambda text, context: Reply())
    session = Session(Definition(name="test", model=model), tool_runner="inline")
    with pytest.raises(ModelConnectionError):
        await session.start()
    assert session.ended is not None
    assert session.ended.reason == "error"
    await session.stop()
    assert others() == set()


async def test_a_channel_that_cannot_be_opened_is_the_starters_error_and_the_others_are_closed() -> None:
    closed: list[str] = []

    class Good(Channel):
        name = "good"

        @property
        def traits(self) -> Traits:
            return Traits()

        def event(self, event: Event, encoded: bytes) -> None: ...

        async def close(self, reason: str) -> None:
            closed.append(reason)

    class Bad(Good):
        name = "bad"

        async def start(self, port: Port) -> None:
            raise ConfigurationError("There is no microphone.")

    call = make(channels=[Good(), Bad()])
    with pytest.raises(ConfigurationError):
        await call.session.start()
    assert closed == ["error", "error"]
    assert others() == set()


async def test_stop_does_not_wait_for_a_model_that_takes_its_time_to_open() -> None:
    class Slow(ScriptedModel):
        async def open(self, context: Context) -> Connection:
            await asyncio.sleep(3600)
            raise AssertionError

    session = Session(Definition(name="test", model=Slow((), long_answer)), tool_runner="inline")
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(1)
    async with asyncio.timeout(5):
        await session.stop()
    with pytest.raises(SessionClosedError):
        await starting
    assert session.ended is not None
    assert session.ended.reason == "stopped"
    assert others() == set()


async def test_two_sessions_do_not_touch_each_other() -> None:
    one, other = make(until_s=4, greeting=SHORT), make(until_s=4, greeting=SHORT)
    async with one.session, other.session:
        await hold(one, 0.5)
        await one.session.stop()
        await other.session.wait()
    assert other.finished("greeting")[0].heard == SHORT


# ---------------------------------------------------------------------- what a program does


async def test_a_program_hears_and_is_answered() -> None:
    session = Session(
        Definition(name="test", model=ScriptedModel((), lambda t, c: Reply(text=SHORT))), tool_runner="inline"
    )
    async with session:
        await session.send("what now")
        pcm, seen = b"", []
        async for event in session.receive():
            seen.append(type(event).__name__)
            if isinstance(event, ResponseAudio):
                assert event.offset == event.position == len(pcm) // 2
                pcm += event.pcm
            if isinstance(event, ResponseFinished):
                assert event.heard == SHORT
                break
    assert len(pcm) // 2 == int(len(SHORT) / 15.0 * 24_000)
    assert seen[0] == "SessionStarted"


async def test_several_readers_each_get_everything() -> None:
    call = make(until_s=4, greeting=SHORT, channels=[Program(audio=True)])
    async with call.session as session:
        first, second = session.receive(), session.receive()
        one = [type(event).__name__ async for event in first]
        two = [type(event).__name__ async for event in second]
    assert one[-len(two) :] == two
    assert one.count("ResponseAudio") > 50


async def test_a_reader_that_is_too_slow_loses_the_oldest_and_is_told() -> None:
    call = make([], long_answer, until_s=240, channels=[Program(audio=True)])
    async with call.session as session:
        reader = session.receive()
        for _ in range(12):
            await session.say(LONG)
        await session.wait()
        first = await anext(reader)
        assert isinstance(first, ErrorEvent)
        assert first.code == "events_dropped"
        rest = [event async for event in reader]
    lost = int("".join(filter(str.isdigit, first.message)))
    assert lost > 0
    assert isinstance(rest[-1], SessionEnded), "the newest are kept"


async def test_say_respond_interrupt_and_update() -> None:
    call = make(answer=lambda text, context: Reply(text=context.setup().instructions or "None."), until_s=20)
    async with call.session as session:
        await hold(call, 1.0)
        await session.update(instructions="Be kind.")
        await session.respond()
        await hold(call, 4.0)
        id = await session.say(LONG)
        await hold(call, 6.0)
        await session.interrupt()
        await hold(call, 7.0)
        assert call.session.conductor.floor.state == "idle"
        await session.wait()
    assert [event.heard for event in call.finished("respond")] == ["Be kind."]
    (said,) = call.finished("say")
    assert (said.response, said.status, said.reason) == (id, "interrupted", "user_request")
    assert call.rendered(id)[-1][0] <= 6.02
    assert call.history[-1] == ("assistant", said.heard)


async def test_an_interruption_takes_back_what_is_still_to_come() -> None:
    call = make(answer=lambda text, context: Reply(text=LONG, delay_s=1.0), until_s=8)
    async with call.session as session:
        await hold(call, 1.0)
        await session.send("tell me")
        await hold(call, 1.5)
        await session.send(InterruptInput())
        await session.wait()
    assert call.caller.rendered == []
    (answer,) = call.finished("turn")
    assert (answer.status, answer.heard) == ("interrupted", "")
    assert call.history == [("user", "tell me")]


async def test_a_deferred_response_is_not_forgotten_when_the_turn_was_none() -> None:
    from tests.session.calls import NOISE

    call = make([line(1.0, NOISE, 0.3)], until_s=6)
    async with call.session as session:
        await hold(call, 1.25)
        assert session.conductor.floor.user_has_floor
        await session.respond("say something")
        await session.wait()
    assert [event.heard for event in call.finished("respond")] == [SHORT]


async def test_too_many_things_to_say_are_refused_to_whoever_says_them() -> None:
    call = make(until_s=3)
    async with call.session as session:
        limit = session.definition.limits.queued_responses
        for _ in range(limit):
            await session.say(SHORT)
        with pytest.raises(OverloadedError):
            await session.say("one too many")
        await session.send("and a turn")
        await session.wait()
    assert [event.code for event in call.caller.errors] == ["overloaded"]
    assert call.caller.errors[0].ref
    assert len(call.finished()) >= limit - 1


async def test_a_response_that_is_too_long_is_ended() -> None:
    from duologue.engine.limits import LimitOptions

    call = make(
        [line(1.0, STOP, 1.0)],
        lambda text, context: Reply(text="And another thing. " * 40),
        until_s=16,
        limits=LimitOptions(max_response_s=5),
    )
    await run(call)
    (answer,) = call.finished("turn")
    assert answer.heard_ms <= 7000
    assert "limit_exceeded" in [event.code for event in call.caller.errors]
    assert answer.heard == answer.text


async def test_generation_waits_while_enough_is_queued() -> None:
    from duologue.engine.limits import LimitOptions

    call = make(
        [line(1.0, STOP, 1.0)],
        lambda text, context: Reply(text="And another thing. " * 60),
        until_s=6,
        limits=LimitOptions(queued_s=8),
    )
    async with call.session as session:
        await hold(call, 3.0)
        (response,) = session.conductor.responses.all
        ahead = response.seconds - (3.0 - 2.35)
        assert 7 <= ahead <= 11
        await session.wait()


async def test_generation_goes_on_as_what_was_made_is_played() -> None:
    from duologue.engine.limits import LimitOptions

    call = make(
        [line(1.0, STOP, 1.0)],
        lambda text, context: Reply(text="And another thing. " * 20),
        until_s=40,
        limits=LimitOptions(queued_s=4),
    )
    async with call.session as session:
        for at in (4.0, 8.0, 12.0):
            await hold(call, at)
            (response,) = session.conductor.responses.all
            assert 3 <= response.seconds - (at - 2.35) <= 7
        await session.wait()
    (answer,) = call.finished("turn")
    assert (answer.status, answer.heard) == ("completed", "And another thing. " * 20)


# ---------------------------------------------------------------------- bad input


async def test_bad_audio_is_refused_and_the_call_goes_on() -> None:
    call = make([line(2.0, STOP, 1.0)], until_s=6)
    async with call.session as session:
        with pytest.raises(AudioFormatError):
            await session.send(b"\x00\x00\x00")
        with pytest.raises(ConfigurationError):
            await session.send(AudioInput(pcm=b"\x00\x00", rate=44_100))
        with pytest.raises(ConfigurationError):
            await session.send("   ")
        with pytest.raises(UnsupportedInputError):
            await session.send(ImageInput(data=b"\xff"))
        await session.wait()
    assert call.finished("turn")[0].heard == SHORT
    assert [item.kind for item in call.items] == ["user", "assistant"], "what was refused is not history"


async def test_a_reading_becomes_context_and_is_not_answered() -> None:
    call = make(until_s=3)
    async with call.session as session:
        await session.send(SensorInput(name="speed", value={"kmh": 80}))
        await session.wait()
    assert [(item.kind, item.text) for item in call.items] == [("note", 'speed: {"kmh":80}')]
    assert call.asked == []


async def test_a_text_session_answers_in_text() -> None:
    call = make(until_s=5, session={"text_only": True}, greeting="Welcome.")
    async with call.session as session:
        await hold(call, 1.0)
        await session.send("what now")
        await session.wait()
    assert call.caller.rendered == []
    assert call.history == [("assistant", "Welcome."), ("user", "what now"), ("assistant", SHORT)]
    assert [event.status for event in call.finished()] == ["completed", "completed"]
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["what now"]
    assert call.session.conductor.floor.state == "closed"
    assert len(call.caller.of(SessionStarted)) == 1
