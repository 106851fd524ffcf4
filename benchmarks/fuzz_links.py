"""The link between gateway and worker: both ends talk to each other, and what is on the way between them is damaged.

Until the first damage of a round nothing may be refused, and every message arrives as it was sent and in order. After it an
end goes on or fails with its one typed error; then it takes and gives nothing more but the frame that says why.
"""

from __future__ import annotations

import random
import struct
import time
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.fuzz_damage import Damage
from benchmarks.fuzz_host import Tried, crash
from duologue.errors import ConfigurationError
from duologue.wire.hostlink import (
    HEADER,
    Accepted,
    Closed,
    Event,
    Link,
    LinkClient,
    LinkError,
    LinkOptions,
    LinkServer,
    Message,
    Open,
    Opened,
    RefreshAsked,
    Refreshed,
    Rejected,
)

_FORM = struct.Struct(">BII")
_MORE = 0x80
_JSON = frozenset({1, 2, 3, 4, 11, 12, 13})
_FIXED = {8: ">I", 9: ">QQ", 10: ">QQ"}
_WHOLE = frozenset({1, 9, 10, 11})
_OPTIONS = LinkOptions(window=4096, chunk=700, max_message=12_000, max_queue=20_000, max_streams=6)
_WIDE = LinkOptions(window=1 << 16, chunk=1 << 14, max_message=12_000, max_queue=20_000, max_streams=2)
#: well-formed frames that may come where they are not due
_PUT_IN = (
    (1, 0, b'{"version":1,"schema":1,"peer":"x"}'),
    (2, 9, b'{"session":"s","epoch":1}'),
    (3, 1, b'{"subprotocol":"a"}'),
    (4, 1, b'{"status":404}'),
    (4, 1, b'{"status":200}'),
    (5 | _MORE, 1, b"a"),
    (6, 1, bytes(12_001)),
    (8, 1, b"\0\0\x10\0"),
    (12, 1, b'{"token":"t"}'),
    (13, 1, b'{"error":"e"}'),
)
#: hellos of ends that do not fit
_HELLOS = (
    b'{"version":1,"schema":1,"peer":"x","received":1}',
    b'{"version":2,"schema":1,"peer":"x"}',
    b'{"version":1,"schema":1,"peer":"x","window":1}',
)
#: share of the frames of a round that are damaged
_RATES = (0.02, 0.1, 0.3)
_STEPS = 30
_POOL = 400
_SIZES = (0, 1, 20, 20, 300, 700, 701, 3000, 12_000)


