"""The example agent's own sense, without a voice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from duologue.demo.run import load_example
from duologue.tools import Tool


@pytest.fixture
def call() -> SimpleNamespace:
    agent = load_example()
    state: Any = agent.definition.state
    return SimpleNamespace(
        tools={tool.name: tool for tool in agent.definition.tools if isinstance(tool, Tool)},
        session=SimpleNamespace(state=state()),
    )


def test_it_says_that_no_language_model_answers() -> None:
    assert "phrase matcher" in load_example().model.notice


@pytest.mark.parametrize(
    ("words", "street"),
    [
        ("the school", "Oxford Street"),
        ("oxford street", "Oxford Street"),
        ("Harbor Street", "Harbour Street"),
        ("the last one", "Oxford Street"),
        ("one before", "Station Road"),
        ("the next one", "Harbour Street"),
        ("post office", "Market Square"),
    ],
)
def test_stops_are_found_by_what_people_call_them(call: SimpleNamespace, words: str, street: str) -> None:
    assert call.session.state.find(words).street == street


def test_an_unknown_stop_is_an_answer(call: SimpleNamespace) -> None:
    assert call.session.state.find("the moon") is None
    assert "no stop" in call.tools["customer"](call.session, "the moon")
    assert "no stop" in asyncio.run(call.tools["mark_complete"](call.session, "the moon"))


def test_marking_takes_its_time_and_changes_the_round(call: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert asyncio.run(call.tools["mark_complete"](call.session, "one before")) == "Station Road is marked as complete."
    assert waited == [3]
    assert [stop.status for stop in call.session.state.stops[:2]] == ["complete", "handed over"]


def test_notes_are_kept_a_call_each(call: SimpleNamespace) -> None:
    assert call.tools["add_note"](call.session, "the gate is locked")
    assert call.session.state.notes == ["the gate is locked"]
    assert type(call.session.state)().notes == []


def test_somebody_must_approve_a_call_to_dispatch(call: SimpleNamespace) -> None:
    assert call.tools["call_dispatch"].approval
    assert not call.tools["next_stop"].side_effects
    assert call.tools["mark_complete"].side_effects
