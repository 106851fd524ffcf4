"""What a client of OpenAI Realtime says: given to the session, and made messages, as the client wants its turns taken.

Where the client keeps answers to itself a turn stays open until it asks for one. With `turn_detection` null its audio is held
until it commits it; with a detection that only lacks `create_response` a pause makes a message. Either is transcribed at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from ..channels.base import Port
from ..engine.activity import ActivityOptions
from ..engine.floor import Floor, State
from ..events import ActivityInput, InterruptInput, TurnCommitted
from ..session.session import Session
from ..wire.openai_realtime import RATE, ServerProtocol
from .openai_config import holds, silence_ms
from .openai_messages import Messages

#: when a pause becomes known, it is so long already (seconds)
_KNOWN_S = ActivityOptions().end_ms / 1000
#: silence after what a client committed, so that it is a pause whatever comes next: 0.4 s
_PAUSE = bytes(2 * RATE * 2 // 5)
#: states of the floor in which what the user said before cannot take an answer back that is under way
_FREE = frozenset({State.IDLE, State.USER, State.PAUSE})
_OVER_AGENT = frozenset({State.AGENT, State.OVERLAP, State.HELD})


class Owner(Protocol):
    """What hearing needs of its channel."""

    port: Port
    session: Session | None

    @property
    def sounding(self) -> bool: ...

    def wake(self) -> None: ...


class Hearing:
    """The user's side of one link."""

    def __init__(self, protocol: ServerProtocol, owner: Owner) -> None:
        self.messages = Messages(protocol)
        self._protocol = protocol
        self._owner = owner
        self._started: int | None = None  # speech over the agent, not told yet
        self._stopped: int | None = None  # its end, not told before the turn is over
        self._told = False  # whether the client knows that the user speaks
        self._held = bytearray()  # audio until the client commits it
        self._unheard: deque[tuple[str, bytes]] = deque()  # messages and their audio, not given to the session
        self._pause: asyncio.TimerHandle | None = None  # until what was said becomes a message by itself

    @property
    def holds(self) -> bool:
        """Whether an answer waits until the client asks."""
        return holds(self._protocol.config)

    @property
    def _buffers(self) -> bool:
        """Whether audio waits until the client commits it, or, with a model that answers by itself, asks for an answer."""
        return self.holds and (self._protocol.config.turn_detection is None or not self._transcribes)

    @property
    def _deaf(self) -> bool:
        """Whether nothing takes the floor from the agent now: what is said is heard once it is free."""
        detection = self._protocol.config.turn_detection
        interrupts = detection is not None and detection.interrupt_response
        return self.holds and not interrupts and self.floor.state in _OVER_AGENT

    @property
    def _transcribes(self) -> bool:
        """Whether the model can be given what was said without its answering."""
        assert self._owner.session is not None
        return self._owner.session.definition.model.capabilities.authority == "engine"

    @property
    def floor(self) -> Floor:
        """The session's."""
        assert self._owner.session is not None
        return self._owner.session.conductor.floor

    # ------------------------------------------------------------------ from the session

    def settle(self) -> None:
        """Something has happened: what could not be heard may be heard now."""
        if self._unheard:
            asyncio.get_running_loop().call_soon(self._hear)  # not from within what the session is doing

    def speech_started(self, ms: int) -> None:
        """The user speaks, from `ms` on."""
        self._stopped = None
        self.stop_waiting()
        self.messages.speaks()
        if self._protocol.config.turn_detection is None:
            return  # the client does not want to know
        if self._told:
            return  # a pause inside the turn: the client has been told once
        self._started = ms
        if not self._owner.sounding:
            self.tell_start()

    def speech_stopped(self, ms: int) -> None:
        """The user fell silent at `ms`."""
        self._stopped = ms
        silence = silence_ms(self._protocol.config)
        if silence is not None and self.holds and not self._buffers:
            wait = silence / 1000 - _KNOWN_S
            self._pause = asyncio.get_running_loop().call_later(max(0.0, wait), self._paused)

    def _paused(self) -> None:
        """The vendor's detection makes a message of what was said before a pause, also where it does not answer it."""
        self._pause = None
        if self.floor.user_has_floor:
            self.tell_start()
            self._tell_stop()
            self.commit(self._protocol.committed())
            self._owner.wake()

    def stop_waiting(self) -> None:
        """No pause makes a message now."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def tell_start(self) -> None:
        """Clients silence themselves at this: over the agent it is told only once the floor is the user's."""
        if self._started is not None:
            self._protocol.speech_started(self._started)
            self._told = True
            self._started = None

    def _tell_stop(self) -> None:
        if self._told and self._stopped is not None:
            self._protocol.speech_stopped(self._stopped)
        self._told = False
        self._started = self._stopped = None

    def committed(self, event: TurnCommitted) -> None:
        """A turn is over."""
        self.stop_waiting()
        spoken = self.messages.spoken(event.turn)
        if event.reason == "typed" and not spoken:
            return  # it is a message already
        if not spoken:
            self.tell_start()
        self._tell_stop()
        self.messages.committed(event.turn, event.text)

    def discarded(self) -> None:
        """What began as a turn was none."""
        self.stop_waiting()
        self._started = None
        self._tell_stop()
        self.messages.silent()

    # ------------------------------------------------------------------ from the client

    def append(self, pcm: bytes) -> None:
        """Audio, PCM16 at 24 kHz."""
        if self._buffers or self._unheard or self._deaf:
            self._held += pcm
        else:
            self._owner.port.audio(self._take_held() + pcm)

    def clear(self) -> None:
        """What was not committed is not wanted."""
        self._held.clear()

    def configured(self) -> None:
        """The client has changed how turns are taken."""
        if self._held and not self._buffers:
            self._owner.port.audio(self._take_held())

    def commit(self, item: str) -> None:
        """What was said so far is a message."""
        self.stop_waiting()
        if self.holds:
            self.message(item, self._take_held())
            return
        self.messages.hear(item)
        before = self.floor.steps
        self.end_turn()
        if not self.ended_since(before):
            self.messages.silent()

    def message(self, item: str, audio: bytes) -> None:
        """A message with audio of its own; it counts from the next answer on."""
        self._unheard.append((item, audio))
        if self.holds:
            self._hear()

    def _take_held(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held

    def _hear(self) -> None:
        """Give the session what was committed, one message after the other, without asking for an answer."""
        floor = self.floor
        while self._transcribes and self._unheard and not self.messages.unsettled and floor.state in _FREE:
            item, audio = self._unheard.popleft()
            before = floor.steps
            self.messages.hear(item, fresh=bool(audio))
            self._owner.port.audio(audio + _PAUSE)
            if floor.state is State.IDLE or (audio and floor.steps == before):
                self.messages.empty(item)
        self._owner.wake()

    def hear_all(self) -> bool:
        """What was committed and not heard counts for the answer that is asked for now. Whether there was any audio."""
        unheard = list(self._unheard)
        self._unheard.clear()
        for item, _ in unheard:
            self.messages.hear(item)
        pcm = b"".join(audio for _, audio in unheard)
        if pcm:
            if self.floor.state in _OVER_AGENT:
                self._owner.port.input(InterruptInput(reason="response.create"))
            self._owner.port.audio(pcm)
        return bool(pcm)

    def end_turn(self) -> None:
        """The user's turn is over, by the client's word."""
        self._owner.port.input(ActivityInput(kind="end"))

    def ended_since(self, steps: int) -> bool:
        """Whether a turn has ended since the floor had made so many steps."""
        floor = self.floor
        made = list(floor.transitions)[-(floor.steps - steps) :] if floor.steps > steps else []
        return any(step.target is State.THINKING for step in made)

    def forget(self, item: str) -> bool:
        """The client deletes a message. Whether it was one that is not history yet."""
        unheard = len(self._unheard)
        self._unheard = deque(entry for entry in self._unheard if entry[0] != item)
        if len(self._unheard) < unheard:
            return True
        if not self.messages.forget(item):
            return False
        assert self._owner.session is not None
        self._owner.session.conductor.fact("recognised", "", True)  # nothing is left of the open turn
        return True
