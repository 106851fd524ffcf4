"""One connection to Nova Sonic: the session's commands become events of the codec, what its events mean becomes evidence.

It outlives its stream while it waits to be used: a stream to which nothing is said ends after 55 s, so one that waits is
opened anew before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..engine.conversation import Item
from ..errors import ModelError
from ..events import ResponseOrigin
from ..tools.base import ToolCall
from ..wire.nova_sonic import Meanings, Output, StreamException
from ..wire.nova_sonic import meaning as m
from .base import (
    Connection,
    Context,
    Ending,
    Lost,
    Refused,
    Said,
    SpeechWindow,
    Spoke,
    ToolRequested,
    UsageEvidence,
)
from .ears import Ears
from .nova_answers import Answers
from .nova_errors import error_of
from .nova_feed import Feed
from .nova_history import entries_of, result_text
from .nova_link import NovaLink
from .nova_sonic import HISTORY_BYTES, NovaSonic
from .nova_stream import NovaStream
from .nova_turns import UserTurns

logger = logging.getLogger("duologue.models.nova_sonic")

#: frames of silence at the beginning: text is not answered before 68 ms of audio have been sent
_PRIMING = 3
#: share of the audio gap after which a stream that waits to be used is opened anew
_FRESH = 0.5
#: how long before a limit its end is told, at most (seconds), and as a share of the limit
_NOTICE_S, _NOTICE = 60.0, 0.25
#: how often silence and limits are looked after: while silence is being sent, and else
_TICK_SILENT_S, _TICK_S = 0.1, 0.5
#: speech by our own ears that a service must not ignore, and for how long it may (seconds). Then it is taken for deaf
_SPEECH_S, _DEAF_S = 0.6, 8.0
#: texts of ours that the service might show again as the user's
_REMEMBERED = 8


class NovaConnection(Connection):
    """See the module. Made by :func:`open_connection`."""

    def __init__(self, model: NovaSonic, context: Context) -> None:
        self.model = model
        self.context = context
        self._link: NovaLink | None = None
        self._feed: Feed | None = None  # there is one once the connection is used
        self._meanings = Meanings()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._typed = ""
        self._texts: deque[str] = deque(maxlen=_REMEMBERED)
        self._interactive_at = 0.0
        self._told_ending = False
        self.turns = UserTurns(context, self._position_of)
        self.answers = Answers(context, self.turns, self._send_text, self._awaits_results)
        rate = model.capabilities.input_rate
        self._ears = Ears(model.vad(), rate, self._window) if model.vad is not None else None
        self._voiced = 0  # samples of speech since the provider last said anything
        self._voiced_at = 0.0  # when there was enough of it for the provider to take notice
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.UserStarted: self._user_started,
            m.UserStopped: lambda e: self.turns.stopped(e.ms),
            m.UserSaid: self._user_said,
            m.Planned: self._planned,
            m.Spoken: self._spoken,
            m.AudioBegan: self._audio_began,
            m.Chunk: self._chunk,
            m.TurnOver: self._turn_over,
            m.Interrupted: self._interrupted,
            m.ToolWanted: self._tool_wanted,
            m.ToolsAsked: self._tools_asked,
            m.Used: self._used,
        }

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open a stream. Raises a typed error within seconds."""
        self._link = await self._open_link()
        self._schedule_renewal()

    async def _open_link(self) -> NovaLink:
        transport = await self.model.transport()
        link = NovaLink(self.model, self.context, NovaStream(transport, self.model.model_id), self._hear, self._gone)
        try:
            await link.start()
        except BaseException:
            await link.close()
            raise
        return link

    def _schedule_renewal(self) -> None:
        async def renew() -> None:
            await asyncio.sleep(self.model.limits.audio_gap_s * _FRESH)
            if self._settled():
                return
            fresh = await self._open_link()
            if self._settled():
                await fresh.close()  # it was put to use meanwhile, while the older one was good still
                return
            old, self._link = self._link, fresh
            self._schedule_renewal()
            if old is not None:
                await old.close()

        self.context.spawn(renew, "keeping a waiting stream fresh")

    def _settled(self) -> bool:
        """Whether it is in use, or over."""
        return self._feed is not None or self._closed

    def _gone(self, link: NovaLink, error: ModelError) -> None:
        if link is self._link and not self._closed:
            self.context.report(Lost(error=error))

    async def close(self) -> None:
        """See Connection."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.turns.close()
        self.answers.close()
        if self._link is not None:
            await self._link.close()

    def begin(self, history: Sequence[Item]) -> None:
        """See Connection. History first, then the one container of audio, which stays open."""
        link, now = self._link, self.context.now()
        assert link is not None
        protocol = link.protocol
        for role, text in entries_of(history, most=HISTORY_BYTES):
            self._send(lambda role=role, text=text: protocol.remember(role, text))  # type: ignore[misc]
        self._feed = Feed(self.model.capabilities.input_rate, now)
        self._send(lambda: [protocol.open_audio(self.model.capabilities.input_rate)])
        self._feed_frames(self._feed.fill(_PRIMING))
        self._interactive_at = now
        self.answers.open = True
        if link.life_s is not None and link.life_s < self.model.limits.connection_s:
            self._tell_ending(link.life_s, "the credentials expire")
        self._tick()

    def _tell_ending(self, in_s: float, reason: str) -> None:
        if not self._told_ending:
            self._told_ending = True
            self.context.report(Ending(in_s=max(0.0, in_s), reason=reason))

    def _tick(self) -> None:
        """Send silence where it is due, and look after the limit on silence."""
        if self._closed or self._feed is None:
            return
        now = self.context.now()
        self._feed_frames(self._feed.silence(now))
        gap = self.model.limits.interactive_gap_s
        notice = min(_NOTICE_S, gap * _NOTICE)
        if now - self._interactive_at >= gap - notice:
            self._tell_ending(notice, "nobody has spoken for long")
        if self._voiced_at and now - self._voiced_at >= _DEAF_S:
            self._tell_ending(_NOTICE_S, "the service does not hear the user")
        self.answers.pump()
        self._timer = self._loop.call_later(_TICK_SILENT_S if self._feed.silent else _TICK_S, self._tick)

    # ------------------------------------------------------------------ sending

    def _send(self, make: Callable[[], list[bytes]]) -> bool:
        """Send what `make` makes; what the service would refuse is reported instead."""
        link = self._link
        if link is None or self._closed:
            return False
        try:
            link.put(make())
        except StreamException as refused:
            error = error_of(refused, model=self.model.model_id, region="")
            self.context.report(Refused(error=error))
            return False
        return True

    def _feed_frames(self, frames: list[bytes]) -> None:
        assert self._link is not None
        protocol = self._link.protocol
        for frame in frames:
            self._send(lambda frame=frame: [protocol.audio(frame)])  # type: ignore[misc]

    def _send_text(self, text: str) -> None:
        assert self._link is not None
        protocol = self._link.protocol
        self._texts.append(text.strip())
        self._interactive_at = self.context.now()
        self._send(lambda: protocol.text(text))

    def _position_of(self, ms: float | None) -> int:
        feed = self._feed
        if feed is None:
            return 0
        return feed.position_of(feed.sent * 1000 / feed.rate if ms is None else ms)

    # ------------------------------------------------------------------ the user

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        if self._feed is not None:
            self._feed_frames(self._feed.audio(pcm, position, self.context.now()))
            if self._ears is not None:
                self._ears.feed(pcm, position)

    def _window(self, window: SpeechWindow) -> None:
        self.context.report(window)
        if window.probability >= 0.5:
            self._voiced += window.end - window.start
            if not self._voiced_at and self._voiced >= _SPEECH_S * self.model.capabilities.input_rate:
                self._voiced_at = self.context.now()

    def input_ended(self) -> None:
        """See Connection. Silence takes the place of the audio, so that the turn ends and the stream lives."""
        if self._feed is not None:
            self._feed.muted = True
            if self._timer is not None:
                self._timer.cancel()
            self._tick()

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        notes, self.answers.notes = self.answers.notes, []
        self._typed = "\n".join([*notes, text])

    def item(self, item: Item) -> None:
        """See Connection. Nova Sonic takes context only together with something that it answers."""
        if item.text:
            self.answers.notes.append(f"[Context: {item.text}]")

    def commit(self, turn: str) -> None:
        """See Connection."""
        typed, self._typed = self._typed, ""
        self.turns.committed(turn)
        self.answers.turn_committed()
        if typed:
            self.answers.drop()
            self._send_text(typed)

    def discard(self, turn: str) -> None:
        """See Connection."""
        self.turns.discarded()

    # ------------------------------------------------------------------ answers

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self.answers.respond(response, instructions, origin)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection. The provider has no verbatim speech: it is instructed."""
        self.answers.say(response, text, origin)

    def cancel(self, response: str) -> None:
        """See Connection. The provider cannot be told: what it still sends of it is dropped."""
        self.answers.cancel(response)

    def _awaits_results(self) -> bool:
        return self._link is not None and bool(self._link.protocol.tool_uses)

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection. A result for a tool use of an older stream goes as text."""
        link = self._link
        if link is None or self._feed is None:
            return
        if call not in link.protocol.tool_uses:
            self.answers.late.append(f"[{result_text(name, text, failed=error)}]")
            return
        self.answers.result_given()
        self._send(lambda: link.protocol.tool_result(call, _as_json(text, error)))

    # ------------------------------------------------------------------ what the provider says

    def _hear(self, link: NovaLink, event: Output) -> None:
        if link is not self._link or self._closed or self._feed is None:
            return
        self._voiced, self._voiced_at = 0, 0.0
        for meaning in self._meanings.read(event):
            if (handler := self._handlers.get(type(meaning))) is not None:
                handler(meaning)

    def _user_started(self, e: m.UserStarted) -> None:
        self._interactive_at = self.context.now()
        self.turns.started(e.ms)

    def _user_said(self, e: m.UserSaid) -> None:
        if e.text.strip() in self._texts:
            return  # our own words to the model, shown again
        self._interactive_at = self.context.now()
        self.answers.dropping = False  # what comes now answers this
        self.answers.end()
        self.turns.said(e.text)

    def _interrupted(self, e: m.Interrupted) -> None:
        self.turns.interrupted()
        self.answers.interrupted()

    def _audio_began(self, e: m.AudioBegan) -> None:
        self.answers.begin()

    def _planned(self, e: m.Planned) -> None:
        if self.answers.begin():
            self.context.report(
                Said(response=self.answers.current, text=e.text if e.text[-1:].isspace() else f"{e.text} ")
            )

    def _spoken(self, e: m.Spoken) -> None:
        # What was heard is known better here than there: the plan, cut where playout stopped.
        logger.debug("the record of an answer has come: %d characters", len(e.text))

    def _chunk(self, e: m.Chunk) -> None:
        if self.answers.current:
            self.context.report(Spoke(response=self.answers.current, pcm=e.pcm))

    def _turn_over(self, e: m.TurnOver) -> None:
        self.answers.turn_over()

    def _tool_wanted(self, e: m.ToolWanted) -> None:
        if self.answers.dropping:
            # Exactly one result is due, also for a tool that nobody wants run any more.
            link = self._link
            assert link is not None
            self._send(lambda: link.protocol.tool_result(e.id, _as_json("The user interrupted; it was not run.", True)))
        elif self.answers.request():
            call = ToolCall(id=e.id, name=e.name, arguments=e.arguments)
            self.context.report(ToolRequested(response=self.answers.current, call=call))

    def _tools_asked(self, e: m.ToolsAsked) -> None:
        self.answers.requested()

    def _used(self, e: m.Used) -> None:
        self.context.report(
            UsageEvidence(input_tokens=e.input_tokens, output_tokens=e.output_tokens, details=e.details)
        )


def _as_json(text: str, error: bool) -> str:
    """A result as the JSON text that the service parses: an object, whatever the tool answered."""
    if error:
        return msgspec.json.encode({"error": text}).decode()
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        if isinstance(msgspec.json.decode(text), dict):
            return text
    return msgspec.json.encode({"result": text}).decode()


async def open_connection(model: NovaSonic, context: Context) -> Connection:
    """Connect. Raises a typed error within seconds; then nothing is left open."""
    connection = NovaConnection(model, context)
    try:
        await connection.start()
    except BaseException:
        await connection.close()
        raise
    return connection
