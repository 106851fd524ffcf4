"""What a server writes on one link: first what the client missed, then what waits, numbered as it leaves."""

from __future__ import annotations

from collections import deque

from duologue.engine.delivery import Gap, Item, Position
from duologue.wire.duologue.delivery import ServerDelivery
from duologue.wire.duologue.frames import agent_number, encode_agent_audio
from duologue.wire.duologue.link import gap_message
from duologue.wire.duologue.messages import ResponseNumber, encode, encode_event


class Sender:
    """The sequenced part of one link's output.

    Args:
        delivery: what is to be sent.
        after: last position that the client has.
        parts: the replay of what follows it (`Outbox.replay`); empty for a new call.
    """

    __slots__ = ("_cursor", "_declared", "_declared_for", "_delivery", "_outbox", "_replay")

    def __init__(self, delivery: ServerDelivery, after: Position, parts: list[Item | Gap]) -> None:
        self._delivery = delivery
        self._outbox = delivery.outbox
        self._cursor = after
        self._replay = deque(parts)
        self._declared = 0  # the response number that was declared last; numbers start at 1
        self._declared_for = ""

    def next(self) -> str | bytes | None:
        """The next frame: replay first, then events, then audio. None: nothing waits."""
        delivery = self._delivery
        if self._replay:
            return self._replayed()
        if delivery.events:
            epoch, n = self._outbox.next()
            text = encode_event(epoch, n, delivery.events.popleft())
            self._outbox.push_event(text)
            return text
        audio = delivery.audio
        if not audio:
            return None
        pcm, position, response, offset, flags = audio[0]
        if response == self._declared_for:
            number = self._declared
        elif (number := delivery.number(response)) != self._declared:
            return self._declare(number, response)
        audio.popleft()
        samples = len(pcm) >> 1
        outbox = self._outbox
        epoch, n = outbox.sent
        frame = encode_agent_audio(epoch, n + 1, position, number, offset, pcm, flags)
        outbox.push_audio(frame, samples, position, response)
        delivery.queued_samples -= samples
        delivery.transmitted = position + samples
        return frame

    def again(self) -> None:
        """Audio was cleared: if a replay is under way, what is left of it is made anew."""
        if self._replay:
            self._replay = deque(self._delivery.outbox.replay(self._cursor))

    def _replayed(self) -> str | bytes:
        part = self._replay[0]
        if isinstance(part, Gap):
            self._replay.popleft()
            self._cursor = part.last
            output = self._delivery.output
            return encode(gap_message(part, output.rate if output else 0))
        if isinstance(part.data, bytes) and (number := agent_number(part.data)) != self._declared:
            return self._declare(number, part.key)
        self._replay.popleft()
        self._cursor = part.at
        return part.data

    def _declare(self, number: int, response: str) -> str:
        self._declared, self._declared_for = number, response
        return encode(ResponseNumber(number=number, response=response))
