"""Playout to one listener: paced by the ledger, one frame at a time, stopped at once.

A :class:`Listener` walks through the session's responses, hands frames to its channel as the ledger's lead allows, and knows
from acknowledgements (or, failing those, by estimate) what has been heard. It runs on timers of the event loop, not in a task:
a frame costs a callback, and a clear takes effect between two of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ..audio import Resampler, apply_gain, gain_from_db
from ..channels.base import Channel, Traits
from ..engine.ledger import Heard, Ledger, LedgerOptions
from .response import Response

if TYPE_CHECKING:
    from collections.abc import Callable

#: length of a frame in seconds
FRAME_S = 0.02
#: longest wait for the listener's answer to a clear, beside the way there and back, before the estimate is taken
CLEAR_BOUND_S = 0.5
#: how long acknowledgements may trail behind the estimated end before a response is settled without them
_SETTLE_S = 0.8
#: frames are handed over in pairs: half the timers and wake-ups, for a lead that breathes by a frame
_PACE_S = 2 * FRAME_S
#: room for a frame that is short of it by rounding (seconds)
_HAIR_S = 0.0005
#: lead of a listener that is given everything as it is made
_NEVER_LEAD = 1e9


class Stage(Protocol):
    """What a listener needs of its session."""

    def playable(self, listener: Listener) -> Response | None:
        """The next response that this listener has not had; None while there is none or the floor forbids it."""

    def sent(self, listener: Listener, response: Response, now: float) -> None:
        """The first sample of `response` was handed over."""

    def progressed(self, listener: Listener, now: float) -> None:
        """More has been heard."""

    def after_frame(self, now: float) -> None:
        """Frames were handed over."""

    def drained(self, listener: Listener, response: Response, heard: Heard, now: float) -> None:
        """All of a response has been heard (or should have been)."""

    def fell_silent(self, listener: Listener, now: float) -> None:
        """Nothing is left to play."""

    def unacknowledged(self, listener: Listener) -> None:
        """The listener has stopped acknowledging while it plays: from now on what it has heard is estimated."""

    def failed(self, listener: Listener, error: Exception) -> None:
        """The listener's channel raised where it must not: it is left alone from now on."""


