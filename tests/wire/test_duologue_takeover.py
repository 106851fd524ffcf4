"""A client whose server is lost, with everything that it knew but what it had journaled, wherever their link is cut."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from duologue.events import TextInput, TurnCommitted, encode
from duologue.wire.duologue import EventReceived, GapMessage, InputReceived, ServerDelivery, UserAudio
from tests.wire.duologue_pair import DOWN, UP, Pair

_FRAME = bytes(640)


class Takeovers(RuleBasedStateMachine):
    """The journal is what owners leave each other: events, the last input that was taken, how far the user was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.linked = True
        self.epoch = 1
        self.journal: list[bytes] = []
        self.heard_to = 0
        self.wanted = 0
        self.taken: list[str] = []
        self.taken_at = (0, 0)
        self.typed: list[str] = []
        self._read = 0

    @rule(frames=st.integers(1, 40))
    def speak(self, frames: int) -> None:
        for _ in range(frames):
            self.pair.client.send_audio(_FRAME)

    @rule()
    def type(self) -> None:
        self.typed.append(f"input {len(self.typed)}")
        self.pair.client.send_input(TextInput(text=self.typed[-1]))

    @rule(count=st.integers(1, 5))
    def tell(self, count: int) -> None:
        for _ in range(count):
            self.journal.append(encode(TurnCommitted(turn=f"t{len(self.journal)}", text="", reason="")))
            self.pair.side.send_event(self.journal[-1])

    @precondition(lambda self: self.linked)
    @rule(frames=st.integers(0, 60), up=st.integers(0, 60), down=st.integers(0, 60), later=st.sampled_from([0.0, 0.3]))
    def carry(self, frames: int, up: int, down: int, later: float) -> None:
        self.pair.now += later
        self.pair.flush(frames)
        self.pair.deliver(up, down)
        self.take()

    def take(self) -> None:
        """The session has what came; what it has taken is journaled at once."""
        for message in self.pair.at_server[self._read :]:
            if isinstance(message, InputReceived):
                assert isinstance(message.input, TextInput)
                self.taken.append(message.input.text)
                self.taken_at = (message.epoch, message.n)
            elif isinstance(message, UserAudio):
                end = message.position + len(message.pcm) // 2
                # In order and without a hole, from where it was asked for on.
                assert message.position <= max(self.heard_to, self.wanted)
                assert message.position == self.heard_to or self.heard_to <= self.wanted
                self.heard_to = end
        self._read = len(self.pair.at_server)

    @precondition(lambda self: self.linked)
    @rule()
    def settle(self) -> None:
        """Everything arrives, and is acknowledged."""
        self.pair.settle()
        self.pair.now += 0.3
        self.pair.settle()
        self.take()

    @precondition(lambda self: self.linked)
    @rule()
    def cut(self) -> None:
        self.pair.cut()
        self.linked = False

    @precondition(lambda self: not self.linked)
    @rule()
    def resume(self) -> None:
        self.pair.open()
        self.linked = True

    @rule(back=st.integers(0, 20), arrive=st.one_of(st.none(), st.integers(0, 12)))
    def die(self, back: int, arrive: int | None) -> None:
        """The owner is lost; the next one wants to hear again what came last, and knows what was journaled.

        `arrive`: the link to it is cut when so many frames have come of what is sent again.
        """
        pair = self.pair
        if self.linked:
            pair.cut()
        self.epoch += 1
        shown = pair.client._resume_token
        had, played = pair.client._events, pair.client._played.position
        assert had is not None
        delivery = ServerDelivery(
            session="s_1",
            token=shown,
            input=UP,
            output=DOWN,
            capabilities=pair.side.capabilities,
            epoch=self.epoch,
            options=pair.options,
        )
        self.wanted = max(0, self.heard_to - 320 * back)
        delivery.inherit(played, self.wanted, self.taken_at)
        self.heard_to = 0
        for event in self.journal[had:]:
            delivery.send_event(event)
        pair.delivery = delivery
        self.linked = False
        # What the client is told later counts from here, so it comes for its session before anything else happens.
        self.resume()
        pair.flush(1)
        pair.deliver(1, 0)
        if arrive is not None:
            pair.flush(1)
            pair.deliver(0, 1)  # the welcome
            pair.flush(arrive)
            pair.deliver(arrive, 0)
            self.take()
            self.cut()

    def teardown(self) -> None:
        if not self.linked:
            self.resume()
        self.pair.settle()
        self.take()
        assert self.taken == self.typed
        events = [encode(message.event) for message in self.pair.at_client if isinstance(message, EventReceived)]
        assert events == self.journal
        assert max(self.heard_to, self.wanted) == self.pair.client.capture
        lost = [gap for gap in self.pair.at_client if isinstance(gap, GapMessage) and gap.why == "overflow"]
        assert not lost


TestTakeovers = Takeovers.TestCase
TestTakeovers.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
