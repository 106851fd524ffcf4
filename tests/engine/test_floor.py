"""The floor: whatever it is told, in whatever order, it takes legal steps, keeps its promises and never gets stuck."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duologue.engine import actions as act
from duologue.engine.endpointing import EndpointingOptions
from duologue.engine.floor import MAY_SPEAK, TRANSITIONS, Floor, FloorOptions, State
from duologue.engine.interruption import InterruptionOptions

WINDOW = 32.0
TEXTS = ["", "uh-huh", "yes", "wait a moment", "what is my next stop"]


class Driver:
    """A floor with a media clock, a monotonic clock and a log of what it ordered."""

    def __init__(self, options: FloorOptions | None = None) -> None:
        self.floor = Floor(options)
        self.media = 0.0
        self.now = 0.0
        self.log: list[act.Action] = []
        #: what recognition says when it is asked to settle; None: it does not answer
        self.words: str | None = ""

    def tell(self, name: str, *args: Any) -> list[act.Action]:
        actions: list[act.Action] = getattr(self.floor, name)(*args, self.now)
        self.log += actions
        for action in actions:
            if isinstance(action, act.Prepare) and self.words is not None:
                self.tell("recognised", self.words, True)
        return actions

    def hear(self, ms: float, probability: float, *, speed: float = 1.0) -> list[act.Action]:
        """`ms` of audio with this speech probability, in real time or so many times faster."""
        before = len(self.log)
        for _ in range(round(ms / WINDOW)):
            self.now += WINDOW / 1000 / speed
            self.tell("window", self.media, self.media + WINDOW, probability)
            self.media += WINDOW
        return self.log[before:]

    def speak(self, ms: float, words: str | None = "what is my next stop") -> list[act.Action]:
        self.words = words
        return self.hear(ms, 0.95)

    def pause(self, ms: float) -> list[act.Action]:
        return self.hear(ms, 0.02)

    def wait(self, limit: float = 600.0) -> None:
        """No more audio: only deadlines pass."""
        end = self.now + limit
        while (due := self.floor.next_deadline()) is not None and due <= end:
            assert due >= self.now - 1e-6 or due <= self.now, "deadlines are finite"
            self.now = max(self.now, due)
            before = (self.floor.state, self.floor.next_deadline())
            self.tell("wake")
            assert (self.floor.state, self.floor.next_deadline()) != before, "a wake-up in time gets on"

    def of(self, kind: type[act.Action]) -> list[Any]:
        return [action for action in self.log if isinstance(action, kind)]

    @property
    def state(self) -> State:
        return self.floor.state


def reasons(actions: list[act.Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


class FloorMachine(RuleBasedStateMachine):
    """Any facts in any order."""

    @initialize(
        authority=st.sampled_from(["engine", "provider"]),
        interruptible=st.booleans(),
        words=st.sampled_from([None, *TEXTS]),
    )
    def begin(self, authority: Any, interruptible: bool, words: str | None) -> None:
        self.options = FloorOptions(authority=authority, interruption=InterruptionOptions(enabled=interruptible))
        self.drive = Driver(self.options)
        self.drive.words = words

    @rule(count=st.integers(1, 4) | st.integers(1, 30), probability=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95]))
    def windows(self, count: int, probability: float) -> None:
        self.drive.hear(count * WINDOW, probability)

    @rule(ms=st.floats(1, 5000))
    def audio_is_lost(self, ms: float) -> None:
        self.drive.media += ms

    @rule(s=st.floats(0, 5))
    def input_stalls(self, s: float) -> None:
        self.drive.now += s

    @rule(text=st.sampled_from(TEXTS), final=st.booleans())
    def recognised(self, text: str, final: bool) -> None:
        self.drive.tell("recognised", text, final)

    @rule(words=st.sampled_from([None, *TEXTS]))
    def recogniser_will_say(self, words: str | None) -> None:
        self.drive.words = words

    @rule(probability=st.floats(0, 1))
    def turn_probability(self, probability: float) -> None:
        self.drive.tell("turn_probability", probability)

    @rule(name=st.sampled_from(["audible", "ending", "silent", "effects", "wake", "input_ended"]))
    def plain(self, name: str) -> None:
        self.drive.tell(name)

    @rule(name=st.sampled_from(["no_answer", "commit", "interrupt"]))
    def with_reason(self, name: str) -> None:
        self.drive.tell(name, "because")

    @rule(text=st.sampled_from(["hello", "go on"]))
    def typed(self, text: str) -> None:
        self.drive.tell("typed", text)
        self.drive.tell("commit", "typed")

    @rule(fact=st.sampled_from(["started", "stopped", "interrupted", "discarded"]))
    def provider(self, fact: str) -> None:
        self.drive.tell("provider", fact, self.drive.media)

    @precondition(lambda self: self.drive.floor.next_deadline() is not None)
    @rule()
    def wake_in_time(self) -> None:
        due = self.drive.floor.next_deadline()
        assert due is not None
        self.drive.now = max(self.drive.now, due)
        self.drive.tell("wake")
        later = self.drive.floor.next_deadline()
        assert later is None or later > self.drive.now, "a deadline that stays due would spin"

    @invariant()
    def steps_are_legal_and_have_reasons(self) -> None:
        if hasattr(self, "drive"):
            for step in self.drive.floor.transitions:
                assert (step.source, step.target) in TRANSITIONS
                assert step.reason

    @invariant()
    def nobody_is_talked_over(self) -> None:
        if hasattr(self, "drive"):
            floor = self.drive.floor
            assert floor.may_speak == (floor.state in MAY_SPEAK)
            assert not (floor.may_speak and floor.state in (State.HELD, State.USER, State.PAUSE, State.CLOSED))

    @invariant()
    def orders_make_sense(self) -> None:
        if hasattr(self, "drive"):
            check_orders(self.drive.log)

    def teardown(self) -> None:
        if not hasattr(self, "drive"):
            return
        drive = self.drive
        if len(drive.log) % 3 == 0:
            drive.tell("close")  # from wherever it is
            return
        if len(drive.log) % 3 == 1:
            # Media time flows: whatever was said is committed or discarded in the end.
            options = self.options.endpointing
            drive.pause(max(options.hard_max_ms, options.provider_max_ms) + 1000)
            drive.tell("silent")
            drive.pause(max(options.hard_max_ms, options.provider_max_ms) + 1000)
        else:
            # Nothing comes any more: then deadlines do it.
            drive.wait()
            drive.tell("silent")
            drive.wait()
            if self.options.authority == "provider":  # without evidence of ours, its silence is its own affair
                drive.pause(self.options.endpointing.provider_max_ms + 1000)
        assert drive.state in (State.IDLE, State.THINKING, State.AGENT), drive.state
        drive.tell("close")
        assert drive.state is State.CLOSED
        check_orders(drive.log)
        for name in ("audible", "silent", "input_ended", "wake", "close"):
            assert not [action for action in drive.tell(name) if not isinstance(action, act.UserStopped)]
        drive.hear(640, 0.95)
        assert drive.state is State.CLOSED
        assert drive.floor.next_deadline() is None


def check_orders(log: list[act.Action]) -> None:
    """What must hold of any log of the floor's orders."""
    held = ducked = False
    over: dict[str, str] = {}
    begun: set[str] = set()
    newest = 0
    for action in log:
        assert action.reason
        turn = getattr(action, "turn", "")
        if turn:
            assert int(turn[1:]) >= newest, "turns go forward"
            newest = int(turn[1:])
        match action:
            case act.UserStarted():
                assert turn not in over
                begun.add(turn)
            case act.Commit() | act.Discard():
                assert turn not in over, "a turn ends once"
                over[turn] = type(action).__name__
                if isinstance(action, act.Discard):
                    assert turn in begun
            case act.Reopen():
                assert over.pop(turn) == "Commit"
            case act.Prepare():
                assert turn not in over
            case act.Pause():
                assert not held
                held = True
                ducked = False
            case act.Resume():
                assert held
                held = False
            case act.Yield():
                held = ducked = False
            case act.Duck(on=on):
                assert on != ducked
                assert not held
                ducked = on
            case _:
                pass