class Listener:
    """Somebody who hears the session, over one channel."""

    def __init__(
        self, channel: Channel, stage: Stage, loop: asyncio.AbstractEventLoop, *, rate: int, lag_s: float
    ) -> None:
        self.channel = channel
        self.traits: Traits = channel.traits
        self.rate = rate
        self.loop = loop
        self.stage = stage
        self.away = False
        self.held = False
        self.frames = 0
        burst = self.traits.pacing == "burst"
        self.ledger = Ledger(
            rate,
            LedgerOptions(
                lead_s=_NEVER_LEAD if burst else LedgerOptions().lead_s,
                lead_max_s=_NEVER_LEAD if burst else LedgerOptions().lead_max_s,
                unacknowledged_max_s=LedgerOptions().unacknowledged_max_s
                if self.traits.acknowledges and not burst
                else 0.0,
                lag_s=lag_s,
            ),
        )
        self.current: Response | None = None
        self._frame = 0  # samples of a frame of `current`
        self.offset = 0  # next sample of `current`, at its own rate
        self._sent_of: dict[str, int] = {}  # samples handed over of each unsettled response, at the listener's rate
        self._had: set[str] = set()  # unfinished responses that were handed over, wholly or in part
        self._resampler: Resampler | None = None
        self._unsettled: list[tuple[Response, int]] = []  # fully handed over, with the track position of their end
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._gain = 1.0
        self._gain_now = 1.0
        self._ducked = False
        self._after_clear: list[Callable[[], None]] = []
        self._clear_timer: asyncio.TimerHandle | None = None
        self._sounding = False
        self._closed = False

    # ------------------------------------------------------------------ driving

    def kick(self) -> None:
        """Something changed: look whether there is something to hand over."""
        if self._timer is None or self._timer_at > self.loop.time():
            self._schedule(self.loop.time())

    def returned(self) -> None:
        """Its link is up again: go on."""
        self.away = False
        self.ledger.returned(self.loop.time())
        self.kick()

    def close(self) -> None:
        """No more frames."""
        self._closed = True
        for timer in (self._timer, self._clear_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._clear_timer = None

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if self._closed else self.loop.call_at(at, self._tick)

    def _tick(self) -> None:
        """Settle what was heard, hand over what there is room for, and come back when there is room for more."""
        self._timer = None
        # A timer may come a hair early by the clock's resolution; its due time is the truth for pacing.
        now = max(self.loop.time(), self._timer_at)
        if self.away or self._closed:
            return
        ledger = self.ledger
        if self.current is not None and ledger.overdue(now):
            ledger.fall_back()
            self.stage.unacknowledged(self)
        if self._unsettled or self.current is None:
            self._settle(now)
        due: float | None = None
        if not (self.held or ledger.clearing):
            frames = self.frames
            room = ledger.room_s(now)
            while (response := self.current) is not None or (response := self._next()) is not None:
                if room < FRAME_S - _HAIR_S:
                    due = now + _PACE_S - room
                    break
                if not self._hand_over(response, now):
                    break
                room -= FRAME_S
            if frames != self.frames:
                self.stage.after_frame(now)
        if due is None:
            due = self._next_settlement(now)
        if due is not None:
            self._schedule(due)

    def _next(self) -> Response | None:
        response = self.stage.playable(self)
        if response is None:
            return None
        self.current = response
        self.offset = 0
        self._frame = int(response.rate * FRAME_S)
        self._had.add(response.id)
        self._sent_of[response.id] = 0
        self._resampler = Resampler(response.rate, self.rate) if response.rate != self.rate else None
        return response

    def _hand_over(self, response: Response, now: float) -> bool:
        """Hand over a frame. False if there is nothing to hand over now."""
        pcm = response.read(self.offset, self._frame)
        samples = len(pcm) >> 1
        if samples < self._frame and not response.generated:
            return False
        if not samples:
            if self._resampler is not None and (tail := self._resampler.flush()):
                self._transmit(response, tail, now)
            self._all_sent(response)
            return True
        self.offset += samples
        last = response.generated and self.offset >= response.samples
        if self._resampler is not None:
            pcm = self._resampler.feed(pcm)
            if last:
                pcm += self._resampler.flush()
        if pcm:
            self._transmit(response, pcm, now)
        if last:
            self._all_sent(response)
        return not self.away  # the channel may have failed just now

    def _transmit(self, response: Response, pcm: bytes, now: float) -> None:
        if self._gain_now != 1.0 or self._gain != 1.0:
            pcm = apply_gain(pcm, self._gain_now, self._gain)
            self._gain_now = self._gain
        id = response.id
        sent, samples = self._sent_of[id], len(pcm) >> 1
        position = self.ledger.transmit(id, sent, samples, now)
        self._sent_of[id] = sent + samples
        self.frames += 1
        try:
            self.channel.audio(id, sent, position, pcm)
        except Exception as error:
            self._fail(error)
            return
        if not self._sounding or sent == 0:
            self._sounding = True
            self.stage.sent(self, response, now)

    def _all_sent(self, response: Response) -> None:
        self._unsettled.append((response, self.ledger.sent))
        self.current = None
        try:
            self.channel.all_sent(response.id)
        except Exception as error:
            self._fail(error)

    # ------------------------------------------------------------------ what was heard

    def heard(self, response: Response, now: float) -> Heard:
        """How much of `response` was heard, in samples at the response's rate."""
        heard = self.ledger.heard(response.id, now)
        if self.rate == response.rate:
            return heard
        return Heard(min(response.samples, heard.samples * response.rate // self.rate), heard.estimated)

    def played(self, position: int, now: float, at: float | None = None) -> None:
        """An acknowledgement of playout."""
        self.ledger.acknowledge(position, now, at)
        self.stage.progressed(self, now)
        if self._unsettled and position >= self._unsettled[0][1]:
            self._settle(now)
        if self._timer is None or self._timer_at > now + FRAME_S:
            self.kick()

    def _settle(self, now: float) -> None:
        """Let go of responses whose end has been heard, or must have been."""
        while self._unsettled:
            response, end = self._unsettled[0]
            if (
                self.ledger.played(now) < end
                or self.ledger.heard(response.id, now).samples < self._sent_of[response.id]
            ):
                break  # not yet, or cut short and not resumed
            acknowledged = self.ledger.acknowledged >= end
            if not acknowledged and self.traits.acknowledges and now < self._patience(now):
                break
            del self._unsettled[0]
            heard = self.heard(response, now)
            self.ledger.forget(response.id)
            self._sent_of.pop(response.id, None)
            if response.status is not None:
                self._had.discard(response.id)
            self.stage.drained(self, response, Heard(max(heard.samples, response.samples), not acknowledged), now)
        if (
            self._sounding
            and self.current is None
            and not self.ledger.clearing
            and self.ledger.played(now) >= self.ledger.sent
            and self.stage.playable(self) is None
        ):
            self._sounding = False
            self.stage.fell_silent(self, now)

    def _patience(self, now: float) -> float:
        return self.ledger.drained_at() + (0.0 if self.ledger.estimating else _SETTLE_S)

    def _next_settlement(self, now: float) -> float | None:
        if self.held or not (self._sounding or self._unsettled):
            return None
        due = self.ledger.drained_at()
        if due <= now:
            if not self._unsettled:
                return None
            due = self._patience(now)
        return max(due + 0.001, now + 0.001)

    # ------------------------------------------------------------------ interruption

    def duck(self, gain_db: float) -> None:
        """Attenuate (or, at 0, restore) what is heard from now on."""
        if self.traits.ducks:
            self._ducked = gain_db != 0.0
            try:
                self.channel.duck(gain_db)
            except Exception as error:
                self._fail(error)
        else:
            self._gain = gain_from_db(gain_db)

    def silence(self, then: Callable[[], None]) -> None:
        """Silence the listener now; `then` is called once it is known where playout stopped."""
        self.held = True
        if self.ledger.clearing:
            self._after_clear.append(then)
            return
        now = self.loop.time()
        if self.ledger.played(now) >= self.ledger.sent and not self._sounding:
            then()
            return
        self.ledger.learn_way(self.channel.way_s)
        self.ledger.clear(now)
        self._after_clear.append(then)
        playing = self.playing
        try:
            self.channel.clear(playing.id if playing is not None else "")
        except Exception as error:
            self._fail(error)
        if not self._after_clear:
            return  # answered at once
        if self.away or not self.traits.clears:
            self._cleared(None)
        else:
            bound = CLEAR_BOUND_S + 2 * self.ledger.delay_s
            self._clear_timer = self.loop.call_later(bound, self._cleared, None)

    def cleared(self, position: int) -> None:
        """The listener's answer to a clear. One that comes too late still corrects nothing, and is ignored."""
        if self.ledger.clearing:
            self._cleared(position)

    def lost(self) -> None:
        """It will answer no clear any more: whoever waits for one takes the estimate."""
        if self.ledger.clearing:
            self._cleared(None)

    def _cleared(self, position: int | None) -> None:
        if self._clear_timer is not None:
            self._clear_timer.cancel()
            self._clear_timer = None
        self.ledger.cleared(position, self.loop.time())
        self._sounding = False
        waiting, self._after_clear = self._after_clear, []
        for then in waiting:
            then()

    def go_on(self) -> None:
        """A false barge-in is over: play on from the beginning of the word that was being spoken."""
        now = self.loop.time()
        self._settle(now)  # what was heard to its end is not said again
        # If nothing is left to say, the stage is still to hear that this listener has fallen silent.
        self._sounding = True
        playing = self.playing
        if playing is None:
            self.release()
        else:
            self._rewind(playing, playing.script.word_start(self.heard(playing, now).samples))

    def _rewind(self, response: Response, sample: int) -> None:
        """Hand over `response` again from its `sample` (its own rate), and after it again what followed it."""
        handed = self.unsettled()
        for later in handed[handed.index(response) + 1 :]:
            self._had.discard(later.id)
            self._sent_of.pop(later.id, None)
        keep = [entry[0] for entry in self._unsettled].index(response) if self.current is not response else None
        self._unsettled = self._unsettled[:keep]
        self.current = response
        self._frame = int(response.rate * FRAME_S)
        self.offset = max(sample, response.base)
        self._sent_of[response.id] = self.offset * self.rate // response.rate
        self._resampler = Resampler(response.rate, self.rate) if response.rate != self.rate else None
        self.release()

    def release(self) -> None:
        """Hand over again."""
        self.held = False
        self._gain = self._gain_now = 1.0
        if self._ducked:
            self.duck(0.0)
        self.kick()

    def drop(self, response: Response) -> None:
        """Nothing more of `response` is to be handed over."""
        if self.current is response:
            self.current = None
        self._unsettled = [entry for entry in self._unsettled if entry[0] is not response]
        self._sent_of.pop(response.id, None)
        self._had.discard(response.id)
        self.ledger.forget(response.id)

    def skip(self, response: Response) -> None:
        """Nothing of `response` is to be handed over: it began before this listener came."""
        self._had.add(response.id)

    def has_had(self, response: Response) -> bool:
        """Whether `response` was handed over, at least in part."""
        return response.id in self._had

    def _fail(self, error: Exception) -> None:
        """The channel broke its promise not to raise: others must not suffer from it."""
        if not (self._closed or self.away):
            self.away = True
            self.stage.failed(self, error)

    @property
    def playing(self) -> Response | None:
        """The response that is being heard: the first that is not settled."""
        return self._unsettled[0][0] if self._unsettled else self.current

    def unsettled(self) -> list[Response]:
        """Responses that the listener has (partly) been handed and not finished hearing, in order."""
        out = [response for response, _ in self._unsettled]
        if self.current is not None and self.current not in out:
            out.append(self.current)
        return out
