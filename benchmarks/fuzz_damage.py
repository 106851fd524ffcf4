"""How messages are damaged: mostly so that they are still messages, and what lies behind the framing is reached."""

from __future__ import annotations

import copy
import random
import struct
import uuid
import zlib
from dataclasses import replace
from typing import Any

import msgspec

from benchmarks.fuzz_seeds import Call, Ref, Step
from duologue.errors import ProtocolError
from duologue.wire.eventstream import FrameDecoder, Timestamp, encode_frame

_VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**53,
    2**63,
    -(2**63),
    2**64,
    1.5,
    1e308,
    "",
    "x",
    "AAAA",
    "5s",
    "é\U0001f600",
    "\x00",
    "A" * 5000,
    [],
    [1, 2],
    [[]],
    {},
    {"type": "x"},
    {"": None},
]
_HEADERS = (None, True, 7, -(2**40), b"\x00\xff", "x", "exception", "event", Timestamp(2**62), uuid.UUID(int=1))
_FRAGMENTS = 4000
#: what event streams are read by
_STREAMS = frozenset({"event stream", "nova sonic"})


def _refers(call: Call) -> bool:
    return any(isinstance(value, Ref) for value in (*call.args, *call.kwargs.values()))


def framed(step: Step) -> bool:
    """Whether an input was past the framing."""
    if isinstance(step.data, bytes) and step.codec in _STREAMS and step.method in ("feed", "decode_frame"):
        return not (isinstance(step.error, ProtocolError) and step.error.code == "eventstream")
    if isinstance(step.data, bytes) and step.codec == "duologue v1":
        return step.error is None
    if step.method in ("canonical_query", "decode_bytes"):
        return True
    return _json(step.data) is not _NOT


_NOT = object()


def _json(data: str | bytes | None) -> Any:
    try:
        return msgspec.json.decode(data or b"")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _NOT