TestFloor = FloorMachine.TestCase
TestFloor.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------------- what a conversation expects


def test_a_question_is_committed_after_a_short_silence_when_it_is_complete() -> None:
    drive = Driver()
    drive.speak(1000)
    drive.floor.turn_probability(0.98, drive.now)
    drive.words = None
    drive.pause(192)
    drive.tell("turn_probability", 0.98)
    drive.tell("recognised", "what is my next stop", True)
    assert drive.state is State.PAUSE
    drive.pause(160)
    (commit,) = drive.of(act.Commit)
    assert commit.speech_end_ms == pytest.approx(992, abs=WINDOW)
    assert drive.state is State.THINKING


def test_a_pause_inside_a_sentence_waits() -> None:
    drive = Driver()
    drive.speak(1000, "mark the")
    drive.tell("turn_probability", 0.05)
    drive.pause(1000)
    assert drive.state is State.PAUSE
    drive.speak(800, "mark the last one")
    assert drive.state is State.USER
    assert not drive.of(act.Commit)
    assert {action.turn for action in drive.of(act.UserStarted)} == {"t1"}


def test_no_silence_is_longer_than_the_hard_maximum() -> None:
    drive = Driver()
    drive.speak(1000, None)  # recognition does not answer
    drive.pause(EndpointingOptions().hard_max_ms + WINDOW)
    (commit,) = drive.of(act.Commit)
    assert "hard maximum" in commit.reason


