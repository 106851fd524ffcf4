"""Many callers in one process, each with a call of protocol v1 over a WebSocket of its own: light, so that one core has hundreds.

A caller sends a frame of 20 ms each 20 ms, plays what comes on a device that it only reckons with, reports what was played ten
times a second, acknowledges four times a second, answers clears and pings, and pings once a second itself.

What it holds the host to:

- Each frame's lateness: the agent's track is paced, so the frame at position p should come p / rate after the beginning of the
  unbroken stretch. Where that is, the earliest frame of the last one to two seconds says (the host's lead may shrink by 2 ms a
  second). The host hands frames over in pairs, each 40 ms, so that the first of a pair comes 20 ms later by design: these are
  taken off. The first second of a stretch, in which the host sends ahead and finds its pace, is held to one thing only: that
  no frame comes after the one before it has been played to its end.
- Numbers, track positions and places in the answer without a gap and without repetition; samples as the agent made them.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import ssl
import struct
from collections.abc import Sequence
from time import (
    monotonic,
)  # uvloop's clock stands still for as long as a turn of the loop takes, and has whole milliseconds
from typing import Any

import msgspec
import numpy as np
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.hosted.tally import Tally
from duologue.wire.duologue.frames import AGENT_HEADER, encode_user_audio

INPUT_RATE, OUTPUT_RATE = 16_000, 24_000
FRAME_S = 0.02
_SAMPLES, _AGENT_SAMPLES = int(INPUT_RATE * FRAME_S), int(OUTPUT_RATE * FRAME_S)
_HELLO = msgspec.json.encode(
    {
        "type": "hello",
        "versions": [1],
        "input": {"rate": INPUT_RATE},
        "output": {"rate": OUTPUT_RATE},
        "capabilities": {"acks": True, "duck": True},
    }
)
_AUDIO = struct.Struct("<BBHIQQII")
_SAMPLE = struct.Struct("<h")
#: how long after its arrival the device renders the first sample of a stretch, seconds
_DEVICE_S = 0.04
#: how long a stretch is not judged, and how long the earliest frame counts before it is looked for anew
_SETTLING_S, _WINDOW_S = 1.0, 1.0
#: frames of a pair that is handed over at once lie this far apart on the track
_PAIR_S = FRAME_S
_ACCOUNT = re.compile(rb'"account: (\d+) (\d+) (\d+)')
_OPEN_S, _ACCOUNT_S = 60.0, 10.0


class _Head(msgspec.Struct):
    type: str
    n: int = 0
    t: float = 0.0
    c: int = 0
    before: int = 0
    code: str = ""
    first: tuple[int, int] = msgspec.field(name="from", default=(0, 0))
    last: tuple[int, int] = msgspec.field(name="to", default=(0, 0))
    event: msgspec.Raw = msgspec.Raw(b"")


class _Type(msgspec.Struct):
    type: str
    stage: str = ""


_head = msgspec.json.Decoder(_Head)
_type = msgspec.json.Decoder(_Type)


def round_of(period_s: float, spoken: Sequence[tuple[float, int, float | bytes]]) -> list[bytes]:
    """The frames of a round that callers repeat: at so many seconds, utterance so-and-so, for so long or as this recording.

    Marks are in the lowest two bits of each sample. Where recordings are spoken, a quiet room's noise is between them.
    """
    count = round(period_s / FRAME_S)
    recorded = any(isinstance(sound, bytes) for *_, sound in spoken)
    noise = np.random.default_rng(1).normal(0.0, 16.0 if recorded else 0.0, count * _SAMPLES)
    samples = np.rint(noise).astype(np.int16) & ~3
    for at, mark, sound in spoken:
        first = round(at / FRAME_S) * _SAMPLES
        if isinstance(sound, bytes):
            pcm = np.frombuffer(sound, "<i2")[: len(samples) - first]
        else:
            pcm = np.zeros(round(sound / FRAME_S) * _SAMPLES, np.int16)
        samples[first : first + len(pcm)] = (pcm & ~3) | mark
    return [samples[n * _SAMPLES : (n + 1) * _SAMPLES].astype("<i2").tobytes() for n in range(count)]


class Caller(WSListener):  # type: ignore[misc]
    """One call. `frames` is the round that it repeats, from frame `phase` on, after `first` (what it says first of all)."""

    def __init__(self, tally: Tally, frames: Sequence[bytes], phase: int, first: Sequence[bytes]) -> None:
        super().__init__()
        self.tally = tally
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_samples = 0
        self.over = False
        #: samples that arrived, were missing, came twice, as the agent says; None until asked and answered
        self.account: tuple[int, int, int] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: WSTransport | None = None
        self._frames, self._phase, self._first = frames, phase, first
        self._begin = 0.0
        self._frame = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent_n = 0
        self._seen_n = self._told_n = 0
        self._end = 0  # of the track as received
        self._number, self._offset = -1, 0
        self._playing_since, self._playing_from, self._playing_to = 0.0, 0, 0
        self._reported = 0
        self._earliest = self._before = 0.0  # of this window and the one before it: arrival less the place on the track
        self._window_ends = 0.0
        self._settled_at = 0.0
        self._fresh = True  # the next frame begins a stretch, or follows a clear

    # ------------------------------------------------------------------ sending

    def on_ws_connected(self, transport: WSTransport) -> None:
        """See WSListener."""
        self._transport = transport
        transport.send(WSMsgType.TEXT, _HELLO)

    def begin(self) -> None:
        """Open the microphone."""
        self._begin = monotonic() + random.random() * FRAME_S
        self._timer = self._loop.call_at(self._begin, self._tick)

    def mute(self) -> None:
        """Close the microphone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        transport, tally, index = self._transport, self.tally, self._frame
        assert transport is not None
        now = monotonic()
        tally.ticks.add(now - self._begin - index * FRAME_S)
        if index < len(self._first):
            pcm = self._first[index]
        else:
            pcm = self._frames[(index - len(self._first) + self._phase) % len(self._frames)]
        self._sent_n += 1
        transport.send(WSMsgType.BINARY, encode_user_audio(1, self._sent_n, self.sent_samples, pcm))
        self.sent_samples += _SAMPLES
        tally.sent += 1
        if not pcm[0] & 3:
            tally.silent += 1
        if not index % 5 and (played := self._played(now)) > self._reported:
            self._reported = played
            self._tell(b'{"type":"played","e":1,"position":%d,"at":%f}' % (played, now))
        if not index % 12 and self._seen_n > self._told_n:
            self._told_n = self._seen_n
            self._tell(b'{"type":"ack","e":1,"n":%d}' % self._seen_n)
        if not index % 50:
            self._tell(b'{"type":"ping","t":%f}' % now)
        self._frame = index + 1
        self._timer = self._loop.call_at(self._begin + (index + 1) * FRAME_S, self._tick)

    def _tell(self, text: bytes) -> None:
        if self._transport is not None and not self.over:
            self._transport.send(WSMsgType.TEXT, text)

    async def reckon(self) -> None:
        """Close the microphone, and ask the agent what it has heard of it."""
        self.mute()
        await asyncio.sleep(0.3)
        self._sent_n += 1
        self._tell(b'{"type":"input","e":1,"n":%d,"input":{"type":"input.text","text":"account"}}' % self._sent_n)
        end = self._loop.time() + _ACCOUNT_S
        while self.account is None and not self.over and self._loop.time() < end:  # noqa: ASYNC110 - the hot path sets no events
            await asyncio.sleep(0.05)

    async def hang_up(self) -> None:
        """End the call."""
        self.mute()
        self._tell(b'{"type":"bye","code":"hangup"}')
        self.over = True
        if self._transport is not None:
            self._transport.send_close()
            await self._transport.wait_disconnected()

    # ------------------------------------------------------------------ receiving

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """See WSListener."""
        if self.over:
            return
        if frame.msg_type == WSMsgType.BINARY:
            self._audio(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            self._text(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self._lost()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """See WSListener."""
        self._lost()

    def _lost(self) -> None:
        self.mute()
        if not self.over:
            self.over = True
            self.tally.gone += 1
        if not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError("the call ended before its welcome"))

    def _count(self, n: int) -> None:
        expected = self._seen_n + 1
        if n < expected:
            self.tally.doubled += 1
        else:
            self.tally.lost += n - expected
            self._seen_n = n

    def _played(self, now: float) -> int:
        played = self._playing_from + int(max(0.0, now - self._playing_since) * OUTPUT_RATE)
        return min(self._playing_to, played)

    def _audio(self, data: bytes) -> None:
        now, tally = monotonic(), self.tally
        _, _, _, _, n, position, number, offset = _AUDIO.unpack_from(data)
        samples = (len(data) - AGENT_HEADER) >> 1
        self._count(n)
        tally.received += 1
        if position != self._end:
            tally.lost_samples += max(0, position - self._end)
            tally.doubled_samples += max(0, self._end - position)
        if number == self._number and not self._fresh and offset != self._offset:
            tally.lost_samples += max(0, offset - self._offset)
            tally.doubled_samples += max(0, self._offset - offset)
        if _SAMPLE.unpack_from(data, AGENT_HEADER)[0] != 1 + offset // _AGENT_SAMPLES % 30_000:
            tally.wrong += 1
        if self._played(now) >= self._playing_to:  # it has run dry
            if number == self._number and not self._fresh:
                tally.dry += 1
            else:
                self._settled_at = self._window_ends = now + _SETTLING_S
                self._earliest = math.inf
            self._playing_since, self._playing_from = now + _DEVICE_S, position
        if now >= self._settled_at:
            came = now - position / OUTPUT_RATE
            if now >= self._window_ends:
                self._before, self._earliest, self._window_ends = self._earliest, came, now + _WINDOW_S
            elif came < self._earliest:
                self._earliest = came
            tally.late.add(came - min(self._earliest, self._before) - _PAIR_S)
        self._fresh = False
        self._number, self._offset = number, offset + samples
        self._end = self._playing_to = position + samples

    def _text(self, data: bytes) -> None:
        message = _head.decode(data)
        match message.type:
            case "event":
                self._count(message.n)
                event = _type.decode(message.event)
                self.tally.events[event.type + (f".{event.stage}" if event.stage else "")] += 1
                if (found := _ACCOUNT.search(data)) is not None:
                    self.account = (int(found[1]), int(found[2]), int(found[3]))
            case "ping":
                self._tell(b'{"type":"pong","t":%f,"r":%f}' % (message.t, monotonic()))
            case "pong":
                self.tally.trip.add(monotonic() - message.t)
            case "clear":
                played = self._played(monotonic())
                # What the host had not written yet is not coming any more: the track goes on from there.
                self._playing_from = self._playing_to = played
                self._end, self._fresh = max(self._end, message.before), True
                self._tell(b'{"type":"cleared","c":%d,"e":1,"played":%d}' % (message.c, played))
            case "gap":
                missing = message.last[1] - message.first[1] + 1
                self.tally.lost += missing
                self._seen_n = max(self._seen_n, message.last[1])
            case "welcome":
                if not self.welcomed.done():
                    self.welcomed.set_result(None)
            case "error":
                self.tally.errors[message.code] += 1
            case "bye":
                self._lost()


class Callers:
    """All callers of this process.

    Args:
        frames: the round that each repeats, beginning anywhere in it. `first`: what each says before, once.
    """

    def __init__(
        self, url: str, key: str, trust: ssl.SSLContext | None, frames: Sequence[bytes], *, first: Sequence[bytes] = ()
    ) -> None:
        self.tally = Tally()
        self.calls: list[Caller] = []
        self._url, self._key, self._trust = url, key, trust
        self._frames, self._first = frames, first
        self._chance = random.Random(1)

    async def grow(self, count: int, *, at_once: int = 4) -> None:
        """Have so many callers in all. Raises ConnectionError for one that is not served."""
        gate = asyncio.Semaphore(at_once)

        async def call() -> None:
            async with gate:
                phase = self._chance.randrange(len(self._frames))
                caller = Caller(self.tally, self._frames, phase, self._first)
                more: dict[str, Any] = {"ssl_context": self._trust} if self._trust is not None else {}
                await ws_connect(
                    lambda: caller,
                    self._url,
                    extra_headers={"Authorization": f"Bearer {self._key}"},
                    websocket_handshake_timeout=_OPEN_S,
                    **more,
                )
                async with asyncio.timeout(_OPEN_S):
                    await caller.welcomed
                caller.begin()
                self.calls.append(caller)

        await asyncio.gather(*(call() for _ in range(count - len(self.calls))))

    def look(self) -> Tally:
        """What was counted since the last look."""
        tally, self.tally = self.tally, Tally()
        for call in self.calls:
            call.tally = self.tally
        return tally

    async def reckon(self) -> dict[str, int]:
        """Samples of callers that were sent, arrived, were missing and came twice, as the agent says; `silent`: calls that did
        not say."""
        await asyncio.gather(*(call.reckon() for call in self.calls))
        found = {"sent": 0, "arrived": 0, "missing": 0, "twice": 0, "silent": 0}
        for call in self.calls:
            if call.account is None:
                found["silent"] += 1
                continue
            found["sent"] += call.sent_samples
            for name, value in zip(("arrived", "missing", "twice"), call.account, strict=True):
                found[name] += value
        return found

    async def hang_up(self) -> None:
        """End all calls."""
        await asyncio.gather(*(call.hang_up() for call in self.calls))
        self.calls.clear()
