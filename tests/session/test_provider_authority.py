"""A model whose provider detects turns by itself: the floor observes, ducks and yields when the provider says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duologue.engine.activity import Activity
from duologue.events import Interruption, TurnCommitted, TurnDiscarded
from duologue.models.base import (
    Capabilities,
    Connection,
    Context,
    Evidence,
    ProviderCommitted,
    ProviderSpeech,
    Recognised,
    SpeechWindow,
)
from duologue.session.definition import Definition
from duologue.session.session import Session
from duologue.testing.scripted import INPUT_RATE, OUTPUT_RATE, Reply, ScriptedCaller, ScriptedConnection, ScriptedModel
from tests.session.calls import ALL, BARGE_IN, LONG, OTHER, SHORT, STOP, UH_HUH, Call, hold, line, run

pytestmark = pytest.mark.virtual

#: silence after which this provider takes a turn for over, milliseconds
_OVER_MS = 500


class Detecting:
    """The session as the provider's side sees it: voice activity becomes the provider's own statements."""

    def __init__(self, context: Context, connection: Callable[[], ObservedConnection], commits: bool) -> None:
        self._context = context
        self._connection = connection
        self._commits = commits
        self._activity = Activity()
        self._open = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def report(self, evidence: Evidence) -> None:
        self._context.report(evidence)
        if not isinstance(evidence, SpeechWindow):
            return
        scale = 1000 / INPUT_RATE
        change = self._activity.window(evidence.start * scale, evidence.end * scale, evidence.probability)
        if change is True:
            self._open = True
            self._context.report(ProviderSpeech(fact="started", position=evidence.end))
        elif change is False:
            self._context.report(ProviderSpeech(fact="stopped", position=evidence.end))
        elif self._open and not self._activity.speaking and self._activity.silence_ms >= _OVER_MS:
            self._open = False
            connection = self._connection()
            text = connection.said()
            if text == "uh-huh":
                connection.forget()
                self._context.report(ProviderSpeech(fact="discarded", position=evidence.end))
                return
            self._context.report(Recognised(text=text, final=True))
            if self._commits:
                self._context.report(ProviderCommitted())
            else:
                connection.answer_unasked()


class ObservedConnection(ScriptedConnection):
    """Answers when its provider says that the turn is over."""

    def __init__(self, model: ScriptedModel, context: Context, commits: bool) -> None:
        super().__init__(model, Detecting(context, lambda: self, commits))  # type: ignore[arg-type]
        self._turn = 0

    def said(self) -> str:
        return self._text()[0]

    def forget(self) -> None:
        self._forget()

    def prepare(self, turn: str, *, reply: bool) -> None:
        raise AssertionError("the engine does not decide here")

    def answer_unasked(self) -> None:
        """The provider answers at once: that is how it says that the turn is over."""
        self._turn += 1
        text = self.said()
        self._forget()
        self._make(self._context.next_response(), f"t{self._turn}", "turn", text)

    def commit(self, turn: str) -> None:
        if self._heard or self._typed:
            super().commit(turn)


class Observed(ScriptedModel):
    """See the module."""

    commits = True

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(authority="provider", input_rate=INPUT_RATE, output_rate=OUTPUT_RATE, can_truncate=True)

    async def open(self, context: Context) -> Connection:
        connection = ObservedConnection(self, context, self.commits)
        self.connections.append(connection)
        return connection


def make(lines: list[Any], *, commits: bool = True, until_s: float = 14.0) -> Call:
    asked: list[str | None] = []

    def answer(text: str | None, context: Context) -> Reply:
        asked.append(text)
        return Reply(text=LONG if text and "next" in text else SHORT)

    model = Observed(ALL, answer)
    model.commits = commits
    caller = ScriptedCaller(lines, until_s=until_s)
    session = Session(Definition(name="test", model=model), [caller], tool_runner="inline")
    return Call(session, caller, model, asked)


@pytest.mark.parametrize("commits", [True, False])
async def test_the_provider_decides_when_the_turn_is_over(commits: bool) -> None:
    call = await run(make([line(1.0, OTHER, 1.0), line(6.0, OTHER, 1.0)], commits=commits))
    assert [event.turn for event in call.caller.of(TurnCommitted)] == ["t1", "t2"]
    assert [event.reason for event in call.caller.of(TurnCommitted)] == (
        ["provider: turn over"] * 2 if commits else ["provider: it answers"] * 2
    )
    assert [event.heard for event in call.finished("turn")] == [SHORT, SHORT]
    assert [kind for kind, _ in call.history] == ["user", "assistant"] * 2


async def test_a_barge_in_that_the_provider_hears_silences_the_agent() -> None:
    call = await run(make([line(1.0, STOP, 1.0), line(5.0, BARGE_IN, 1.2)]))
    first, second = call.finished("turn")
    assert (first.status, second.heard) == ("interrupted", SHORT)
    assert call.rendered(first.response)[-1][0] <= 5.2
    assert [event.reason for event in call.caller.of(Interruption)] == ["provider: speech started"]
    assert call.connection.truncated == [(first.response, pytest.approx(first.heard_ms * 24, abs=24))]


async def test_what_the_provider_takes_for_no_turn_is_discarded() -> None:
    call = await run(make([line(1.0, UH_HUH, 0.4), line(4.0, OTHER, 1.0)]))
    assert [event.reason for event in call.caller.of(TurnDiscarded)] == ["provider: no turn"]
    assert [event.text for event in call.caller.of(TurnCommitted)] == ["what is the weather"]


async def test_a_typed_turn_is_answered_there_too() -> None:
    call = make([], until_s=5)
    async with call.session as session:
        await hold(call, 1.0)
        await session.send("what is the weather")
        await session.wait()
    assert call.finished("turn")[0].heard == SHORT