def test_silence_that_comes_in_a_burst_waits_for_what_recognition_says_of_what_was_before_it() -> None:
    drive = Driver()
    drive.words = None
    drive.hear(1000, 0.95, speed=1000)
    drive.hear(6000, 0.02, speed=1000)
    assert drive.state is State.PAUSE
    drive.tell("recognised", "what is my next stop", True)
    assert [commit.reason.partition(":")[0] for commit in drive.of(act.Commit)] == ["hard maximum"]
    # But not for ever.
    deaf = Driver()
    deaf.words = None
    deaf.hear(1000, 0.95, speed=1000)
    deaf.hear(6000, 0.02, speed=1000)
    deaf.pause(EndpointingOptions().hard_max_ms + WINDOW)
    assert len(deaf.of(act.Commit)) == 1


def test_a_sound_without_words_is_no_turn() -> None:
    drive = Driver()
    drive.speak(200, "")
    drive.pause(700)
    assert [discard.reason for discard in drive.of(act.Discard)] == ["no words"]
    assert drive.state is State.IDLE
    assert not drive.of(act.Commit)


def agent_speaks() -> Driver:
    drive = Driver()
    drive.tell("audible")
    drive.pause(320)
    return drive


def test_a_backchannel_ducks_holds_and_gives_the_floor_back() -> None:
    drive = agent_speaks()
    drive.speak(350, "uh-huh")
    drive.pause(320)
    assert [name for name in reasons(drive.log) if name in ("Duck", "Pause", "Resume", "Yield")] == [
        "Duck",
        "Pause",
        "Resume",
    ]
    assert drive.state is State.AGENT


def test_words_take_the_floor_as_soon_as_they_are_recognised() -> None:
    drive = agent_speaks()
    drive.speak(160, None)
    drive.tell("recognised", "stop please", False)
    assert drive.state is State.USER
    assert len(drive.of(act.Yield)) == 1


def test_speech_that_goes_on_takes_the_floor_without_words() -> None:
    drive = agent_speaks()
    drive.speak(InterruptionOptions().yield_ms + WINDOW, None)
    assert drive.state is State.USER


def test_a_backchannel_just_before_the_end_is_an_answer() -> None:
    drive = agent_speaks()
    drive.tell("ending")
    drive.speak(350, "yes")
    drive.pause(160)
    assert len(drive.of(act.Yield)) == 1
    drive.pause(3000)
    assert [commit.turn for commit in drive.of(act.Commit)] == ["t1"]


