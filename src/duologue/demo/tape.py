"""The recording of a call as the caller has it: their own voice left, what their playback device rendered right.

Both tracks run on one clock, the caller's. The microphone's samples are counted from its zero, and what is rendered is put
where the device says that it sounded; so sample n of both sides is the same moment.
"""

from __future__ import annotations

from typing import NamedTuple

from ..audio import resample, rms_dbfs, to_stereo
from ..client import Rendered

#: level from which a piece of rendered audio is somebody speaking, dBFS
_VOICED_DBFS = -45.0
#: silence after which a stretch of the agent's speech is over, seconds
_STRETCH_S = 0.35


class Run(NamedTuple):
    """Samples of a response that were heard without a break. All at the tape's rate.

    Attributes:
        start: where on the tape.
        samples: how many.
        response: of which response.
        offset: the first sample's place in the response.
    """

    start: int
    samples: int
    response: str
    offset: int


class Tape:
    """Records a call, and says what of it can be heard now.

    Args:
        zero: the moment of sample 0, on the clock that `hear` is given times of.
        mic_rate: Hz of the caller's microphone.
        rate: Hz of the playback device, and of the finished recording.
    """

    def __init__(self, zero: float, *, mic_rate: int = 16_000, rate: int = 24_000) -> None:
        self.zero = zero
        self.mic_rate = mic_rate
        self.rate = rate
        self._mic = bytearray()
        self._heard = bytearray()
        #: when the agent was last heard speaking, and since when without a longer pause; None before the first time
        self.last_voice: float | None = None
        self.voice_since: float | None = None

    @property
    def captured(self) -> int:
        """Samples that the microphone has captured."""
        return len(self._mic) // 2

    def speak(self, pcm: bytes) -> None:
        """What the microphone captured next."""
        self._mic += pcm

    def hear(self, pcm: bytes, at: float) -> None:
        """What the playback device rendered; the first sample sounded `at`."""
        position = max(0, round((at - self.zero) * self.rate)) * 2
        length = len(self._heard)
        if position > length + 4:  # a sample of rounding is none of silence
            self._heard += bytes(position - length)
        self._heard += pcm
        if rms_dbfs(pcm) >= _VOICED_DBFS:
            if self.last_voice is None or at - self.last_voice > _STRETCH_S:
                self.voice_since = at
            self.last_voice = at + len(pcm) / 2 / self.rate

    def silent_for(self, now: float) -> float:
        """For how long nothing of the agent has been heard, seconds."""
        return now - (self.last_voice if self.last_voice is not None else self.zero)

    def stereo(self) -> bytes:
        """The whole call at `rate`, PCM16, caller left, agent right."""
        return to_stereo(resample(bytes(self._mic), self.mic_rate, self.rate), bytes(self._heard))

    def runs(self, log: list[Rendered]) -> list[Run]:
        """A playback device's log on the tape."""
        return [
            Run(round((run.at - self.zero) * self.rate), run.samples, run.response, run.offset)
            for run in log
            if run.at >= self.zero
        ]
