"""A conversation as a chat: every call is answered at once, and what is told last stands last."""

from __future__ import annotations

from duologue.engine.conversation import Conversation
from duologue.models.prompt import to_messages


def _talk() -> Conversation:
    talk = Conversation()
    talk.user("t1", "mark it")
    talk.call("a", "mark", {"n": 1})
    return talk


def _shape(talk: Conversation) -> list[tuple[str, str, int]]:
    return [(m.role, m.content, len(m.tool_calls)) for m in to_messages("", talk.items)]


def test_what_is_said_while_a_tool_runs_stands_before_its_call() -> None:
    talk = _talk()
    talk.assistant("r1", "One moment.", complete=True)
    talk.result("a", "mark", "done")
    assert _shape(talk) == [
        ("user", "mark it", 0),
        ("assistant", "One moment.", 0),
        ("assistant", "", 1),
        ("tool", "done", 0),
    ]


def test_a_running_call_is_answered_by_that() -> None:
    talk = _talk()
    talk.user("t2", "and now?")
    assert _shape(talk)[1:3] == [("assistant", "", 1), ("tool", "Started. The result will follow.", 0)]


def test_results_that_are_told_together_stand_together() -> None:
    talk = _talk()
    talk.user("t2", "what is left?")
    talk.call("b", "left", {})
    talk.result("a", "mark", "done")
    talk.result("b", "left", "two")
    talk.bring_forward(["a", "b"])
    messages = to_messages("", talk.items)
    assert [(m.role, m.content) for m in messages[-3:]] == [("assistant", ""), ("tool", "two"), ("tool", "done")]
    assert [call.id for call in messages[-3].tool_calls] == ["b", "a-late"]
    assert [m.tool_call_id for m in messages[-2:]] == ["b", "a-late"]


def test_a_result_told_after_another_answer_stands_after_it() -> None:
    talk = _talk()
    talk.user("t2", "what is left?")
    talk.result("a", "mark", "done", failed=True)
    talk.assistant("r2", "Two are left.", complete=True)
    talk.bring_forward(["a"])
    last = to_messages("", talk.items)[-1]
    assert (last.role, last.content, last.is_error) == ("tool", "done", True)


def test_what_was_cut_short_is_shown_so() -> None:
    talk = Conversation()
    talk.assistant("r1", "From Oxford Street,", complete=False)
    assert _shape(talk) == [("assistant", "From Oxford Street, …", 0)]
