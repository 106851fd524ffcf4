"""Voice activity of many tracks judged together: the same as alone, in order, in time, and each track for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.errors import AudioFormatError, ModelError
from duologue.speech import listening
from duologue.speech.listening import FEW, MOST, WAIT_S, WAITING, Listening
from duologue.speech.vad import EnergyVAD, SileroNetwork, SileroVAD
from duologue.testing.clock import run_virtual
from tests.speech.recordings import beckett

Told = list[tuple[int, float]]
SPEECH = beckett() * 8
WINDOW = 2 * SileroVAD.window


class Session:
    """The real inference session. It counts the rows of each run, and fails when told to."""

    def __init__(self) -> None:
        self._real = SileroVAD().network._session
        self.rows: list[int] = []
        self.fails = False

    def run(self, names: None, given: dict[str, Any]) -> Any:
        self.rows.append(len(given["input"]))
        if self.fails:
            raise RuntimeError("out of order")
        return self._real.run(names, given)


class Track:
    """One caller: what they say, and what is told of them."""

    def __init__(self, number: int, network: SileroNetwork | None = None) -> None:
        vad = SileroVAD()
        if network is not None:
            vad.network = network
        self.at = number * 9_000 * 2
        self.told: Told = []
        self.times: list[float] = []
        self.errors: list[ModelError] = []
        self.then: Callable[[int], None] = lambda end: None
        self.ear = Listening(vad, self.heard, self.errors.append)

    def heard(self, end: int, probability: float) -> None:
        self.told.append((end, probability))
        self.times.append(asyncio.get_running_loop().time())
        self.then(end)

    def say(self, size: int = WINDOW) -> bytes:
        pcm = SPEECH[self.at : self.at + size]
        assert len(pcm) == size
        self.at += size
        self.ear.feed(pcm)
        return pcm


@contextmanager
def tracks(count: int, network: SileroNetwork | None = None) -> Iterator[list[Track]]:
    given = [Track(number, network) for number in range(count)]
    try:
        yield given
    finally:
        for track in given:
            track.ear.close()
    assert not listening._companies


def alone(pcm: bytes) -> Told:
    return SileroVAD().feed(pcm)


_steps = st.lists(
    st.tuples(
        st.integers(0, FEW + 3),
        st.one_of(
            st.integers(1, 1_600).map(lambda n: ("say", n)),
            st.sampled_from([("reset", 0), ("reset", 700), ("flush", 0), ("pass", 3), ("pass", 8), ("say", 6_000)]),
        ),
    ),
    max_size=60,
)


@settings(max_examples=30, deadline=None)
@given(_steps)
def test_each_track_is_told_what_it_would_be_alone(steps: list[tuple[int, tuple[str, int]]]) -> None:
    async def run() -> None:
        with tracks(FEW + 4) as given:
            own = [SileroVAD() for _ in given]
            expected: list[Told] = [[] for _ in given]
            since = [0.0 for _ in given]  # when what waits longest may have come
            loop = asyncio.get_running_loop()
            for number, (what, amount) in steps:
                track = given[number]
                if what == "say":
                    if track.told == expected[number]:
                        since[number] = loop.time()
                    expected[number] += own[number].feed(track.say(2 * amount))
                elif what == "reset":
                    track.ear.reset(amount)
                    own[number].reset(amount)
                    assert track.told == expected[number][: len(track.told)]
                    expected[number] = list(track.told)
                elif what == "flush":
                    track.ear.flush()
                    assert track.told == expected[number]
                else:
                    await asyncio.sleep(amount / 1000)
                for one, whole, began in zip(given, expected, since, strict=True):
                    assert one.told == whole[: len(one.told)]
                    assert len(whole) - len(one.told) <= WAITING
                    assert one.told == whole or loop.time() - began <= WAIT_S + 1e-6
            await asyncio.sleep(WAIT_S)
            await asyncio.sleep(0)
            assert [track.told for track in given] == expected

    run_virtual(run())


def test_few_tracks_are_told_in_the_call_that_brings_the_audio() -> None:
    async def run() -> None:
        with tracks(FEW - 1) as given:
            for track in given:
                pcm = track.say(10_000)
                assert track.told == alone(pcm)
                assert len(track.told) > 3
                with pytest.raises(AudioFormatError):
                    track.ear.feed(b"\1")

    run_virtual(run())


def test_many_tracks_share_runs() -> None:
    session = Session()

    async def run() -> None:
        with tracks(FEW, SileroNetwork(session)) as given:
            for track in given[:4]:
                track.say()
            given[1].say(2 * WINDOW)
            assert not session.rows
            await asyncio.sleep(WAIT_S / 2)
            given[5].say()
            assert not any(track.told for track in given)
            await asyncio.sleep(WAIT_S / 2)
            assert session.rows == [5, 1, 1]
            assert [len(track.told) for track in given[:6]] == [1, 3, 1, 1, 0, 1]
            assert all(time == WAIT_S for track in given for time in track.times)

    run_virtual(run())


def test_a_full_run_does_not_wait() -> None:
    session = Session()

    async def run() -> None:
        with tracks(MOST + 3, SileroNetwork(session)) as given:
            for track in given:
                track.say()
            assert not session.rows
            await asyncio.sleep(0)
            assert session.rows == [MOST, 3]
            assert all(track.times == [0.0] for track in given)

    run_virtual(run())


def test_a_burst_is_not_kept_waiting() -> None:
    async def run() -> None:
        with tracks(FEW) as given:
            pcm = given[0].say(WAITING * WINDOW)
            assert not given[0].told
            pcm += given[0].say(WINDOW)
            assert given[0].told == alone(pcm)
            pcm += given[0].say(40 * WINDOW)
            assert given[0].told == alone(pcm)

    run_virtual(run())


def test_nothing_of_what_waited_is_told_after_a_reset_or_the_end() -> None:
    async def run() -> None:
        with tracks(FEW) as given:
            for track in given:
                track.say(2 * WINDOW)
            given[0].ear.reset(5_000)
            given[1].ear.close()
            given[1].ear.close()

            def interfere(end: int) -> None:
                given[3].ear.reset()
                given[4].ear.close()
                given[5].ear.flush()

            given[2].then = interfere
            await asyncio.sleep(WAIT_S)
            assert [len(track.told) for track in given[:7]] == [0, 0, 2, 0, 0, 2, 2]
            again = given[0].say(WINDOW), given[3].say(WINDOW)
            given[1].say(WINDOW)
            await asyncio.sleep(WAIT_S)
            assert given[0].told == [(5_000 + end, p) for end, p in alone(again[0])]
            assert given[3].told == alone(again[1])
            assert not given[1].told

    run_virtual(run())


def test_what_is_told_may_bring_more() -> None:
    async def run() -> None:
        with tracks(FEW) as given:
            first = given[0]
            begin = first.at

            def more(end: int) -> None:
                first.ear.flush()  # in the middle of being told: it may not overtake
                if end < 2_048:
                    first.say(WINDOW)

            first.then = more
            first.say(2 * WINDOW)
            await asyncio.sleep(WAIT_S)
            await asyncio.sleep(WAIT_S)
            assert first.told == alone(SPEECH[begin : first.at])
            assert len(first.told) == 5

    run_virtual(run())


@pytest.mark.parametrize("count", [1, FEW])
def test_a_failure_reaches_every_track_and_passes(count: int) -> None:
    session = Session()

    async def run() -> None:
        with tracks(count, SileroNetwork(session)) as given:
            for track in given:
                track.say()
            await asyncio.sleep(WAIT_S)
            session.fails = True
            for track in given:
                track.say(2 * WINDOW)
            await asyncio.sleep(WAIT_S)
            assert all(len(track.told) == 1 for track in given)
            assert all(len(track.errors) == 1 and "out of order" in str(track.errors[0]) for track in given)
            assert len({id(track.errors[0]) for track in given}) == count
            session.fails = False
            for track in given:
                track.ear.reset()
                pcm = track.say()
                await asyncio.sleep(WAIT_S)
                assert track.told[1:] == alone(pcm)
                assert len(track.errors) == 1

    run_virtual(run())


def test_a_track_that_cannot_take_what_is_told_does_not_harm_the_others() -> None:
    seen: list[dict[str, Any]] = []

    def full(end: int) -> None:
        raise ValueError("no more")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        with tracks(FEW) as given:
            given[0].then = full
            for track in given:
                track.say()
            await asyncio.sleep(WAIT_S)
            assert all(len(track.told) == 1 for track in given)
            assert [str(context["exception"]) for context in seen] == ["no more"]
            given[0].say()
            with pytest.raises(ValueError, match="no more"):
                given[0].ear.flush()
            assert len(given[0].told) == 2

    run_virtual(run())


def test_each_is_told_in_its_own_context() -> None:
    name: ContextVar[int] = ContextVar("name")
    found: dict[int, int] = {}

    async def run() -> None:
        given: list[Track] = []
        for number in range(FEW):
            name.set(number)
            track = Track(number)
            track.then = lambda end, number=number: found.update({number: name.get()})  # type: ignore[misc]
            given.append(track)
        for track in given:
            track.say()
        await asyncio.sleep(WAIT_S)
        assert found == {number: number for number in range(FEW)}
        for track in given:
            track.ear.close()

    run_virtual(run())


def test_another_detector_is_asked_at_once() -> None:
    async def run() -> None:
        with tracks(FEW):
            told: Told = []
            errors: list[ModelError] = []
            ear = Listening(EnergyVAD(), lambda *one: told.append(one), errors.append)
            ear.feed(SPEECH[:WINDOW])
            ear.reset(700)
            ear.feed(SPEECH[:WINDOW])
            ear.flush()
            ear.close()
            assert [end for end, _ in told] == [512, 1212]
            assert not errors

    run_virtual(run())


def test_rows_of_one_run_do_not_mix() -> None:
    own = [SileroVAD() for _ in range(7)]
    network = own[0].network
    pcm = [np.roll(np.frombuffer(SPEECH, "<i2")[:8192], 500 * n).tobytes() for n in range(7)]
    cuts = [vad.cut(samples) for vad, samples in zip(own, pcm, strict=True)]
    together = [network.judge(own, [cut[n][1] for cut in cuts]) for n in range(16)]
    for number, samples in enumerate(pcm):
        assert [p for _, p in alone(samples)] == pytest.approx([row[number] for row in together], abs=1e-4)