class Damage:
    """Damages seeds. `calls` are those of all seeds, of which calls and parts of messages are put into others."""

    def __init__(self, chance: random.Random, calls: list[Call]) -> None:
        self._chance = chance
        self._of: dict[str, list[Call]] = {}  # calls that fit any object of a class
        messages = [call.data for call in calls if call.data is not None]
        for call in calls:
            if call.on is not None and call.made is None and not _refers(call):
                self._of.setdefault(call.name, []).append(call)
        self._fragments: list[Any] = list(_VALUES)
        self._names: list[str] = ["type", "x", "id"]
        pool = list(messages)
        chance.shuffle(pool)
        for message in pool:
            if len(self._fragments) >= _FRAGMENTS:
                break
            self._collect(_json(message))

    def _collect(self, value: Any, depth: int = 0) -> None:
        if isinstance(value, dict) and depth < 6:
            self._names += list(value)
            for item in value.values():
                self._fragments.append(item)
                self._collect(item, depth + 1)
        elif isinstance(value, list) and depth < 6:
            for item in value[:8]:
                self._collect(item, depth + 1)

    def sequence(self, calls: list[Call], rate: float) -> list[Call]:
        """The calls, with about `rate` of those damaged that take a message, and some of other seeds among them."""
        chance = self._chance
        out: list[Call] = []
        for call in calls:
            if call.on is not None and chance.random() < rate / 2 and call.name in self._of:
                other = chance.choice(self._of[call.name])
                out.append(replace(other, on=call.on))
            if call.data is None or chance.random() >= rate:
                out.append(call)
                continue
            kind = chance.randrange(12)
            if kind == 0:
                continue
            if kind == 1:
                out += [call, call]
            elif kind == 2 and out:
                out.insert(chance.randrange(len(out)), call)
            elif kind == 3:
                out += [replace(call, data=self.message(call.data)), call]
            else:
                out.append(replace(call, data=self.message(call.data)))
        return out

    def message(self, data: str | bytes) -> str | bytes:
        """A message, damaged."""
        value = _json(data)
        if value is not _NOT:
            return self._damaged_json(value, data)
        if isinstance(data, bytes):
            return self._damaged_stream(data) if self._chance.random() < 0.85 else self.scrambled(data)
        return self._damaged_text(data)

    def _damaged_json(self, value: Any, data: str | bytes) -> str | bytes:
        chance = self._chance
        value = copy.deepcopy(value)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            value = self.changed(value)
        text = msgspec.json.encode(value)
        if chance.random() < 0.1:
            text = self.scrambled(text)
            return text if isinstance(data, bytes) else text.decode(errors="replace")
        return text if isinstance(data, bytes) else text.decode()

    def changed(self, value: Any) -> Any:
        """One change, somewhere in the tree."""
        chance = self._chance
        if not isinstance(value, dict | list) or not value:
            return self._other(value)
        target = value
        while True:
            key = chance.choice(list(target)) if isinstance(target, dict) else chance.randrange(len(target))
            item = target[key]
            if isinstance(item, dict | list) and item and chance.random() < 0.75:
                target = item
                continue
            break
        kind = chance.randrange(5)
        if kind == 0:
            del target[key]
        elif kind == 1 and isinstance(target, dict):
            target[chance.choice(self._names)] = target.pop(key)
        elif kind == 2 and isinstance(target, dict):
            target[chance.choice(self._names)] = copy.deepcopy(chance.choice(self._fragments))
        else:
            target[key] = self._other(item)
        return value

    def _other(self, value: Any) -> Any:
        """Another value; mostly of the same type, for those get further."""
        chance = self._chance
        if chance.random() < 0.5:
            match value:
                case bool():
                    return not value
                case int():
                    return chance.choice((value + 1, value - 1, -value, value * 1000, 0))
                case float():
                    return chance.choice((value * 2, -value, 0.0, 1e300))
                case str() if value:
                    at = chance.randrange(len(value) + 1)
                    return chance.choice(
                        (value[:at], value[at:], value[:at] + "=" + value[at:], value.upper(), value * 2)
                    )
                case list():
                    return value + value
        return copy.deepcopy(chance.choice(self._fragments))

    def _damaged_stream(self, data: bytes) -> bytes:
        """Frames of an event stream, changed and closed again; other bytes are changed at their beginning."""
        chance, decoder = self._chance, FrameDecoder()
        try:
            frames = decoder.feed(data)
        except ProtocolError:
            frames = []
        if not frames:
            return self.scrambled(data, most=32)
        out = b""
        hit = chance.randrange(len(frames))
        for index, frame in enumerate(frames):
            headers, payload = dict(frame.headers), frame.payload
            if index == hit:
                kind = chance.randrange(4)
                if kind == 0 and headers:
                    name = chance.choice(list(headers))
                    other = chance.choice(_HEADERS)
                    if other is None:
                        del headers[name]
                    else:
                        headers[name] = other
                elif payload:
                    changed = self.message(payload)
                    payload = changed if isinstance(changed, bytes) else changed.encode()
            out += encode_frame(headers, payload) if chance.random() < 0.9 else self._odd_frame(payload)
        cut = chance.random()
        return out[: chance.randrange(len(out))] if cut < 0.05 else out + out if cut < 0.1 else out

    def _odd_frame(self, payload: bytes) -> bytes:
        """A frame that is closed rightly, and whose headers have types that are not in use, or none that there are."""
        chance, block = self._chance, b""
        for number in range(chance.randrange(1, 4)):
            kind = chance.randrange(12)
            value = chance.randbytes({0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}.get(kind, 0))
            if kind in (6, 7):
                value = chance.choice((b"\x00\x03abc", b"\x00\x02\xff\xfe", b"\x00\x09a", b"\x00"))
            name = chance.choice((b"", b":date", b"h%d" % number, b"\xff"))
            block += bytes((len(name),)) + name + bytes((kind,)) + value
        prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
        body = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
        return body + struct.pack(">I", zlib.crc32(body))

    def scrambled(self, data: bytes, most: int | None = None) -> bytes:
        """Bytes, a few of them changed, within the first `most`."""
        chance, changed = self._chance, bytearray(data)
        size = len(changed) if most is None else min(len(changed), most)
        match chance.randrange(4):
            case 0 if size:
                changed[chance.randrange(size)] = chance.randrange(256)
            case 1:
                del changed[chance.randrange(size + 1) :]
            case 2:
                changed[chance.randrange(size + 1) : 0] = chance.randbytes(chance.randrange(1, 9))
            case _ if size:
                at = chance.randrange(size)
                changed[at : at + 4] = chance.choice((b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"))
        return bytes(changed)

    def _damaged_text(self, text: str) -> str:
        chance = self._chance
        at = chance.randrange(len(text) + 1)
        extra = chance.choice(("", "{", '"', "]", "\x00", "%", "&", "=", "é", ",", "/"))
        return text[:at] + extra + text[at + chance.randrange(3) :]
