"""Speech in which every sample says where on the caller's track it stands, and what a provider received of it.

Samples come in pairs: a positive one, then a negative one. Together they hold the pair's number on the track. So whoever
receives them knows each sample, whatever lies between: other connections, replays, silence (zeros, which are no pairs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

#: pair numbers that a positive sample tells apart
_LOW = 32_767

type Runs = list[tuple[int, int]]


def marked(position: int, samples: int) -> bytes:
    """PCM16 of `samples` (even) from `position` (even) on."""
    pairs = np.arange(position // 2, (position + samples) // 2)
    out = np.empty(samples, "<i2")
    out[0::2] = pairs % _LOW + 1
    out[1::2] = -(1 + pairs // _LOW)
    return out.tobytes()


class Reader:
    """Takes marked audio in pieces of any length. `torn`: samples that are neither zeros nor whole pairs."""

    def __init__(self) -> None:
        self.torn = 0
        self._rest = np.empty(0, "<i2")

    def read(self, pcm: bytes) -> tuple[Runs, bool]:
        """The positions [start, end) of the speech in `pcm`, in their order, and whether it ends in speech."""
        samples = np.frombuffer(pcm, "<i2")
        if not len(self._rest) and not samples.any():
            return [], False
        samples = np.concatenate((self._rest, samples))
        self._rest = samples[-1:] if len(samples) and samples[-1] > 0 else samples[:0]
        at = np.flatnonzero((samples[:-1] > 0) & (samples[1:] < 0))
        self.torn += int(np.count_nonzero(samples)) - 2 * len(at) - len(self._rest)
        high = -samples[at + 1].astype(np.int64) - 1
        return _runs(high * _LOW + samples[at] - 1), bool(samples[-1])


def _runs(pairs: np.ndarray) -> Runs:
    if not len(pairs):
        return []
    breaks = np.flatnonzero(np.diff(pairs) != 1) + 1
    starts, ends = pairs[np.concatenate(([0], breaks))], pairs[np.concatenate((breaks - 1, [len(pairs) - 1]))]
    return [(2 * int(start), 2 * int(end) + 2) for start, end in zip(starts, ends, strict=True)]


def extend(runs: Runs, more: Runs) -> None:
    """Add runs at the end; what follows on the last one lengthens it."""
    for start, end in more:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))


def united(runs: Iterable[tuple[int, int]]) -> Runs:
    """The same samples, each once, in order."""
    out: Runs = []
    for start, end in sorted(runs):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def length(runs: Iterable[tuple[int, int]]) -> int:
    """Number of samples, counted as often as they come."""
    return sum(end - start for start, end in runs)


def within(runs: Iterable[tuple[int, int]], start: int, end: int) -> Runs:
    """The part of `runs` that lies in [start, end)."""
    cut = [(max(start, low), min(end, high)) for low, high in runs]
    return [(low, high) for low, high in cut if low < high]


@dataclass
class Answer:
    """An answer that a provider made.

    Attributes:
        number: unique among the answers of a stand; its text is ``Answer NUMBER. ...``.
        link: number of the connection.
        runs: the speech that it answers, as that connection received it; `words`: the turns that it was given by their words.
        think_s: how long the provider thought about it.
        began: when its first audio was made, on the clock of the loop; None: it never was.
        history: texts of the history that the connection had.
    """

    number: int
    link: int
    runs: Runs
    words: Runs
    think_s: float
    began: float | None = None
    history: list[str] = field(default_factory=list)


@dataclass
class Received:
    """What one connection of a provider received. `opened`: when its session was open, on the clock of the loop."""

    link: int
    call: str
    opened: float = 0.0
    runs: Runs = field(default_factory=list)
    torn: int = 0


@dataclass
class Account:
    """What became of the samples of one call."""

    turns: int = 0
    samples: int = 0
    unanswered: int = 0
    lost: int = 0
    doubled: int = 0
    by_words: int = 0


def settle(
    turns: Sequence[tuple[int, int]], heard: Sequence[Answer], received: Sequence[Received], account: Account
) -> list[str]:
    """Enter one call into the account; returns what was wrong with it, in words.

    A sample is lost if no connection that answers its turn received it (or, where the turn was put to that connection by its
    words, if the connection that wrote them down did not); doubled if one connection received it twice, or two answered it.

    Args:
        turns: the samples of each turn of the caller.
        heard: the answers that the caller heard.
        received: what each connection of the call received.
    """
    wrong: list[str] = []
    by_link = {one.link: one for one in received}
    anywhere = united(run for one in received for run in one.runs)
    for start, end in turns:
        account.turns += 1
        account.samples += end - start
        covers: list[tuple[int, Runs, Runs]] = []  # connection, what it answers of the turn, what it received of it
        for answer in heard:
            spoken = bool(within(answer.runs, start, end))
            written = within(answer.words, start, end)
            if spoken:
                runs = within(answer.runs, start, end)
                covers.append((answer.link, runs, within(by_link[answer.link].runs, start, end)))
            elif written:
                account.by_words += 1
                covers.append((answer.link, written, within(anywhere, start, end)))
        if not covers:
            account.unanswered += 1
            account.lost += end - start
            wrong.append(f"turn {start}-{end} was not answered")
            continue
        known = length(united(run for _, _, runs in covers for run in runs))
        if known < end - start:
            account.lost += end - start - known
            wrong.append(f"turn {start}-{end}: {end - start - known} samples lost")
        answered = {
            link: united(run for one, runs, _ in covers if one == link for run in runs) for link, _, _ in covers
        }
        twice = sum(length(runs) for runs in answered.values()) - length(
            united(run for runs in answered.values() for run in runs)
        )
        if twice:
            account.doubled += twice
            wrong.append(f"turn {start}-{end}: {twice} samples were answered by several of {sorted(answered)}")
    for one in received:
        twice = length(one.runs) - length(united(one.runs))
        account.doubled += twice
        if twice:
            wrong.append(f"connection {one.link} received {twice} samples twice")
        if one.torn:
            account.lost += one.torn
            wrong.append(f"connection {one.link} received {one.torn} samples that were never sent")
    return wrong