@pytest.mark.parametrize("sound", ["Oh.", "Uh"])
def test_a_sound_does_not_take_the_floor_even_just_before_the_end(sound: str) -> None:
    drive = agent_speaks()
    drive.tell("ending")
    drive.speak(350, sound)
    drive.pause(320)
    assert drive.of(act.Yield) == []
    assert drive.state is State.AGENT


def test_who_was_cut_is_waited_for_from_then_on() -> None:
    drive = Driver()
    waits = []
    for _ in range(2):
        drive.speak(1500, "it was the age of wisdom")
        drive.tell("turn_probability", 0.9)
        before = drive.media
        while drive.state is not State.THINKING:
            drive.pause(WINDOW)
            drive.tell("turn_probability", 0.9)
        waits.append(drive.media - before)
        drive.tell("audible")
    assert waits[0] < 600 < waits[1]


def test_who_cannot_be_interrupted_is_not() -> None:
    drive = Driver(FloorOptions(interruption=InterruptionOptions(enabled=False)))
    drive.tell("audible")
    drive.speak(2000, "stop stop stop")
    assert drive.state is State.AGENT
    drive.pause(400)
    assert [discard.reason for discard in drive.of(act.Discard)] == ["interruption is disabled"]


def test_who_goes_on_before_the_answer_goes_on_with_the_same_turn() -> None:
    drive = Driver()
    drive.speak(800, "the last one")
    drive.pause(1500)
    assert drive.state is State.THINKING
    drive.speak(320, None)
    (reopen,) = drive.of(act.Reopen)
    assert reopen.turn == drive.floor.turn == "t1"
    assert drive.state is State.USER


def test_a_turn_that_had_effects_is_not_reopened() -> None:
    drive = Driver()
    drive.speak(800, "mark the last one")
    drive.pause(1500)
    drive.tell("effects")
    drive.speak(320, None)
    assert not drive.of(act.Reopen)
    assert drive.floor.turn == "t2"


def test_speech_that_began_while_thinking_is_not_lost_when_there_is_no_answer() -> None:
    drive = Driver()
    drive.speak(800, "mark the last one")
    drive.pause(1500)
    drive.speak(96, None)  # an onset, and too short yet to reopen the turn
    drive.tell("no_answer", "only a tool")
    drive.speak(500, "hello")
    drive.pause(3000)
    assert [commit.turn for commit in drive.of(act.Commit)] == ["t1", "t2"]


def test_speech_over_the_end_of_the_agent_becomes_a_turn() -> None:
    drive = agent_speaks()
    drive.speak(96, "and now")
    drive.tell("silent")
    assert drive.state is State.USER
    drive.speak(500, "and now")
    drive.pause(3000)
    assert len(drive.of(act.Commit)) == 1


def test_a_hold_without_further_input_ends() -> None:
    drive = agent_speaks()
    drive.speak(192, None)
    assert drive.state is State.HELD
    due = drive.floor.next_deadline()
    assert due is not None
    drive.now = due - 0.01
    assert drive.tell("wake") == []
    drive.now = due
    assert reasons(drive.tell("wake")) == ["Resume", "Discard"]


@pytest.mark.parametrize("speech_ms", [96, 192])
def test_muting_over_the_agent_waits_for_the_words(speech_ms: float) -> None:
    drive = agent_speaks()
    drive.speak(speech_ms, None)
    drive.tell("input_ended")
    assert drive.state in (State.OVERLAP, State.HELD)
    drive.tell("recognised", "stop", True)
    assert drive.state is State.THINKING
    assert len(drive.of(act.Yield)) == len(drive.of(act.Commit)) == 1


@pytest.mark.parametrize("speech_ms", [96, 192])
def test_muting_over_the_agent_without_words_gives_the_floor_back(speech_ms: float) -> None:
    drive = agent_speaks()
    drive.speak(speech_ms, None)
    drive.tell("input_ended")
    drive.wait()
    assert drive.state is State.AGENT
    assert len(drive.of(act.Discard)) == 1


