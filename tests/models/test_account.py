"""The account of what is owed to the user and what has been made of it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from duologue.engine.conversation import Item
from duologue.models.account import Account, Owed
from duologue.models.base import Began, Ended, Evidence, Said, Spoke, ToolRequested
from duologue.tools.base import ToolCall

RATE = 16_000
TAIL = RATE // 5


def _note(account: Account, *evidence: Evidence) -> bool:
    return [account.note(one, speaks=True) for one in evidence][-1]


def _spoke(response: str) -> Spoke:
    return Spoke(response=response, pcm=b"\1\0")


def _called(response: str) -> ToolRequested:
    return ToolRequested(response=response, call=ToolCall(id="c1", name="pay"))


# ---------------------------------------------------------------------- turns, and what is owed to them


def test_a_turn_is_answered_once_its_answer_sounds_and_owed_until_it_ends() -> None:
    account = Account(RATE)
    assert account.commit("t1", "", 1000)
    assert not _note(account, Began(response="r1", turn="t1"), Said(response="r1", text="Yes."))
    assert account.answered_to == 0
    assert not _note(account, _spoke("r1"))
    assert account.answered_to == 1000
    assert account.owed is not None
    assert _note(account, Ended(response="r1"))
    assert account.owed is None


def test_where_nobody_listens_words_are_what_sounds() -> None:
    account = Account(RATE)
    account.commit("t1", "hello", 0)
    account.note(Began(response="r1", turn="t1"), speaks=False)
    account.note(Said(response="r1", text="Yes."), speaks=False)
    assert account.sounds


def test_a_turn_ends_where_the_user_was_heard_to_stop_and_a_little_after() -> None:
    account = Account(RATE)
    account.stopped(30_000)
    account.commit("t1", "", 50_000)
    assert account.committed_to == 30_000 + TAIL
    account.heard(80_000)
    account.commit("t2", "", 90_000)
    assert account.committed_to == 80_000 + TAIL
    account.commit("t3", "", 100_000)  # by hand: nothing was told since
    assert account.committed_to == 100_000


def test_a_turn_does_not_end_after_the_present() -> None:
    account = Account(RATE)
    account.stopped(30_000)
    account.commit("t1", "", 31_000)
    assert account.committed_to == 31_000


def test_an_answer_that_was_made_ahead_of_its_turn_leaves_nothing_owed() -> None:
    account = Account(RATE)
    _note(account, Began(response="r1", turn="t1"), _spoke("r1"), Ended(response="r1"))
    assert not account.commit("t1", "", 1000)
    assert account.owed is None
    assert account.answered_to == 1000


@pytest.mark.parametrize("how", ["replaced", "cancelled", "withdrawn", "discarded"])
def test_one_that_was_made_ahead_and_is_not_wanted_any_more_is_owed(how: str) -> None:
    account = Account(RATE)
    _note(account, Began(response="r1", turn="t1"), Ended(response="r1"))
    if how == "replaced":
        _note(account, Began(response="r2", turn="t1"))
    elif how == "cancelled":
        account.cancel("r1")
    elif how == "withdrawn":
        _note(account, Ended(response="r1", status="cancelled"))
    else:
        account.discard()
    assert account.commit("t1", "", 1000)


def test_an_answer_to_no_turn_that_the_provider_makes_by_itself_is_to_the_one_that_is_owed() -> None:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    assert _note(account, Began(response="r1", origin="turn"), _spoke("r1"), Ended(response="r1"))
    assert account.answered_to == 1000


def test_an_answer_to_something_else_settles_nothing() -> None:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    assert not _note(account, Began(response="r1", origin="tool"), _spoke("r1"), Ended(response="r1"))
    assert account.answered_to == 0
    assert account.owed is not None


def test_a_turn_that_goes_on_was_not_answered() -> None:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    _note(account, Began(response="r1", turn="t1"), _spoke("r1"))
    account.reopen()
    assert account.answered_to == 0
    assert account.owed is None


def test_a_turn_that_goes_on_before_its_answer_sounds_leaves_the_one_before_it_answered() -> None:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    _note(account, Began(response="r1", turn="t1"), _spoke("r1"), Ended(response="r1"))
    account.commit("t2", "", 5000)
    account.reopen()
    assert account.answered_to == 1000


def test_what_was_said_is_known_from_the_history_or_from_what_was_typed() -> None:
    history = [Item(kind="user", id="t1", text="where next"), Item(kind="assistant", id="r1", text="Left.")]
    assert Owed("turn", turn="t1", text="typed").said(history) == "where next"
    assert Owed("turn", turn="t2", text="typed").said(history) == "typed"
    assert Owed("say", response="r1", text="Welcome.").said(history) == ""


# ---------------------------------------------------------------------- commands


def test_a_cancelled_answer_is_not_owed_unless_another_is_being_made() -> None:
    account = Account(RATE)
    account.owe(Owed("respond", response="r1"))
    _note(account, Began(response="r1"), Began(response="r2"))
    assert not account.cancel("r1")
    assert account.cancel("r2") is False, "it is not what is owed"
    assert account.cancel("r1")
    assert account.owed is None


# ---------------------------------------------------------------------- from one link to the next


def _interrupted(*evidence: Evidence) -> tuple[Account, list[Ended], bool]:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    _note(account, Began(response="r1", turn="t1"), *evidence)
    return account, *account.cut()


def test_what_nobody_has_noticed_is_taken_up_by_the_next_link_under_its_name() -> None:
    account, ends, interrupted = _interrupted()
    assert (ends, interrupted) == ([], False)
    assert not account.takes_up(Began(response="r7", origin="tool")), "something else"
    assert account.takes_up(Began(response="r8", turn="t1"))
    assert (account.ours("r8"), account.theirs("r1")) == ("r1", "r8")
    assert (account.ours("r7"), account.theirs("r7")) == ("r7", "r7")
    assert _note(account, _spoke("r1"), Ended(response="r1"))
    assert not account.takes_up(Began(response="r9", turn="t1")), "it was taken up"


def test_of_two_that_nobody_has_noticed_one_is_taken_up() -> None:
    account, ends, _ = _interrupted(Began(response="r2", turn="t1"))
    assert ends == [Ended(response="r1", status="cancelled")]
    assert account.takes_up(Began(response="r3", turn="t1"))
    assert account.theirs("r2") == "r3"


def test_what_nobody_has_noticed_ends_where_another_that_sounded_is_gone_on_with() -> None:
    _, ends, interrupted = _interrupted(_spoke("r1"), Began(response="r2", turn="t1"))
    assert interrupted
    assert ends == [Ended(response="r1"), Ended(response="r2", status="cancelled")]


def test_what_was_cut_off_is_not_gone_on_with_where_a_later_turn_is_owed() -> None:
    account = Account(RATE)
    account.commit("t1", "", 1000)
    _note(account, Began(response="r1", turn="t1"), _spoke("r1"))
    account.commit("t2", "", 5000)
    _note(account, Began(response="r2", turn="t2"))
    ends, interrupted = account.cut()
    assert (ends, interrupted) == ([Ended(response="r1")], False)
    assert account.takes_up(Began(response="r3", turn="t2"))
    assert account.theirs("r2") == "r3"


def test_words_that_did_not_sound_are_made_anew() -> None:
    account, ends, interrupted = _interrupted(Said(response="r1", text="You "))
    assert (ends, interrupted) == ([Ended(response="r1", status="cancelled")], False)
    assert account.owed is not None


@pytest.mark.parametrize("words", [True, False])
def test_what_sounded_is_gone_on_with_or_begun_anew_if_no_word_is_known(words: bool) -> None:
    said: list[Evidence] = [Said(response="r1", text="You ")] if words else []
    account, ends, interrupted = _interrupted(*said, _spoke("r1"))
    assert (ends, interrupted) == ([Ended(response="r1")], True)
    assert account.owed is not None
    owed = account.go_on(account.owed, "r2")
    assert account.owed is owed
    assert (owed.kind, owed.response, owed.end) == ("respond", "r2", 1000)
    assert ("Go on" in owed.instructions) is words
    assert _note(account, Began(response="r2", origin="turn"), Ended(response="r2"))


@pytest.mark.parametrize("sounds", [True, False])
def test_what_goes_on_with_an_answer_is_no_answer_to_the_turn_that_comes_between(sounds: bool) -> None:
    account, *_ = _interrupted(_spoke("r1"))
    assert account.owed is not None
    account.go_on(account.owed, "r2")
    _note(account, Began(response="r2", origin="turn"))
    account.commit("t2", "", 5000)
    if sounds:
        _note(account, _spoke("r2"))
    assert not _note(account, Ended(response="r2", status="cancelled"))
    assert account.owed is not None
    assert account.owed.turn == "t2"
    assert account.answered_to == 1000


def test_what_called_tools_is_not_asked_for_again() -> None:
    account, ends, interrupted = _interrupted(_called("r1"))
    assert (ends, interrupted) == ([Ended(response="r1")], False)
    assert account.owed is None


@pytest.mark.parametrize("how", ["owe", "cancel", "waive", "cut"])
def test_what_was_to_be_taken_up_is_let_go_of(how: str) -> None:
    account, *_ = _interrupted()
    if how == "owe":
        account.commit("t1", "", 2000)
    elif how == "cancel":
        account.cancel("r1")
        account.commit("t1", "", 2000)
    elif how == "waive":
        assert account.waive() == "r1"
        account.commit("t1", "", 2000)
    else:
        account.cut()
    assert not account.takes_up(Began(response="r2", turn="t1"))


class Talk(RuleBasedStateMachine):
    """Turns, answers and changes of link in any order, each answer as a link would make it."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account(RATE)
        self.position = 0
        self.turns = 0
        self.responses = 0
        self.making: set[str] = set()  # by the session's ids
        self.begun: set[str] = set()
        self.over: list[str] = []
        self.answered_before = 0  # the last turn

    def _tell(self, evidence: Evidence) -> None:
        owed = self.account.owed
        settled = self.account.note(evidence, speaks=True)
        assert settled == (owed is not None and self.account.owed is None)

    @rule(samples=st.integers(1, 5 * RATE), told=st.sampled_from(["stopped", "heard", ""]))
    def speak(self, samples: int, told: str) -> None:
        self.position += samples
        if told == "stopped":
            self.account.stopped(self.position)
        elif told == "heard":
            self.account.heard(self.position)

    @rule(late=st.integers(0, RATE))
    def commit(self, late: int) -> None:
        self.position += late
        self.turns += 1
        before, self.answered_before = self.account.committed_to, self.account.answered_to
        owed = self.account.commit(f"t{self.turns}", "", self.position)
        assert owed == (self.account.owed is not None)
        assert before <= self.account.committed_to <= self.position

    @rule()
    def reopen(self) -> None:
        self.account.reopen()
        assert self.account.owed is None
        assert self.account.answered_to == self.answered_before

    @rule(ahead=st.booleans())
    def begin(self, ahead: bool) -> None:
        self.responses += 1
        began = Began(response=f"r{self.responses}", turn=f"t{self.turns + ahead}")
        if self.account.takes_up(began):
            ours = self.account.ours(began.response)
            assert ours in self.begun
            assert self.account.theirs(ours) == began.response
        else:
            ours = began.response
            self._tell(began)
        self.begun.add(ours)
        self.making.add(ours)
        assert self.account.makes(ours)

    @precondition(lambda self: self.making)
    @rule(data=st.data(), kind=st.sampled_from(["said", "spoke", "called"]))
    def make(self, data: st.DataObject, kind: str) -> None:
        response = data.draw(st.sampled_from(sorted(self.making)))
        self._tell({"said": Said(response=response, text="a"), "spoke": _spoke(response)}.get(kind, _called(response)))

    @precondition(lambda self: self.making)
    @rule(data=st.data(), status=st.sampled_from(["completed", "cancelled", "failed"]))
    def end(self, data: st.DataObject, status: str) -> None:
        response = data.draw(st.sampled_from(sorted(self.making)))
        self.making.remove(response)
        self.over.append(response)
        self._tell(Ended(response=response, status=status))  # type: ignore[arg-type]
        assert not self.account.makes(response)

    @precondition(lambda self: self.making)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        response = data.draw(st.sampled_from(sorted(self.making)))
        self.making.remove(response)
        self.over.append(response)
        owed = self.account.owed
        assert self.account.cancel(response) == (owed is not None and self.account.owed is None)

    @rule(waive=st.booleans())
    def cut(self, waive: bool) -> None:
        owed = self.account.owed
        ends, interrupted = self.account.cut()
        ended = [end.response for end in ends]
        self.over += ended
        left = self.making - set(ended)
        assert len(left) <= 1, "each ends, but for one that the next link may make"
        assert not left or owed is not None
        self.making = set()
        assert not self.account.sounds
        if interrupted and self.account.owed is not None:
            self.responses += 1
            self.account.go_on(self.account.owed, f"r{self.responses}")
            assert not left, "it is what is gone on with"
        elif waive:
            self.over += [unnoticed] if (unnoticed := self.account.waive()) else []
            assert set(self.over) >= left
            assert self.account.owed is None

    @invariant()
    def nothing_is_answered_that_was_not_committed(self) -> None:
        assert 0 <= self.account.answered_to <= self.account.committed_to <= self.position

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert len(self.over) == len(set(self.over))


Talk.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestTalk = Talk.TestCase
