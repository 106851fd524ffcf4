"""The ear of the benchmarks' providers: what it tells of the user's speech."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.marks import marked
from benchmarks.providers import Ear, Stand
from duologue.models.base import Context, Evidence, Setup, SpeechWindow

RATE = 16_000


class Session:
    """The session around an ear, as far as that needs one."""

    def __init__(self) -> None:
        self.windows: list[SpeechWindow] = []

    def setup(self) -> Setup:
        return Setup(instructions="call")

    def report(self, evidence: Evidence) -> None:
        assert isinstance(evidence, SpeechWindow)
        self.windows.append(evidence)


@given(
    pieces=st.lists(st.integers(1, 4000), max_size=12),
    silent=st.integers(0, 2000),
    pairs=st.integers(1, 4000),
)
@example(pieces=[3200, 3584], silent=0, pairs=1632)  # what a replay ends with, as frames of 512 samples
def test_where_speech_ends_is_told_to_a_window_however_long_the_pieces_are(
    pieces: list[int], silent: int, pairs: int
) -> None:
    async def run() -> list[SpeechWindow]:
        session = Session()
        ear = Ear(Stand(1), cast(Context, cast(Any, session)), RATE)
        track = bytes(2 * silent) + marked(silent // 2 * 2, 2 * pairs) + bytes(2 * RATE)
        position = 0
        for samples in [*pieces, len(track)]:
            ear.audio(track[2 * position : 2 * (position + samples)], position)
            position = min(position + samples, len(track) // 2)
        assert ear.account.runs == [(silent // 2 * 2, silent // 2 * 2 + 2 * pairs)]
        return session.windows

    windows = asyncio.run(run())
    assert [window.start for window in windows[1:]] == [window.end for window in windows[:-1]]
    end = silent + 2 * pairs
    told = max((window.end for window in windows if window.probability > 0.5), default=0)
    assert told <= end < max(told, silent) + RATE * 32 // 1000
