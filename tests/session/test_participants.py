"""Channels that fail, stall, flood, go away and come back; microphones that are muted or end."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.channels.base import Channel, Traits
from duologue.engine.limits import LimitOptions
from duologue.errors import ConfigurationError, ProtocolError
from duologue.events import (
    ActivityInput,
    Event,
    ListenerAway,
    ListenerBack,
    ResponseFinished,
    TurnCommitted,
    TurnMeasured,
)
from duologue.models.base import Context
from duologue.testing.scripted import Reply, ScriptedCaller
from tests.session.calls import BARGE_IN, LONG, SHORT, STOP, Call, hold, line, make, run, seconds

pytestmark = pytest.mark.virtual


def long_answer(text: str | None, context: Context) -> Reply:
    return Reply(text=LONG)


class Extra(Channel):
    """Another listener, which goes wrong where it is told to."""

    def __init__(self, name: str, fails: str = "", *, essential: bool = False, rate: int | None = 24_000) -> None:
        self.name = name
        self.fails = fails
        self.essential = essential
        self.rate = rate
        self.got = bytearray()
        self.events: list[Event] = []
        self.clears = 0

    @property
    def traits(self) -> Traits:
        return Traits(output_rate=self.rate, pacing="paced" if self.rate else "none", essential=self.essential)

    def _maybe(self, what: str) -> None:
        if self.fails == what:
            raise RuntimeError(f"{what} does not work")

    async def run(self) -> None:
        self._maybe("run")

    def event(self, event: Event, encoded: bytes) -> None:
        self._maybe("event")
        self.events.append(event)

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        self._maybe("audio")
        self.got += pcm

    def clear(self, response: str) -> None:
        self._maybe("clear")
        self.clears += 1

    async def close(self, reason: str) -> None:
        self._maybe("close")


@pytest.mark.parametrize("fails", ["run", "event", "audio", "clear", "close"])
async def test_a_channel_that_raises_does_not_disturb_the_others(fails: str) -> None:
    extra = Extra("extra", fails)
    lines = [line(1.0, STOP, 1.0), line(5.0, BARGE_IN, 1.0)]
    call = await run(make(lines, long_answer, until_s=18, channels=[extra]))
    first, second = call.finished("turn")
    assert (first.status, second.status, second.heard) == ("interrupted", "completed", LONG)
    told = [error.message for error in call.caller.errors]
    assert told == ([f"Channel extra: {fails} does not work"] if fails in ("run", "audio", "clear") else [])
    assert call.session.ended is not None
    assert call.session.ended.reason == "hangup"


async def test_an_essential_channel_that_raises_ends_the_session_with_a_reason() -> None:
    call = await run(make(until_s=30, greeting=SHORT, channels=[Extra("phone", "audio", essential=True)]))
    assert call.session.ended is not None
    assert (call.session.ended.reason, call.session.ended.detail) == ("error", "phone: error")
    assert call.session.ended.at < 1


@pytest.mark.parametrize("rate", [24_000, 8000])
async def test_every_listener_hears_every_answer_once(rate: int) -> None:
    extra = Extra("recorder", rate=rate)
    lines = [line(1.0, STOP, 1.0), line(5.0, STOP, 1.0)]
    call = await run(make(lines, until_s=10, greeting="Hello there.", channels=[extra]))
    said = [event.heard for event in call.finished()]
    assert said == ["Hello there.", SHORT, SHORT]
    samples = sum(int(len(text) / 15.0 * 24_000) for text in said)
    assert len(extra.got) // 2 == pytest.approx(samples * rate / 24_000, abs=3)


async def test_a_slower_listener_hears_a_finished_answer_to_its_end() -> None:
    """The recorder's estimate trails the caller's acknowledgements; the answer is over for the caller first."""

    class Trailing(Extra):
        @property
        def traits(self) -> Traits:
            return Traits(output_rate=self.rate, pacing="paced", lag_s=1.0, essential=False)

    extra = Trailing("recorder")
    call = await run(make([line(1.0, STOP, 1.0)], until_s=8, channels=[extra]))
    assert len(extra.got) // 2 == int(len(SHORT) / 15.0 * 24_000)
    assert call.finished("turn")[0].heard == SHORT


async def test_history_follows_ears_that_report() -> None:
    extra = Extra("loudspeaker")
    call = make(until_s=3, greeting=SHORT, channels=[extra])
    await run(call)
    addressee = call.session.conductor.responses.addressee
    assert addressee is not None
    assert addressee.channel is call.caller


async def test_two_addressees_are_refused() -> None:
    class Ears(Extra):
        @property
        def traits(self) -> Traits:
            return Traits(output_rate=24_000, pacing="paced", addressee=True)

    with pytest.raises(ConfigurationError):
        await make(channels=[Ears("one"), Ears("two")]).session.start()


async def test_an_addressee_that_leaves_is_followed_by_the_next() -> None:
    class Leaving(Extra):
        @property
        def traits(self) -> Traits:
            return Traits(output_rate=24_000, pacing="paced", addressee=True, essential=False)

    extra = Leaving("earpiece")
    call = make(until_s=20, greeting=LONG, channels=[extra])
    async with call.session as session:
        await hold(call, 2.0)
        extra.port.ended()
        await session.wait()
    assert [event.status for event in call.finished()] == ["completed"]


# ---------------------------------------------------------------------- away and back


async def test_playout_freezes_while_the_listener_is_away_and_goes_on_when_it_is_back() -> None:
    call = make([line(1.0, STOP, 1.0)], long_answer, until_s=30)
    async with call.session as session:
        await hold(call, 4.0)
        call.caller.port.away()
        before = session.conductor.responses.addressee.ledger.sent  # type: ignore[union-attr]
        await hold(call, 10.0)
        assert session.conductor.responses.addressee.ledger.sent == before  # type: ignore[union-attr]
        assert session.ended is None
        call.caller.port.back(gap_events=2, gap_ms=120)
        await session.wait()
    (answer,) = call.finished("turn")
    assert (answer.status, answer.heard) == ("completed", LONG)
    assert seconds(max(stop for *_, stop in call.rendered(answer.response))) == pytest.approx(len(LONG) / 15, abs=0.01)
    (away,), (back,) = call.caller.of(ListenerAway), call.caller.of(ListenerBack)
    assert away.grace_s == LimitOptions().grace_s
    assert (back.gap_events, back.gap_ms) == (2, 120)


async def test_who_stays_away_beyond_the_grace_period_has_left() -> None:
    call = make([line(1.0, STOP, 1.0)], long_answer, until_s=60, limits=LimitOptions(grace_s=5))
    async with call.session as session:
        await hold(call, 4.0)
        call.caller.port.away()
        call.caller.port.away()
        call.caller._lose = lambda n: True
        ended = await session.wait()
    assert (ended.reason, ended.at) == ("client_left", pytest.approx(9.0, abs=0.1))
    assert call.finished("turn")[0].estimated


async def test_a_barge_in_while_away_does_not_wait_for_an_answer_that_cannot_come() -> None:
    call = make([line(1.0, STOP, 1.0)], long_answer, until_s=12)
    async with call.session as session:
        await hold(call, 4.0)
        call.caller.port.away()
        await session.interrupt()
        (answer,) = call.finished("turn")
        assert answer.status == "interrupted"
        call.caller.port.back()
        await session.say("Back again.")
        await session.wait()
    assert call.finished("say")[0].heard == "Back again."


# ---------------------------------------------------------------------- microphones


@pytest.mark.parametrize("kind", ["mute", "ended", "end"])
async def test_ending_the_input_commits_what_was_said(kind: str) -> None:
    call = make([line(1.0, STOP, 10.0)], until_s=6)
    async with call.session as session:
        await hold(call, 2.5)
        await session.send(ActivityInput(kind=kind))  # type: ignore[arg-type]
        await hold(call, 2.7)
        committed = call.caller.of(TurnCommitted)
        assert [event.reason for event in committed] == ["input ended"]
        await session.wait()
    if kind != "end":
        assert call.finished("turn")[0].heard == SHORT
        assert len(call.caller.of(TurnCommitted)) == 1, "nothing is heard while muted"


@pytest.mark.parametrize("kind", ["mute", "ended", "end"])
async def test_what_the_model_has_not_judged_yet_counts_before_the_end_of_the_input(kind: str) -> None:
    call = make([line(1.0, STOP, 10.0)], until_s=3)
    async with call.session as session:
        connection, held = call.connection, list[tuple[bytes, int]]()
        inner = connection.audio

        def hear_out() -> None:
            while held:
                inner(*held.pop(0))

        connection.audio = lambda pcm, position: held.append((pcm, position))
        connection.hear_out = hear_out
        await hold(call, 2.5)
        await session.send(ActivityInput(kind=kind))  # type: ignore[arg-type]
        await hold(call, 2.7)
        assert [event.reason for event in call.caller.of(TurnCommitted)] == ["input ended"]
        await session.wait()


async def test_unmuting_listens_again() -> None:
    call = make([line(3.0, STOP, 1.0)], until_s=7)
    async with call.session as session:
        await session.send(ActivityInput(kind="mute"))
        await hold(call, 2.0)
        await session.send(ActivityInput(kind="unmute"))
        await session.wait()
    assert call.finished("turn")[0].heard == SHORT


async def feed(call: Call, frames: list[tuple[int | None, int]]) -> list[tuple[int, int]]:
    """Give the session's program these (position, samples); what reaches the model: (position, samples)."""
    got: list[tuple[int, int]] = []
    connection = call.connection
    inner = connection.audio

    def audio(pcm: bytes, position: int) -> None:
        got.append((position, len(pcm) // 2))
        inner(pcm, position)

    connection.audio = audio
    port = call.session.participants.ports[call.caller]
    for position, samples in frames:
        port.audio(bytes(2 * samples), position)
    return got


async def quiet(**options: object) -> Call:
    class Silent(ScriptedCaller):
        async def run(self) -> None:
            """Says nothing by itself."""

    call = make(caller=Silent([], until_s=1), **options)  # type: ignore[arg-type]
    await call.session.start()
    return call


async def test_audio_that_comes_twice_is_taken_once() -> None:
    call = await quiet()
    got = await feed(call, [(0, 320), (320, 320), (0, 320), (160, 640), (640, 320), (800, 320)])
    assert got == [(0, 320), (320, 320), (640, 160), (800, 160), (960, 160)]
    await call.session.stop()


async def test_a_gap_is_a_gap_and_counted() -> None:
    call = await quiet()
    got = await feed(call, [(0, 320), (16_320, 320), (16_640, 320)])
    assert got == [(0, 320), (16_320, 320), (16_640, 320)]
    await call.session.send("hello")
    await hold(call, 4.0)
    await call.session.stop()
    (record,) = [event.record for event in call.caller.of(TurnMeasured)]
    assert record["drops"] == {"user_gap_ms": 1000}


async def test_a_track_may_begin_anywhere() -> None:
    call = await quiet()
    got = await feed(call, [(16_000 * 3600, 320), (None, 320)])
    assert got == [(57_600_000, 320), (57_600_320, 320)]
    await call.session.stop()


async def test_a_flood_is_bounded_counted_and_leaves_the_call_listening() -> None:
    call = await quiet(limits=LimitOptions(upstream_s=5))
    got = await feed(call, [(None, 3200)] * 600)
    taken = sum(samples for _, samples in got)
    assert taken == 5 * 16_000
    await hold(call, 1.0)
    more = await feed(call, [(None, 320)] * 10)
    assert len(more) == 10, "as time goes on there is room again"
    await call.session.send("hello")
    await hold(call, 4.0)
    await call.session.stop()
    (record,) = [event.record for event in call.caller.of(TurnMeasured)]
    assert record["drops"]["user_audio_samples"] == 600 * 3200 - taken


async def test_a_burst_after_a_stall_is_taken_whole() -> None:
    call = await quiet(limits=LimitOptions(upstream_s=5))
    await feed(call, [(0, 320)])
    await hold(call, 8.0)
    got = await feed(call, [(320 * index, 320) for index in range(1, 400)])
    assert sum(samples for _, samples in got) == 399 * 320
    await call.session.stop()


async def test_acknowledgements_of_what_was_never_sent_are_the_clients_error() -> None:
    call = await quiet()
    port = call.session.participants.ports[call.caller]
    with pytest.raises(ProtocolError):
        port.played(1)
    with pytest.raises(ProtocolError):
        port.played(-1)
    port.cleared(77)  # an answer to no clear: too late, or nonsense; either way it changes nothing
    assert call.session.ended is None
    await call.session.stop()


positions = st.lists(st.tuples(st.none() | st.integers(0, 40_000), st.integers(1, 2000)), max_size=40)


@given(positions)
@settings(max_examples=60)
async def test_the_model_gets_a_track_without_overlap_in_order(frames: list[tuple[int | None, int]]) -> None:
    call = await quiet()
    got = await feed(call, frames)
    end = 0
    for position, samples in got:
        assert position >= end
        assert samples > 0
        end = position + samples
    await call.session.stop()


async def test_drops_of_a_failing_channel_are_counted() -> None:
    call = await run(make([line(1.0, STOP, 1.0)], until_s=5, channels=[Extra("extra", "event")]))
    (record,) = [event.record for event in call.caller.of(TurnMeasured)]
    assert record["drops"]["events:extra"] > 3
    assert len(call.caller.of(ResponseFinished)) == 1


async def test_a_microphone_that_falls_silent_after_an_answer_is_not_the_models_fault() -> None:
    """The answer was made before the turn was over; nothing is owed then, so nothing can stall."""

    class FallsSilent(ScriptedCaller):
        async def run(self) -> None:
            await super().run()

        def frame(self, index: int) -> bytes:
            if index == 5 * 50:
                self.port.audio = lambda pcm, position=None: None  # type: ignore[method-assign]
            return super().frame(index)

    caller = FallsSilent([line(1.0, STOP, 1.0)], until_s=30)
    call = await run(make(caller=caller, limits=LimitOptions(idle_s=0)))
    assert call.finished("turn")[0].heard == SHORT
    assert call.caller.errors == []
    assert len(call.model.connections) == 1


async def test_a_listener_that_is_stuck_delays_nobody() -> None:
    """It says that it acknowledges, and never does: it is given no more than the cap, and the caller notices nothing."""

    class Stuck(Extra):
        @property
        def traits(self) -> Traits:
            return Traits(output_rate=24_000, pacing="paced", acknowledges=True, clears=True, essential=False)

    class Ears(ScriptedCaller):
        @property
        def traits(self) -> Traits:
            return msgspec.structs.replace(super().traits, addressee=True)

    extra = Stuck("stuck")
    caller = Ears([line(1.0, STOP, 1.0), line(6.0, BARGE_IN, 1.2)], until_s=18)
    call = await run(make(answer=long_answer, caller=caller, channels=[extra]))
    first, second = call.finished("turn")
    assert (first.status, second.status, second.heard) == ("interrupted", "completed", LONG)
    played = call.rendered(first.response)
    assert played[-1][0] <= caller.clears[0] - caller.begin
    assert max(b[0] - a[0] for a, b in itertools.pairwise(played)) < 0.021


async def test_a_channel_that_does_not_close_holds_up_the_end_by_a_bound_only() -> None:
    class Hanging(Extra):
        async def close(self, reason: str) -> None:
            await asyncio.sleep(3600)

    extra = Hanging("hanging", rate=None)
    call = make(until_s=2, channels=[extra])
    began = asyncio.get_running_loop().time()
    await run(call)
    assert asyncio.get_running_loop().time() - began < 6
