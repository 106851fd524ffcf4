"""A recording as a caller: spoken at the speed of speech, then silence until the agent has answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from ..audio import read_wav, split_stereo, to_mono
from ..errors import ConfigurationError
from .settling import Settling, settled

#: length of a frame, seconds
FRAME_S = 0.02
#: the silence that follows the recording at least; voice activity must see its end
_TAIL_S = 0.6

Side = Literal["mix", "left", "right"]


class Patience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a recorded caller speaks and hangs up, in seconds.

    Attributes:
        lead_in_s: silence before the recording; a greeting that has begun by then is heard out first.
        trailing_s: longest silence after it while the agent has not decided whether the turn is over.
        settle_s: the caller hangs up when nothing has been owed for so long.
        give_up_s: or when nothing at all has happened for so long.
    """

    lead_in_s: float = 0.4
    trailing_s: float = 6.0
    settle_s: float = 1.5
    give_up_s: float = 20.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} cannot be negative.")


class Recording:
    """A WAV file, as PCM16 mono at its own rate.

    PCM16, 8 to 48 kHz, mono or stereo; of stereo, the sides are mixed, or one is taken. Raises ConfigurationError if
    there is no such file, AudioFormatError for anything else that it is not.
    """

    def __init__(self, path: str | os.PathLike[str], side: Side = "mix") -> None:
        self.path = Path(path)
        if side not in ("mix", "left", "right"):
            raise ConfigurationError(f"side={side!r} is unknown.", hint="Use 'mix', 'left' or 'right'.")
        try:
            wav = read_wav(self.path)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be read: {error.strerror or error}.", hint="Name a WAV file of 16-bit PCM."
            ) from None
        self.rate = wav.rate
        if wav.channels == 1:
            self.pcm = wav.pcm
        elif side == "mix":
            self.pcm = to_mono(wav.pcm)
        else:
            self.pcm = split_stereo(wav.pcm)[side == "right"]
        if not self.pcm:
            raise ConfigurationError(f"{self.path} holds no audio.", hint="Record the question again.")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.pcm) / 2 / self.rate


class RecordedCaller:
    """Speaks a recording into a call. All waiting is on the event loop's clock, so a virtual one makes it quick.

    Args:
        recording: what is said.
        settling: told of the call's events by the owner; decides when to speak and when to hang up.
        send: takes PCM16 at the recording's rate, and the capture position of its first sample.
        ended: called when no more audio will come.
        patience: see :class:`Patience`.
    """

    def __init__(
        self,
        recording: Recording,
        settling: Settling,
        send: Callable[[bytes, int], Awaitable[object]],
        ended: Callable[[], Awaitable[object]],
        patience: Patience | None = None,
    ) -> None:
        self._recording = recording
        self._settling = settling
        self._send = send
        self._ended = ended
        self._patience = patience or Patience()
        self._frame = round(recording.rate * FRAME_S)
        self._silence = bytes(2 * self._frame)
        self._position = 0
        self._begin = 0.0

    async def run(self) -> None:
        """Wait for the greeting, speak, fall silent, and return when the agent owes nothing more."""
        loop = asyncio.get_running_loop()
        settling, patience = self._settling, self._patience
        self._begin = loop.time()
        lead_in = 0.0
        # A caller does not talk into a greeting, and takes a breath after it.
        while lead_in < patience.lead_in_s or (
            settling.greeting and settling.still_for(loop.time()) < patience.give_up_s
        ):
            lead_in = 0.0 if settling.greeting else lead_in + FRAME_S
            await self._pace(self._silence)
        pcm, step = self._recording.pcm, 2 * self._frame
        for at in range(0, len(pcm), step):
            await self._pace(pcm[at : at + step])
        tail = 0.0
        while tail < _TAIL_S or ((settling.speaking or settling.undecided) and tail < patience.trailing_s):
            await self._pace(self._silence)
            tail += FRAME_S
        await self._ended()
        await settled(settling, patience.settle_s, patience.give_up_s)

    async def _pace(self, pcm: bytes) -> None:
        """Hand `pcm` over when its last sample has been captured."""
        self._position += len(pcm) // 2
        due = self._begin + self._position / self._recording.rate
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        await self._send(pcm, self._position - len(pcm) // 2)
