"""The history: what was heard, in order, and within a provider's limits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from duologue.engine.conversation import Conversation, Item

texts = st.text(max_size=60)


class ConversationMachine(RuleBasedStateMachine):
    """Turns, answers heard in part, tools that answer late or never, pins, under any limits."""

    def __init__(self) -> None:
        super().__init__()
        self.history = Conversation(max_items=30)
        self.count = 0
        self.calls: list[str] = []
        self.reserved: list[str] = []
        self.results: dict[str, str] = {}

    def next(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    @rule(text=texts)
    def user(self, text: str) -> None:
        self.history.user(self.next("t"), text)

    @rule(text=texts)
    def user_goes_on(self, text: str) -> None:
        last = self.history.last("user")
        if last is not None:
            before = [item.id for item in self.history.items]
            self.history.user(last.id, text)
            assert [item.id for item in self.history.items] == before, "the turn stays where it stands"
            assert self.history.last("user") == msgspec.structs.replace(last, text=text)

    @rule()
    def reserve(self) -> None:
        self.reserved.append(self.next("r"))
        self.history.reserve(self.reserved[-1])

    @rule(heard=texts, complete=st.booleans())
    def heard(self, heard: str, complete: bool) -> None:
        if self.reserved:
            response = self.reserved.pop(0)
            self.history.assistant(response, heard, complete=complete)
            entry = [item for item in self.history.items if item.kind == "assistant" and item.id == response]
            assert [item.text for item in entry] == ([heard] if heard.strip() else [])

    @rule(value=st.integers())
    def call(self, value: int) -> None:
        self.calls.append(self.next("c"))
        self.history.call(self.calls[-1], "tool", {"value": value})

    @rule(text=texts, pick=st.integers(0, 5))
    def result(self, text: str, pick: int) -> None:
        if self.calls:
            call = self.calls[pick % len(self.calls)]
            self.history.result(call, "tool", text)
            self.history.result(call, "tool", "a second answer to the same call")
            known = [item for item in self.history.items if item.kind == "result" and item.id == call]
            assert len(known) <= 1 or call not in {item.id for item in self.history.items if item.kind == "call"}
            self.calls.remove(call)

    @rule(text=texts)
    def note(self, text: str) -> None:
        self.history.note(text)

    @rule(fact=st.text("abc ", max_size=20), name=st.sampled_from(["name", "place"]))
    def pin(self, fact: str, name: str) -> None:
        self.history.pin(name, fact)

    @rule()
    def dumped_and_loaded(self) -> None:
        other = Conversation(max_items=30)
        other.load(self.history.dump())
        assert other.items == self.history.items
        assert other.summary == self.history.summary
        assert other.pinned == self.history.pinned
        self.history = other

    @rule(room=st.integers(0, 3000))
    def dumped_within_bounds(self, room: int) -> None:
        least = len(self._empty_dump())
        other = Conversation(max_items=30)
        data = self.history.dump(least + room)
        assert len(data) <= least + room
        other.load(data)
        assert other.pinned == self.history.pinned
        kept = len(other.items)
        assert other.items == self.history.items[len(self.history.items) - kept :]
        assert not kept or kept == len(self.history.items) or other.items[0].kind != "result"

    def _empty_dump(self) -> bytes:
        bare = Conversation()
        bare.pinned = dict(self.history.pinned)
        return bare.dump()

    @rule(
        max_bytes=st.none() | st.integers(0, 3000),
        max_items=st.none() | st.integers(1, 20),
        max_text=st.none() | st.integers(4, 100),
    )
    def compacted(self, max_bytes: int | None, max_items: int | None, max_text: int | None) -> None:
        kept = self.history.compacted(max_bytes=max_bytes, max_items=max_items, max_text=max_text)
        if max_bytes is not None:
            assert sum(item.size for item in kept) <= max_bytes
        if max_items is not None:
            assert len(kept) <= max_items
        if max_text is not None:
            assert all(len(item.text.encode()) <= max_text for item in kept)
        seen: set[str] = set()
        for item in kept:
            if item.kind == "call":
                seen.add(item.id)
            assert item.kind != "result" or item.id in seen, "never a result without its call"
            assert item.kind != "assistant" or item.text.strip()
        facts = "".join(f"{name}: {fact}" for name, fact in self.history.pinned.items())
        least = min(10_000 if limit is None else limit for limit in (max_text, max_bytes))
        if self.history.pinned and least > len(facts) + 200:
            for name, fact in self.history.pinned.items():
                assert f"{name}: {fact}" in kept[0].text, "pinned facts stay"
        whole = [(item.kind, item.id) for item in self.history.items]
        order = [whole.index((item.kind, item.id)) for item in kept if item.id != "summary" and item.id]
        assert order == sorted(order)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.history.items) <= 30
        assert len(self.history.summary.splitlines()) <= 60

    @invariant()
    def without_limits_nothing_is_left_out(self) -> None:
        kept = self.history.compacted()
        said = [item for item in self.history.items if item.text or item.kind not in ("assistant",)]
        orphans = {item.id for item in said if item.kind == "result"} - {
            item.id for item in said if item.kind == "call"
        }
        assert [item for item in kept if item.id != "summary"] == [
            item for item in said if not (item.kind == "result" and item.id in orphans)
        ]


TestConversation = ConversationMachine.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_an_interrupted_answer_is_what_was_heard() -> None:
    history = Conversation()
    history.user("t1", "what is my next stop")
    history.reserve("r1")
    history.user("t2", "never mind")
    history.assistant("r1", "Your next stop is ", complete=False)
    assert [(item.kind, item.text, item.complete) for item in history.items] == [
        ("user", "what is my next stop", True),
        ("assistant", "Your next stop is ", False),
        ("user", "never mind", True),
    ]


def test_an_answer_that_nobody_heard_is_not_in_it() -> None:
    history = Conversation()
    history.reserve("r1")
    history.assistant("r1", " ", complete=False)
    assert history.items == ()


def test_an_answer_that_is_being_spoken_is_planned() -> None:
    history = Conversation()
    history.reserve("r1")
    assert history.compacted() == []
    assert [item.text for item in history.compacted(planned={"r1": "the whole answer"})] == ["the whole answer"]


def test_a_result_is_late_when_the_user_had_another_turn() -> None:
    history = Conversation()
    history.call("c1", "slow", {})
    history.call("c2", "slow", {})
    history.result("c1", "slow", "in time")
    history.user("t2", "and what else")
    history.result("c2", "slow", "late")
    assert [(item.id, item.late) for item in history.items if item.kind == "result"] == [("c1", False), ("c2", True)]
    assert history.open_calls() == []


def test_a_picture_survives_dump_and_load() -> None:
    history = Conversation()
    history.user("i1", "", image=b"\xff\xd8\x00", mime="image/jpeg")
    other = Conversation()
    other.load(history.dump())
    assert other.items[0].image == b"\xff\xd8\x00"


@pytest.mark.parametrize("data", [b"[]", b'{"items":[{"kind":"nobody"}],"summary":[],"pinned":{}}', b"\xff"])
def test_what_is_no_history_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Conversation().load(data)


@given(st.lists(st.text("abc ", max_size=20).filter(str.strip), min_size=1, max_size=60))
def test_what_is_dropped_is_summed_up_newest_last(turns: list[str]) -> None:
    history = Conversation()
    for index, text in enumerate(turns):
        history.user(f"t{index}", text)
    kept = history.compacted(max_bytes=400)
    assert sum(item.size for item in kept) <= 400
    if len(kept) < len(turns):
        note, *whole = kept
        newest_dropped = turns[len(turns) - len(whole) - 1]
        assert note.text.splitlines()[-1] == f"User: {' '.join(newest_dropped.split())}"


def test_seeded_from_elsewhere_it_goes_on() -> None:
    history = Conversation(max_items=4)
    history.extend(Item(kind="user", id=f"t{index}", text=f"turn {index}") for index in range(10))
    assert len(history.items) <= 4
    assert history.items[-1].text == "turn 9"
    assert history.summary.splitlines()[-1] == "User: turn 5", "the summary is bounded, too"
