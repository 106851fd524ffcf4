"""A caller whose every sample is marked, who talks, listens to the answer, and talks again, in real time."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

from benchmarks.marks import marked, within
from benchmarks.providers import OUTPUT_RATE, Stand
from duologue.channels.base import Traits
from duologue.events import ConnectionLost, ConnectionRotated, Event, ResponseFinished, ResponseText
from duologue.testing.scripted import ScriptedCaller

#: longest wait for an answer before the caller speaks again
_PATIENCE_S = 15.0
_FRAME_S = 0.02
#: pieces of an answer that sound further apart than this have a silence between them
_SEAM_S = 1.5 * _FRAME_S


class Turn:
    """A turn of the caller: samples [start, end) of the track, and when its last one was spoken."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.began = 0.0
        self.ended: float | None = None
        #: the first answer that sounded after it: its response, and when
        self.response = ""
        self.answered: float | None = None


class Change:
    """A change of connection: when, why, whether it was planned, and where the caller's speech was."""

    def __init__(self, at: float, event: ConnectionRotated, lost: tuple[float, bool] | None, speaking: bool) -> None:
        self.at = at
        self.reason = event.reason
        self.planned = lost is None
        self.forced = "forced" in event.reason
        self.in_speech = speaking if lost is None else lost[1]
        self.replayed_ms = event.replayed_ms
        self.added_s = 0.0


class MarkedCaller(ScriptedCaller):
    """See the module. The call ends when `stop` is set and nothing is to be answered; with `mute` nothing more is said.

    Args:
        stand: the providers, who know what each answer is to.
        turn_s, pause_s: from and to: length of a turn, and of the pause after an answer.
        barge_in: share of answers that the caller does not hear out.
        frames: how many of 20 ms are sent at a time.
    """

    def __init__(
        self,
        stand: Stand,
        rate: int,
        seed: int,
        *,
        turn_s: tuple[float, float],
        pause_s: tuple[float, float] = (0.3, 1.2),
        barge_in: float = 0.15,
        frames: int = 1,
    ) -> None:
        super().__init__([], until_s=0.0)
        self.rate = rate
        self._stand = stand
        self.turns: list[Turn] = []
        self.changes: list[Change] = []
        self.stop = False
        self.mute = False
        self.numbers: defaultdict[str, list[int]] = defaultdict(list)  # of the answers that a response holds
        self.sounded: dict[str, list[tuple[float, float]]] = {}  # when each response did, seam by seam
        self.worded: set[str] = set()  # responses of which words came
        self.speaking = False
        self._chance = random.Random(seed)
        self._turn_s, self._pause_s, self._barge_in = turn_s, pause_s, barge_in
        self._step, self._frames_sent = rate // 50, frames
        self._next_at = rate // 2  # position of the next turn
        self._until = 0  # position of the end of this one
        self._lost: tuple[float, bool] | None = None
        self._seen = 0

    @property
    def traits(self) -> Traits:
        """See Channel."""
        return Traits(
            input_rate=self.rate,
            output_rate=OUTPUT_RATE,
            pacing="paced",
            acknowledges=True,
            clears=True,
            ducks=True,
            addressee=True,
        )

    def heard(self) -> list[int]:
        """Numbers of the answers of which something sounded and words came."""
        return [number for response in self.sounded if response in self.worded for number in self.numbers[response]]

    @property
    def wordless(self) -> int:
        """How many broke off in their first sound, before any word of them came."""
        return len(self.sounded.keys() - self.worded)

    async def run(self) -> None:
        """See Channel."""
        loop = asyncio.get_running_loop()
        begin = self.begin = loop.time()
        index = 0
        while not (self.stop and not self.speaking and (not self.turns or self._over(loop.time()))):
            await asyncio.sleep(begin + index * _FRAME_S - loop.time())
            now = loop.time()
            for _ in range(self._frames_sent):
                self._render(now)
            self._follow(now)
            position = index * self._step
            frames = [self._frame(position + n * self._step, now) for n in range(self._frames_sent)]
            self.port.audio(b"".join(frames), position)
            index += self._frames_sent
        self.port.ended("hangup")

    def _over(self, now: float) -> bool:
        """Whether the last turn was answered, words of it have come, and the answer has ended or was interrupted."""
        turn = self.turns[-1]
        if turn.ended is None:
            return False
        worded = not self.sounded or next(reversed(self.sounded)) in self.worded
        return (self._next_at > 0 and worded) or now - turn.ended > _PATIENCE_S

    def _frame(self, position: int, now: float) -> bytes:
        if not (self.speaking or self.stop or self.mute):
            waited = bool(self.turns) and self.turns[-1].ended is not None and now - self.turns[-1].ended > _PATIENCE_S
            if (self._next_at and position >= self._next_at) or (not self._next_at and waited):
                self.speaking = True
                self.turns.append(Turn(position))
                self.turns[-1].began = now
                self._until = position + int(self._chance.uniform(*self._turn_s) * 50) * self._step
                self._next_at = 0
        speaks = self.speaking
        if speaks and position + self._step >= self._until:
            self.speaking = False
            self.turns[-1].end, self.turns[-1].ended = position + self._step, now
        return marked(position, self._step) if speaks else bytes(2 * self._step)

    def _follow(self, now: float) -> None:
        """Note what has sounded since the frame before."""
        for _, response, _, _ in self.rendered[self._seen :]:
            seams = self.sounded.setdefault(response, [])
            if seams and now - seams[-1][1] <= _SEAM_S + _FRAME_S:
                seams[-1] = (seams[-1][0], now)
            else:
                seams.append((now, now))
            turn = self.turns[-1] if self.turns else None
            if turn is None or turn.ended is None or turn.answered is not None or not self._answers(response, turn):
                continue
            turn.response, turn.answered = response, now
            if self._chance.random() < self._barge_in:
                self._pause(now, self._chance.uniform(0.1, 0.9))
        self._seen = len(self.rendered)

    def _answers(self, response: str, turn: Turn) -> bool:
        answers = [self._stand.answers[number] for number in self.numbers[response]]
        return any(within(one.runs + one.words, turn.start, turn.end) for one in answers)

    def _pause(self, now: float, seconds: float) -> None:
        self._next_at = max(1, int((now - self.begin + seconds) / _FRAME_S)) * self._step

    def audio(self, response: str, offset: int, position: int, pcm: bytes) -> None:
        """See Channel."""
        super().audio(response, offset, position, pcm)
        known = self.numbers[response]
        known += [number for number in self._stand.sounding(pcm) if number not in known]

    def event(self, event: Event, encoded: bytes) -> None:
        """See Channel."""
        super().event(event, encoded)
        now = asyncio.get_running_loop().time()
        match event:
            case ResponseText():
                self.worded.add(event.response)
            case ResponseFinished() if self.turns and event.response == self.turns[-1].response and not self._next_at:
                self._pause(now, self._chance.uniform(*self._pause_s))
            case ConnectionLost() if self._lost is None:
                self._lost = now, self.speaking
            case ConnectionRotated():
                self.changes.append(Change(now, event, self._lost, self.speaking))
                self._lost = None
