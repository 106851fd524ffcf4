"""The session's responses as responses of OpenAI Realtime: one at a time on the wire, however they overlap in the session."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from ..audio import Resampler, alaw_encode, ulaw_encode
from ..engine.script import Script
from ..wire.openai_realtime import RATE, Answer, Answers, ResponseParams, Usage
from ..wire.openai_realtime.config import AudioFormat
from ..wire.openai_realtime.items import ResponseStatus

#: replies that can still be truncated
_REMEMBERED = 64


class _End(msgspec.Struct, frozen=True):
    """How a reply ended."""

    status: ResponseStatus
    reason: str | None = None
    error: tuple[str, str] | None = None


class Reply:
    """One response of the session. What cannot be sent yet, because another is on the wire, waits in `held`."""

    def __init__(self, response: str, params: ResponseParams) -> None:
        self.response = response
        self.params = params
        self.script = Script(RATE)
        self.answer: Answer | None = None
        self.end: _End | None = None
        self.start: int | None = None  # position of its first sample on the listener's track
        self.held: list[Callable[[Answer], None]] = []
        self._resampler: Resampler | None = None

    def encoded(self, format: AudioFormat, pcm: bytes) -> tuple[bytes, int]:
        """PCM16 at 24 kHz in the client's format, and its samples there."""
        if format.type == "audio/pcm":
            return pcm, len(pcm) // 2
        if self._resampler is None:
            self._resampler = Resampler(RATE, format.hz)
        low = self._resampler.feed(pcm)
        return (ulaw_encode(low) if format.type == "audio/pcmu" else alaw_encode(low)), len(low) // 2


class Replies:
    """The replies of one link, in order."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._all: OrderedDict[str, Reply] = OrderedDict()
        self._queue: list[Reply] = []
        self.usage: Usage | None = None

    def begin(self, response: str, params: ResponseParams) -> Reply:
        """A response has begun."""
        reply = Reply(response, params)
        self._all[response] = reply
        if len(self._all) > _REMEMBERED:
            self._all.popitem(last=False)
        self._queue.append(reply)
        self._advance()
        return reply

    def go_on(self, before: Reply, response: str) -> Reply:
        """A response that the client is to take for more of the one before it: what an agent says of its own tools."""
        if self.current is not before or before.answer is None:
            return self.begin(response, ResponseParams())
        before.end = _End("completed")
        reply = Reply(response, before.params)
        reply.answer = before.answer
        reply.answer.pause()
        reply.answer.owner = response
        self._all[response] = reply
        self._queue[0] = reply
        return reply

    def get(self, response: str) -> Reply | None:
        """A reply that is not long gone."""
        return self._all.get(response)

    @property
    def current(self) -> Reply | None:
        """The reply that is on the wire."""
        return self._queue[0] if self._queue else None

    def text(self, reply: Reply, delta: str) -> None:
        """More of what it says."""
        reply.script.say(delta)
        self._do(reply, lambda answer: answer.text(delta))

    def audio(self, reply: Reply, pcm: bytes, position: int) -> None:
        """More audio, PCM16 at 24 kHz, at this position of the listener's track."""
        if reply.start is None:
            reply.start = position
        reply.script.audio(len(pcm) // 2)
        self._do(reply, lambda answer: answer.audio(*reply.encoded(answer.format, pcm)))

    def call(self, reply: Reply, call: str, name: str, arguments: str) -> None:
        """It calls a function of the client's."""
        self._do(reply, lambda answer: answer.call(call, name, arguments))

    def end(
        self, reply: Reply, status: ResponseStatus, reason: str | None = None, error: tuple[str, str] | None = None
    ) -> None:
        """No more comes of it."""
        if reply.end is None:
            reply.end = _End(status, reason, error)
            self._advance()

    def _do(self, reply: Reply, step: Callable[[Answer], None]) -> None:
        if reply.end is not None:
            return
        if reply.answer is not None:
            step(reply.answer)
        else:
            reply.held.append(step)

    def _advance(self) -> None:
        while self._queue:
            reply = self._queue[0]
            if reply.answer is None:
                reply.answer = self._answers.begin(reply.params)
                reply.answer.owner = reply.response
                held, reply.held = reply.held, []
                for step in held:
                    step(reply.answer)
            if reply.end is None:
                return
            usage, self.usage = self.usage, None
            reply.answer.end(reply.end.status, reason=reply.end.reason, error=reply.end.error, usage=usage)
            del self._queue[0]
