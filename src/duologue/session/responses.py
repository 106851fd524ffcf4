"""The responses of a session: queued, gated, played, interrupted, and what of each was heard.

This is where playout meets history: a response enters the conversation as what its addressee heard of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..engine.conversation import Conversation
from ..engine.ledger import Heard
from ..errors import OverloadedError
from ..events import (
    Event,
    Interruption,
    ResponseFinished,
    ResponseHeard,
    ResponseOrigin,
    ResponseStarted,
    ResponseStatus,
    ResponseText,
)
from .playout import Listener
from .response import Response

#: least time between two events about progress of playout, seconds
_HEARD_EVERY_S = 0.5


class Director(Protocol):
    """What the responses need of the session."""

    conversation: Conversation
    boundary_s: float
    speaks: bool

    def emit(self, event: Event) -> None: ...

    def may_speak(self) -> bool: ...

    def audible(self, response: Response, now: float) -> None: ...

    def heard_from(self, response: Response, at: float) -> None: ...

    def ending(self, now: float) -> None: ...

    def fell_silent(self, now: float) -> None: ...

    def settled(self, response: Response, status: ResponseStatus, heard_samples: int, now: float) -> None: ...

    def listener_failed(self, listener: Listener, error: Exception) -> None: ...

    def listener_unacknowledged(self, listener: Listener) -> None: ...

    def now(self) -> float: ...


class Responses:
    """All unfinished responses of a session, in the order in which they will be played."""

    def __init__(self, director: Director, *, max_queued: int, max_response_s: float, queued_s: float) -> None:
        self._director = director
        self._open: dict[str, Response] = {}
        self._max_queued = max_queued
        self._max_response_s = max_response_s
        self._queued_s = queued_s
        self.count = 0  # ids given out
        self._room: dict[str, asyncio.Event] = {}
        self._heard_at = 0.0
        self._ending_said = False
        self.addressee: Listener | None = None
        self.listeners: list[Listener] = []
        self.interrupting = False

    # ------------------------------------------------------------------ making

    def next_id(self) -> str:
        """A fresh response id."""
        self.count += 1
        return f"r{self.count}"

    def begin(self, id: str, origin: ResponseOrigin, turn: str, rate: int, *, gated: bool) -> Response:
        """A response begins. Raises OverloadedError when too many wait to be spoken."""
        self.check_room()
        response = Response(id, origin, turn, rate, gated=gated)
        self._open[id] = response
        if not gated:
            self.start(response)
        return response

    def check_room(self, besides: int = 0) -> None:
        """Raise OverloadedError when no further response may wait to be spoken. `besides`: others that wait elsewhere."""
        if (waiting := len(self._open) + besides) >= self._max_queued:
            raise OverloadedError(
                f"{waiting} responses wait to be spoken.",
                hint="Wait for them, or raise limits.queued_responses.",
            )

    def get(self, id: str) -> Response | None:
        """An unfinished response."""
        return self._open.get(id)

    def of_turn(self, turn: str) -> list[Response]:
        """The unfinished responses that answer a turn."""
        return [response for response in self._open.values() if response.turn == turn]

    @property
    def all(self) -> list[Response]:
        """All unfinished responses, in order of playing."""
        return list(self._open.values())

    @property
    def owed(self) -> bool:
        """Whether something is being made, waits to be played, or is being played (what is behind the gate does not count)."""
        return any(not response.gated for response in self._open.values())

    def start(self, response: Response) -> None:
        """Open the gate: what was made so far is told, and may be played."""
        response.gated = False
        if response.started:
            return
        response.started = True
        self._director.conversation.reserve(response.id)
        self._director.emit(ResponseStarted(response=response.id, origin=response.origin, turn=response.turn))
        for text, offset in response.text_events:
            self._director.emit(ResponseText(response=response.id, text=text, offset=offset))
        response.text_events.clear()
        self._ending_said = False
        self.kick()

    def said(self, response: Response, text: str) -> None:
        """The audio that follows speaks `text`."""
        response.script.say(text)
        if response.started:
            self._director.emit(ResponseText(response=response.id, text=text, offset=response.samples))
        else:
            response.text_events.append((text, response.samples))

    def spoke(self, response: Response) -> bool:
        """Audio was added. False when the response has become too long and must be ended."""
        if not response.gated:
            self.kick()
        return response.seconds <= self._max_response_s

    def ended(self, response: Response) -> None:
        """No more will be made of it."""
        response.generated = True
        response.script.finish()
        self._room.pop(response.id, None)
        if not response.gated:
            self._finish_if_silent(response)
            self.kick()

    def _finish_if_silent(self, response: Response) -> None:
        """A response that nobody can hear is over as soon as it is made; it counts as heard if it was meant to be read."""
        silent = not response.samples or self.addressee is None
        if response.generated and silent and response.status is None and response.id in self._open:
            read = bool(response.script.pieces) and not (self._director.speaks and self.addressee is not None)
            self._settle(
                response, "completed", heard=response.script.text if read else "", heard_samples=0, estimated=False
            )

    def gate_opened(self, turn: str) -> None:
        """The turn is committed: its responses may go."""
        for response in self.of_turn(turn):
            if response.gated:
                self.start(response)
                if response.generated:
                    self._finish_if_silent(response)

    async def room(self, id: str) -> None:
        """Wait until this response has less than the bound of audio that was not yet handed over."""
        while (response := self._open.get(id)) is not None and self._ahead_s(response) > self._queued_s:
            event = self._room.setdefault(id, asyncio.Event())
            event.clear()
            await event.wait()

    def _make_room(self) -> None:
        """Have go on what waits in `room`, once there is some: a task that looks for itself at every frame costs more."""
        for id, event in self._room.items():
            if not event.is_set():
                response = self._open.get(id)
                if response is None or self._ahead_s(response) <= self._queued_s:
                    event.set()

    def _ahead_s(self, response: Response) -> float:
        listener = self.addressee
        if listener is None or response.generated:
            return 0.0
        at = listener.offset if listener.current is response else 0
        return (response.samples - at) / response.rate

    # ------------------------------------------------------------------ stage (what listeners ask)

    def kick(self) -> None:
        """Let every listener look for something to play."""
        for listener in self.listeners:
            listener.kick()

    def playable(self, listener: Listener) -> Response | None:
        """See :class:`duologue.session.playout.Stage`."""
        if not self._director.may_speak() or self.interrupting:
            return None
        for response in self._open.values():
            if response.gated or response.status is not None or listener.has_had(response):
                continue
            if response.samples:
                return response
            if not response.generated:
                return None  # what comes first is played first, even if it is slower to make
        return None

    def sent(self, listener: Listener, response: Response, now: float) -> None:
        """See Stage."""
        if listener is self.addressee:
            self._director.audible(response, now)

    def progressed(self, listener: Listener, now: float) -> None:
        """See Stage."""
        if listener is not self.addressee:
            return
        current = listener.playing
        if self._room:
            self._make_room()
        if current is None:
            return
        heard = listener.heard(current, now)
        if heard.samples and not current.acknowledged:
            current.acknowledged = True
            self._director.heard_from(current, now - heard.samples / current.rate)
        current.release(heard.samples)
        if now - self._heard_at >= _HEARD_EVERY_S:
            text = current.script.heard(heard.samples)
            if len(text) > len(current.shown):  # an estimate may be taken back, what was told is not
                self._heard_at = now
                current.shown = text
                self._director.emit(
                    ResponseHeard(response=current.id, text=text, ms=heard.samples * 1000 // current.rate)
                )

    def after_frame(self, now: float) -> None:
        """Called now and then while playing: notices that the end is near, and that there is room to make more."""
        if self._room:
            self._make_room()
        listener = self.addressee
        if listener is None or self._ending_said:
            return
        boundary_s, current = self._director.boundary_s, listener.current
        if current is not None and (
            not current.generated or current.samples - listener.offset > boundary_s * current.rate
        ):
            return  # as it is for most of an answer
        left = listener.ledger.unplayed_s(now)
        for response in self._open.values():
            if response.gated or response.status is not None:
                continue
            if not response.generated:
                return
            if response is listener.current:
                left += (response.samples - listener.offset) / response.rate
            elif not listener.has_had(response):
                left += response.seconds
        if left <= boundary_s:
            self._ending_said = True
            self._director.ending(now)

    def drained(self, listener: Listener, response: Response, heard: Heard, now: float) -> None:
        """See Stage."""
        if listener is not self.addressee or response.status is not None:
            return
        self._settle(
            response, "completed", heard=response.script.text, heard_samples=response.samples, estimated=heard.estimated
        )

    def fell_silent(self, listener: Listener, now: float) -> None:
        """See Stage."""
        if listener is self.addressee:
            self._director.fell_silent(now)

    def unacknowledged(self, listener: Listener) -> None:
        """See Stage."""
        self._director.listener_unacknowledged(listener)

    def failed(self, listener: Listener, error: Exception) -> None:
        """See Stage."""
        self._director.listener_failed(listener, error)

    def heard_any(self, id: str) -> bool:
        """Whether anything of an unfinished response was heard, or can have been read."""
        if (response := self._open.get(id)) is None or response.gated:
            return False
        if (listener := self.addressee) is None:
            return bool(response.script.pieces)
        return listener.heard(response, self._director.now()).samples > 0

    def add(self, listener: Listener) -> None:
        """Somebody else listens from now on: to what begins from now on."""
        for response in self._open.values():
            if not response.gated:
                listener.skip(response)
        self.listeners.append(listener)

    def remove(self, listener: Listener, successor: Listener | None) -> None:
        """A listener is gone for good. If history followed it, it follows `successor` from now on."""
        listener.lost()
        listener.close()
        if listener in self.listeners:
            self.listeners.remove(listener)
        if listener is not self.addressee:
            return
        self.addressee = successor
        if successor is None:
            for response in self.all:
                if not response.gated:
                    self.cancel(response, "cancelled", "nobody listens any more")
            self._director.fell_silent(self._director.now())
        else:
            self.kick()

    # ------------------------------------------------------------------ interruption

    def pause(self, reason: str, then: Callable[[], None]) -> None:
        """Silence all listeners; the addressee's place is kept. `then`: the addressee is silent."""
        playing = self._playing()
        if playing is not None:
            self._director.emit(Interruption(response=playing.id, stage="pause", reason=reason))
        for listener in self.listeners:
            listener.silence(then if listener is self.addressee else _nothing)

    def resume(self, reason: str) -> None:
        """Go on from the beginning of the last word that was heard."""
        playing = self._playing()
        if playing is not None:
            self._director.emit(Interruption(response=playing.id, stage="resume", reason=reason))
        self._ending_said = False
        for listener in self.listeners:
            listener.silence(listener.go_on)

    def yield_floor(self, reason: str, then: Callable[[Response, int], None]) -> None:
        """Silence all listeners and end every response at what was heard.

        `then(response, heard samples)` is called for each, once it is known where playout stopped and history says so.
        """
        victims = [response for response in self._open.values() if not response.gated]
        playing = self._playing()
        if playing is not None:
            self._director.emit(Interruption(response=playing.id, stage="yield", reason=reason))
        self.interrupting = True
        for listener in self.listeners:
            if listener is not self.addressee:
                listener.silence(self._dropper(listener, victims))
        if self.addressee is None:
            self._cut(victims, reason, then)
        else:
            self.addressee.silence(lambda: self._cut(victims, reason, then))

    def _dropper(self, listener: Listener, victims: list[Response]) -> Callable[[], None]:
        def drop() -> None:
            for response in victims:
                listener.drop(response)
            listener.release()

        return drop

    def _cut(self, victims: list[Response], reason: str, then: Callable[[Response, int], None]) -> None:
        now = self._director.now()
        listener = self.addressee
        for response in victims:
            if response.status is not None:
                continue
            heard = listener.heard(response, now) if listener is not None else Heard(0, False)
            response.reason = reason
            self._settle(
                response,
                "interrupted",
                heard=response.script.heard(heard.samples),
                heard_samples=heard.samples,
                estimated=heard.estimated,
            )
            then(response, heard.samples)
        self.interrupting = False
        if listener is not None:
            listener.release()

    def cancel(self, response: Response, status: ResponseStatus, reason: str) -> None:
        """Take a response back that nobody has begun to hear; one that was begun is cut where it is."""
        if response.status is not None:
            return
        response.reason = reason
        self.ended_room(response)
        listener = self.addressee
        heard = listener.heard(response, self._director.now()) if listener is not None else Heard(0, False)
        self._settle(
            response,
            status,
            heard=response.script.heard(heard.samples),
            heard_samples=heard.samples,
            estimated=heard.estimated,
        )
        self.kick()  # what waited behind it may be made already, and then nothing else would begin it

    def ended_room(self, response: Response) -> None:
        """Wake whoever waits to make more of it."""
        event = self._room.pop(response.id, None)
        if event is not None:
            event.set()

    def _playing(self) -> Response | None:
        return self.addressee.playing if self.addressee is not None else None

    @property
    def playing_id(self) -> str:
        """The response that the addressee hears now, if any."""
        playing = self._playing()
        return "" if playing is None else playing.id

    def _settle(
        self, response: Response, status: ResponseStatus, *, heard: str, heard_samples: int, estimated: bool
    ) -> None:
        response.status = status
        self._open.pop(response.id, None)
        self.ended_room(response)
        played_on = False
        for listener in self.listeners:
            # Who lags behind the addressee hears a finished response to its end.
            if status == "completed" and listener is not self.addressee and response in listener.unsettled():
                played_on = True
            else:
                listener.drop(response)
        director = self._director
        director.conversation.assistant(response.id, heard, complete=status == "completed")
        if response.started:
            director.emit(
                ResponseFinished(
                    response=response.id,
                    status=status,
                    text=response.script.text,
                    heard=heard,
                    heard_ms=heard_samples * 1000 // response.rate,
                    estimated=estimated,
                    reason=response.reason,
                )
            )
        if not played_on:
            response.drop_audio()
        director.settled(response, status, heard_samples, director.now())


def _nothing() -> None:
    """What to do after a pause: nothing yet."""