class _End:
    """One end, and what its application knows."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sent: dict[int, list[bytes]] = defaultdict(list)
        self.got: dict[int, list[bytes]] = defaultdict(list)
        self.open: set[int] = set()
        self.owed: list[tuple[int, int]] = []
        self.asked: list[int] = []
        self.opened: list[int] = []


class Links:
    """Rounds of traffic."""

    codec = "host link"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._damage = Damage(chance, [])
        self._pool: list[tuple[int, int, bytes]] = []
        self._now = 0.0

    def valid(self) -> Iterator[Tried]:
        """Rounds without damage; and options that cannot work, which are refused when they are made."""
        for options in ({"window": 1}, {"chunk": 0}, {"max_streams": 0}):
            try:
                LinkOptions(**options)
            except ConfigurationError:
                continue
            yield Tried(self.codec, "", True, False, 0.0, f"{options} are taken")
        for _ in range(20):
            yield from self._round(0.0)

    def round(self) -> Iterator[Tried]:
        """A round, with some of its frames damaged."""
        yield from self._round(self._chance.choice(_RATES))

    def _round(self, rate: float) -> Iterator[Tried]:
        chance = self._chance
        self._now = now = 100.0
        client = LinkClient(peer="g", schema=1, now=now, epoch=chance.randrange(9), options=_OPTIONS)
        server = LinkServer(peer="w", schema=1, now=now, options=chance.choice((_OPTIONS, _WIDE)))
        ends = (_End(client), _End(server))
        clean = True
        for _ in range(_STEPS):
            for end, peer in (ends, ends[::-1]):
                if what := self._act(end):
                    yield Tried(self.codec, "", True, False, 0.0, what)
                for frame in self._on_the_way(end.link):
                    data = self._damaged(frame) if chance.random() < rate else frame
                    clean &= data == frame
                    yield self._arrive(peer, data, clean)
                if not clean:
                    continue
                if any(peer.got[stream] != end.sent[stream][: len(peer.got[stream])] for stream in peer.got):
                    yield Tried(self.codec, "", True, False, 0.0, "messages were lost or changed on the way")
            self._now += chance.choice((0.0, 0.1, 5.0))
            # what goes on after an end has failed is the same each time: little of it is enough
            if any(end.link.error is not None for end in ends) and chance.random() < 0.7:
                break
        yield from self._finish(ends)

    # ------------------------------------------------------------------ the applications

    def _act(self, end: _End) -> str:
        """Something that an application may do now; what was wrong with it."""
        chance, link = self._chance, end.link
        for _ in range(chance.choice((0, 1, 2))):
            try:
                self._one_act(end)
            except LinkError as error:
                # too much, too early, too late: never a broken link, but for silence
                if error.code not in ("link.state", "link.flow") and link.error is not error:
                    return f"an act ended with {error.code}"
            except Exception as error:
                return f"an act: {crash(error)}"
        if len(link.streams) > link.options.max_streams:
            return "more streams than there may be"
        return ""

    def _one_act(self, end: _End) -> None:
        chance, link = self._chance, end.link
        known = [*link.streams, 0, 7]
        stream = chance.choice(known)
        match chance.randrange(14):
            case 0 | 1 if isinstance(link, LinkClient):
                link.open(Open(session="s" * 40, epoch=1, headers=(("x", "y"),), subprotocols=("chat",)))
            case 0 | 1 | 2 if isinstance(link, LinkServer) and end.opened:
                stream = end.opened.pop(0)
                if chance.random() < 0.9:
                    link.accept(stream, chance.choice(("", "chat")))
                    if stream in link.streams:
                        end.open.add(stream)
                else:
                    link.reject(stream, chance.choice((400, 503, 599, 200)), "{}")
            case 0 if isinstance(link, LinkServer):
                link.accept(stream)
                if stream in link.streams:
                    end.open.add(stream)
            case 1 if isinstance(link, LinkServer):
                link.reject(stream, 503)
            case 2:
                link.send(stream, b"")
                end.sent[stream].append(b"")
            case 7:
                link.consumed(stream, 1 << 20)
            case 3 | 4 | 5 | 6 if end.open:
                stream = chance.choice(sorted(end.open))
                data = chance.randbytes(chance.choice(_SIZES))
                text = data.hex()[: len(data)]
                link.send(stream, message := chance.choice((data, text)))
                end.sent[stream].append(message if isinstance(message, bytes) else message.encode())
            case 8 | 9 if end.owed:
                for owed in end.owed:
                    link.consumed(*owed)
                end.owed.clear()
            case 10 if isinstance(link, LinkServer):
                link.refresh(stream, "t" * chance.choice((1, 100, 70_000)))
            case 10 if isinstance(link, LinkClient) and end.asked:
                link.refreshed(end.asked.pop(), Refreshed(expires=chance.choice((None, 5.0)), error=""))
            case 11 if chance.random() < 0.5:
                end.open.discard(stream)
                chance.choice((link.close, link.abort))(stream, 1000, chance.choice(("", "é" * 100)))
            case 12:
                link.deadline()
                link.tick(self._now + (100 if chance.random() < 0.01 else 0))
            case 13 if chance.random() < 0.1:
                link.go_away("enough", 1.0)
            case _:
                link.takes(stream), link.queued(stream), link.sent, link.rtt

    # ------------------------------------------------------------------ the way

    def _on_the_way(self, link: Link) -> list[bytes]:
        """The frames that an end has to send, some of them put aside to be sent elsewhere."""
        data = link.data_to_send(self._chance.choice((1, 1000, 64 << 10)))
        frames = []
        while data:
            kind, stream, length = _FORM.unpack_from(data)
            frames.append(data[: HEADER + length])
            entry = (kind, stream, data[HEADER : HEADER + length])
            if len(self._pool) < _POOL:
                self._pool.append(entry)
            else:
                self._pool[self._chance.randrange(_POOL)] = entry
            data = data[HEADER + length :]
        return frames

    def _damaged(self, frame: bytes) -> bytes:
        """What comes instead of a frame."""
        chance = self._chance
        kind, stream, _ = _FORM.unpack_from(frame)
        payload = frame[HEADER:]
        match chance.randrange(12):
            case 0:
                return b""
            case 1:
                return frame + frame
            case 2:
                other = chance.choice(self._pool) if chance.random() < 0.3 else chance.choice(_PUT_IN)
                put_in = _framed(other[0], other[1] if chance.random() < 0.5 else stream, other[2])
                return chance.choice((put_in + frame, put_in))
            case 3:
                return self._damage.scrambled(frame)
            case 4:
                length = chance.choice((0, len(payload) + 1, len(payload) - 1, 1 << 16, 1 << 20, 1 << 31))
                return _FORM.pack(kind, stream, length % (1 << 32)) + payload
            case 5:
                kinds = (*range(1, 14), kind ^ _MORE, 5 | _MORE, 6 | _MORE, 0, 14, 255)
                return _framed(chance.choice(kinds), stream, payload)
            case 6:
                streams = (0, 1, 2, 3, stream + 1, max(stream - 1, 0), (1 << 32) - 1, 1 << 31)
                return _framed(kind, chance.choice(streams), payload)
            case _:
                return _framed(kind, stream, self._other_payload(kind & ~_MORE, payload))

    def _other_payload(self, kind: int, payload: bytes) -> bytes:
        chance = self._chance
        if kind == 1 and chance.random() < 0.5:
            return chance.choice(_HELLOS)
        if kind in _JSON and chance.random() < 0.9:
            changed = self._damage.message(payload)
            return changed if isinstance(changed, bytes) else changed.encode()
        if kind in _FIXED and chance.random() < 0.8:
            form = _FIXED[kind]
            largest = (1 << 32) - 1 if form == ">I" else (1 << 64) - 1
            return struct.pack(form, *(chance.choice((0, 1, 4096, 1 << 30, largest)) for _ in form[1:]))
        if kind == 7 and chance.random() < 0.8:
            return struct.pack(">H", chance.choice((0, 1000, 65535))) + chance.choice(
                (b"", b"\xff", b"bye", b"a" * 500)
            )
        return chance.choice((b"", payload[:-1], payload + b"\0", chance.randbytes(30), bytes(5000), b"[" * 5000))

    def _arrive(self, end: _End, data: bytes, clean: bool) -> Tried:
        """Bytes reach an end, in pieces; its application is told of what they were."""
        link, chance = end.link, self._chance
        over = link.error is not None
        tried = Tried(self.codec, data, True, False, 0.0)
        at = chance.choice((0, 0, 1, HEADER, len(data) // 2))
        began = time.perf_counter()
        try:
            events = [*link.receive(data[:at], self._now), *link.receive(data[at:], self._now)]
            tried.took_s = time.perf_counter() - began
            tried.find = self._hear(end, events)
            if over and events:
                tried.find = "a failed link takes more"
        except LinkError as error:
            tried.took_s = time.perf_counter() - began
            tried.refused, tried.framed = True, not str(error).startswith("The peer sent a frame")
            if clean:
                tried.find = f"refused though valid: {error}"
            elif link.error is not error or link.streams:
                tried.find = "an error that did not end the link"
        except Exception as error:
            tried.find = crash(error)
        return tried

    def _hear(self, end: _End, events: list[Event]) -> str:
        for event in events:
            match event:
                case Opened(stream=stream):
                    end.opened.append(stream)
                case Accepted(stream=stream):
                    end.open.add(stream)
                case Rejected(stream=stream) | Closed(stream=stream):
                    end.open.discard(stream)
                case RefreshAsked(stream=stream):
                    end.asked.append(stream)
                case Message(stream=stream, data=data, cost=cost):
                    if len(data) > end.link.options.max_message or cost > end.link.options.window:
                        return "a message beyond the bounds"
                    end.got[stream].append(data)
                    end.owed.append((stream, cost))
                    try:
                        _ = event.value
                    except LinkError:
                        continue
                case _:
                    continue
        return ""

    # ------------------------------------------------------------------ the end

    def _finish(self, ends: tuple[_End, _End]) -> Iterator[Tried]:
        """What is left is given out, and ends; a peer that falls silent is given up."""
        for end in ends:
            what = ""
            for _ in range(200):
                if not end.link.data_to_send():
                    break
            else:
                what = "an end never stops sending"
            failed = end.link.error is not None
            try:
                end.link.tick(end.link.deadline())
                end.link.tick(self._now + 1000)
                what = what or ("" if failed else "silence goes unnoticed")
            except LinkError as error:
                what = what or (
                    "" if error.code == "link.silent" and not failed else f"silence ended with {error.code}"
                )
            last = end.link.data_to_send()
            if not failed and (last[:1] != b"\x0b" or end.link.data_to_send()):
                what = what or "an end fails without a word"
            if end.link.receive(last, self._now):
                what = what or "a failed link takes more"
            if what:
                yield Tried(self.codec, last, True, False, 0.0, what)


def _framed(kind: int, stream: int, payload: bytes) -> bytes:
    return _FORM.pack(kind, stream % (1 << 32), len(payload)) + payload
