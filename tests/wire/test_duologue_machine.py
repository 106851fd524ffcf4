"""Both ends of protocol v1 over links that are cut at random: everything arrives once, in order, or is reported missing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from duologue.events import TextInput, TurnCommitted, encode
from duologue.wire.duologue import (
    AgentAudio,
    Clear,
    Cleared,
    EventReceived,
    GapMessage,
    InputReceived,
    ServerOptions,
    UserAudio,
)
from tests.wire.duologue_pair import Pair

#: small bounds, so that they are met
_TIGHT = ServerOptions(keep_audio_s=0.2, keep_event_bytes=600, heartbeat_s=1.0, miss_s=3.0)


class ProtocolMachine(RuleBasedStateMachine):
    """Events, audio, clears, inputs, ticks; frames delivered one by one; cuts at any point; resumes that may be cut again."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(_TIGHT, keep_s=0.5)
        self.up = True
        self.events = 0
        self.inputs = 0
        self.capture = 0
        self.clears = 0
        self.pending: list[Clear] = []
        self.seen = 0

    # -- what the two sides do ------------------------------------------------------------------------------------------

    @rule()
    def event(self) -> None:
        self.pair.side.send_event(encode(TurnCommitted(turn="t", text=str(self.events), reason="r")))
        self.events += 1

    @rule(samples=st.integers(1, 960), response=st.sampled_from("ab"), last=st.booleans())
    def agent_speaks(self, samples: int, response: str, last: bool) -> None:
        if self.pair.side.queued_samples < 100_000:
            self.pair.side.send_audio(bytes(2 * samples), response=response, offset=0, last=last)

    @rule(response=st.sampled_from(["", "a", "b"]))
    def clear(self, response: str) -> None:
        if len(self.pair.side.clears) < 32:  # beyond, the oldest is forgotten
            self.pair.side.clear(response)
            self.clears += 1

    @rule(gain=st.sampled_from([0.0, -12.0]))
    def duck(self, gain: float) -> None:
        self.pair.side.duck(gain)

    @rule(samples=st.integers(1, 640), skip=st.integers(0, 2))
    def user_speaks(self, samples: int, skip: int) -> None:
        position = self.pair.client.capture + skip * 100
        self.pair.client.send_audio(bytes(2 * samples), position=position)

    @rule()
    def user_types(self) -> None:
        self.pair.client.send_input(TextInput(text=str(self.inputs)))
        self.inputs += 1

    @rule()
    def client_answers(self) -> None:
        for message in self.pair.at_client[self.seen :]:
            if isinstance(message, Clear):
                self.pending.append(message)
        self.seen = len(self.pair.at_client)
        while self.pending:
            self.pair.client.cleared(self.pending.pop().c, 0, self.pair.now)

    # -- what the network does ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule(up=st.integers(0, 4), down=st.integers(0, 4), write=st.integers(0, 6))
    def deliver(self, up: int, down: int, write: int) -> None:
        self.pair.flush(write)
        self.pair.deliver(up, down)

    @precondition(lambda self: self.up)
    @rule(seconds=st.floats(0.0, 0.4))
    def time_passes(self, seconds: float) -> None:
        self.pair.settle()
        self.pair.pass_time(seconds)

    @precondition(lambda self: self.up)
    @rule(server_notices=st.booleans())
    def cut(self, server_notices: bool) -> None:
        if server_notices:
            self.pair.cut()
        else:  # half open: the server goes on numbering frames that nobody gets
            self.pair.client.disconnected(self.pair.now)
            self.pair.up.clear()
            self.pair.down.clear()
        self.up = False

    @precondition(lambda self: not self.up)
    @rule()
    def server_writes_into_the_void(self) -> None:
        while self.pair.link.next_frame(self.pair.now) is not None:
            pass

    @precondition(lambda self: not self.up)
    @rule(hello_arrives=st.booleans())
    def resume(self, hello_arrives: bool) -> None:
        self.pair.open()
        self.pair.flush()
        if hello_arrives:
            self.pair.deliver(down=0)
        self.up = True

    # -- what must hold ---------------------------------------------------------------------------------------------------

    def _texts(self) -> list[int]:
        return [
            int(m.event.text)
            for m in self.pair.at_client
            if isinstance(m, EventReceived) and isinstance(m.event, TurnCommitted)
        ]

    @invariant()
    def nothing_is_sent_again_that_has_arrived(self) -> None:
        assert self.pair.side.inbox.duplicates == 0
        assert self.pair.client._inbox.duplicates == 0

    @invariant()
    def in_order_and_never_twice(self) -> None:
        texts = self._texts()
        assert texts == sorted(set(texts))
        typed = [m.input for m in self.pair.at_server if isinstance(m, InputReceived)]
        assert typed == sorted(set(typed), key=lambda item: int(getattr(item, "text", "0")))
        for kind in (AgentAudio, UserAudio):
            place = 0
            for m in [*self.pair.at_client, *self.pair.at_server]:
                if isinstance(m, kind):
                    assert m.position >= place
                    place = m.position + len(m.pcm) // 2

    def teardown(self) -> None:
        for _ in range(2):  # the last resume may itself have been cut
            if self.up:
                self.pair.cut()
            self.pair.resume()
            self.up = True
        self.client_answers()
        self.pair.pass_time(0.6)
        gaps = [m for m in self.pair.at_client if isinstance(m, GapMessage)]
        assert all(g.why in ("overflow", "cleared") for g in gaps)
        assert len(self._texts()) + sum(g.events for g in gaps) == self.events
        up_gaps = [m for m in self.pair.at_server if isinstance(m, GapMessage)]
        typed = sum(isinstance(m, InputReceived) for m in self.pair.at_server)
        assert typed + sum(g.events for g in up_gaps) == self.inputs
        side = self.pair.side
        got = sum(len(m.pcm) // 2 for m in self.pair.at_client if isinstance(m, AgentAudio))
        lost = sum(g.samples for g in gaps)
        # every sample was played out, reported missing, or dropped by a clear (before or after it was transmitted)
        assert got + lost + side.dropped + self.pair.client.clear_dropped == side.position
        assert not side.clears
        assert len(side.outbox) == 0
        answered = [m.c for m in self.pair.at_server if isinstance(m, Cleared)]
        assert len(answered) == len(set(answered)) == self.clears


TestProtocolMachine = ProtocolMachine.TestCase
TestProtocolMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