def test_muting_in_a_sentence_commits_it() -> None:
    drive = Driver()
    drive.speak(500, None)
    drive.tell("input_ended")
    assert [commit.reason for commit in drive.of(act.Commit)] == ["input ended"]


def test_input_that_stalls_inside_a_turn_ends_it_in_the_end() -> None:
    drive = Driver()
    drive.speak(500, None)
    began = drive.now
    drive.wait()
    assert len(drive.of(act.Commit)) == 1
    assert drive.now - began == pytest.approx(EndpointingOptions().stall_max_s)


def test_a_stalled_network_is_no_silence() -> None:
    drive = Driver()
    drive.speak(500, "mark the")
    drive.now += 15.0
    drive.speak(500, "mark the last one")
    assert drive.state is State.USER
    assert not drive.of(act.Commit)
    assert not drive.of(act.UserStopped)


def test_an_interruption_by_request_takes_back_what_was_to_come() -> None:
    drive = Driver()
    drive.speak(800, "what is my next stop")
    drive.pause(1500)
    assert drive.state is State.THINKING
    assert reasons(drive.tell("interrupt", "button")) == ["Yield", "SpeakFreely"]
    assert drive.state is State.IDLE


def test_a_typed_turn_over_the_agent_takes_the_floor() -> None:
    drive = agent_speaks()
    drive.tell("typed", "never mind")
    drive.tell("commit", "typed")
    assert reasons(drive.log) == ["Yield", "Commit"]
    assert drive.state is State.THINKING


def test_what_was_being_said_stays_in_front_of_what_is_typed() -> None:
    drive = agent_speaks()
    drive.speak(300, None)
    drive.tell("recognised", "mm", True)
    drive.tell("typed", "never mind")
    assert drive.floor.text == "mm never mind"
    drive.tell("commit", "typed")
    assert [commit.turn for commit in drive.of(act.Commit)] == ["t1"]


# ---------------------------------------------------------------------- where the provider decides


def observer() -> Driver:
    drive = Driver(FloorOptions(authority="provider"))
    drive.words = None
    return drive


def test_our_own_voice_activity_only_ducks_where_the_provider_decides() -> None:
    drive = observer()
    drive.tell("audible")
    drive.speak(2000, None)
    assert drive.state is State.OVERLAP
    drive.pause(200)
    assert drive.state is State.AGENT
    assert reasons(drive.log) == ["Duck", "Duck"]


def test_the_provider_moves_the_floor_where_it_decides() -> None:
    drive = observer()
    drive.tell("provider", "started", 100.0)
    drive.tell("provider", "stopped", 900.0)
    drive.tell("commit", "provider: turn over")
    drive.tell("audible")
    drive.tell("provider", "interrupted", 2000.0)
    assert drive.state is State.USER
    assert reasons(drive.log) == ["UserStarted", "UserStopped", "Commit", "Yield", "UserStarted"]


def test_a_provider_that_forgets_a_turn_does_not_silence_the_agent_for_ever() -> None:
    drive = observer()
    drive.tell("provider", "started", 0.0)
    drive.tell("provider", "stopped", 500.0)
    drive.pause(EndpointingOptions().provider_max_ms - 500)
    assert drive.state is State.PAUSE
    drive.pause(1000)
    assert drive.state is State.THINKING


def test_the_engine_does_not_listen_to_the_provider_where_it_decides_itself() -> None:
    drive = Driver()
    assert drive.tell("provider", "started", 0.0) == []
    assert drive.state is State.IDLE


def test_speech_that_runs_into_the_agents_first_word_holds_it_at_once() -> None:
    drive = Driver()
    drive.speak(800, "what is my next stop")
    drive.pause(1500)
    drive.speak(96, None)
    drive.tell("audible")
    drive.speak(64, None)
    assert [(step.source, step.target) for step in drive.floor.transitions][-1] == (State.AGENT, State.HELD)
