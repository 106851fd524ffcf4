"""The user audio that the supervisor keeps for a replay: what nobody has answered yet."""

from __future__ import annotations

import audioop

from ..audio import Ring

#: longest that is kept, seconds
KEEP_S = 60.0
#: kept before the present while nobody speaks: an onset may be under way
PREROLL_S = 1.0
#: kept beyond that before it is let go of
_SPARE_S = 0.2
#: longest that is kept while nobody is said to speak, and it only sounds as if somebody did (seconds)
_UNSURE_S = 20.0
#: sound that long ago may still be a turn of which a provider that lags behind has not said anything
_HANG_S = 8.0
#: silence after which nobody is speaking any more, as far as levels tell; and after which no answer is about to come
_PAUSE_S, _WAIT_S = 0.4, 2.0
#: RMS from which a frame is sound: at least (-55 dBFS), times the room's noise (12 dB), at most (-30 dBFS)
_LEAST, _OVER_NOISE, _MOST = 58.0, 4.0, 1000.0
#: how fast the room's noise is taken to rise while it is louder than was known: 0.5 dB a second, as a factor a second
_RISE = 1.06


class Onset:
    """Where somebody may have begun to speak, by level alone.

    Providers tell late that the user speaks (Gemini only with the transcript), and a change of connection until then must not
    lose what was said. This errs on the side of speech.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._noise = _LEAST / _OVER_NOISE
        self._start = 0  # of the sound that may be speech
        self._last: int | None = None  # end of its last loud frame; None: there is no such sound
        self._rise = 1, _RISE ** (1 / rate)  # over so many samples; pieces are mostly of one length

    def feed(self, pcm: bytes, position: int) -> None:
        """The next piece of the track."""
        level = float(audioop.rms(pcm, 2))
        samples = len(pcm) // 2
        if samples != self._rise[0]:
            self._rise = samples, _RISE ** (samples / self._rate)
        noise = self._noise
        if level:
            noise = self._noise = max(min(level, noise * self._rise[1]), _LEAST / _OVER_NOISE)
        if level >= min(_MOST, noise * _OVER_NOISE):
            if self._last is None:
                self._start = position
            self._last = position + samples
        elif self._last is not None and position + samples - self._last > _HANG_S * self._rate:
            self._last = None

    def silence_s(self, position: int) -> float:
        """How long before `position` it sounded as if somebody spoke, seconds."""
        return (position - self._last) / self._rate if self._last is not None else 1e9

    def since(self, position: int) -> int:
        """From where on it did; `position` if it does not."""
        return self._start if self._last is not None else position


class Kept:
    """See the module. Positions are samples of the user's track at the session's rate; `start` to `end` is kept."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._ring = Ring(int(KEEP_S * rate) * 2)
        self._onset = Onset(rate)
        self._preroll = int(PREROLL_S * rate)
        self._spare = int(_SPARE_S * rate)

    @property
    def end(self) -> int:
        """Position after the newest sample."""
        return self._ring.end

    def judge(self, answered_to: int) -> tuple[bool, bool]:
        """Whether it sounds as if somebody spoke; whether, if not, as if they had just spoken, after `answered_to`."""
        end = self._ring.end
        silence_s = self._onset.silence_s(end)
        if silence_s < _PAUSE_S:
            return True, False
        return False, silence_s < _WAIT_S and end - int(silence_s * self._rate) > answered_to

    def write(self, pcm: bytes, position: int) -> None:
        """The next piece of the track."""
        if position != self._ring.end:
            # The track has a gap. What lies before it cannot be replayed in one piece with what follows.
            self._ring = Ring(int(KEEP_S * self._rate) * 2, position=position)
        self._ring.write(pcm)
        self._onset.feed(pcm, position)

    def nobody_speaks(self, heard_to: int) -> None:
        """Nothing is owed and the floor is quiet: let go of all but what may be the beginning of a turn.

        `heard_to`: up to where somebody has listened for speech window by window.
        """
        now, preroll = self._ring.end, self._preroll
        if now - self._ring.start < preroll + self._spare:
            return  # not for every frame
        since = now
        if heard_to < now - preroll:
            since = max(self._onset.since(now), now - int(_UNSURE_S * self._rate))
        self._ring.discard_until(min(since, now) - preroll)

    def after(self, position: int) -> tuple[int, int]:
        """What there is from `position` on, as [start, end)."""
        return min(max(self._ring.start, position), self._ring.end), self._ring.end

    def read(self, position: int, samples: int) -> bytes:
        """Up to `samples` from `position` on."""
        return self._ring.read_from(position, samples)
