"""Tools beside the conversation: when a call may start, what its result sets off, and what is said while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from ..errors import SessionClosedError
from ..events import ApprovalInput, Event, ToolApprovalNeeded, ToolFinished, ToolProgress, ToolStarted
from ..tools import Tool, ToolCall, ToolContext, ToolEvent, ToolExecutor, ToolResult
from ..tools.base import parse_arguments
from .conductor import Conductor

#: a filler may come this much early: timers are not exact (seconds)
_SOON_S = 0.005


class FillerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said when a tool keeps the caller waiting in silence. `after_s` 0: nothing; `texts` are taken in turn."""

    after_s: float = 1.2
    texts: tuple[str, ...] = ("One moment.", "Just a second.")


class Toolbench:
    """Runs the tools of one session. Its calls and results are history, and leave the worker only once journaled."""

    def __init__(
        self,
        tools: Iterable[Tool],
        conductor: Conductor,
        context: ToolContext,
        *,
        runner: Literal["thread", "inline"],
        filler: FillerOptions,
        session: str,
        hook: Callable[..., None],
    ) -> None:
        self._conductor = conductor
        self._loop = asyncio.get_running_loop()
        self._filler = filler
        self._fillers_said = 0
        self._hook = hook
        self._origin: dict[str, tuple[str, str]] = {}  # of each run: the response that asked, the turn it answers
        self._unwanted: set[str] = set()  # runs whose results nobody waits for any more
        self._waiting: dict[str, set[str]] = {}
        self._lasting: dict[str, ToolStarted] = {}  # long runs that are under way
        self._withheld: list[tuple[int, str, str, str, bool]] = []  # results the model is given once somebody is there
        self.executor = ToolExecutor(tools, context=context, on_event=self._event, runner=runner, run_key=session)

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return bool(self.executor.running or self._lasting)

    @property
    def lasting(self) -> tuple[ToolStarted, ...]:
        """How the long runs began that have no result yet."""
        return tuple(self._lasting.values())

    def under_way(self) -> tuple[Event, ...]:
        """What somebody who joins has to know of the long runs: how they began, and which of them wait for approval."""
        undecided = {call.id for call in self.executor.pending_approvals}
        return tuple(
            event
            for started in self._lasting.values()
            for event in (started, *([_approval(started)] if started.call in undecided else ()))
        )

    @property
    def arriving(self) -> bool:
        """Whether a long run is done whose result is not journaled yet."""
        return len(self._lasting) > sum(run.call.id in self._lasting for run in self.executor.running)

    def vacated(self) -> None:
        """Everybody has left: only long runs go on."""
        self._cancel([call for call in self._origin if call not in self._lasting], "the caller has left")

    def joined(self, generation: int) -> None:
        """Somebody is there: the model may have the results. One that was opened since then has them in its history."""
        withheld, self._withheld = self._withheld, []
        for made, call, name, text, error in withheld:
            if made == generation and self._conductor.connection is not None:
                self._conductor.connection.tool_result(call, name, text, error=error)

    def request(self, response: str, call: ToolCall) -> None:
        """The model wants this run: journal it, then start it."""
        try:
            arguments = parse_arguments(call.name, call.arguments)
        except Exception:
            arguments = {}  # the executor says what is wrong with them, to the model
        self._conductor.conversation.call(call.id, call.name, arguments)
        asking = self._conductor.responses.get(response)
        self._origin[call.id] = (response, asking.turn if asking is not None else "")
        self._waiting.setdefault(response, set()).add(call.id)
        tool = self.executor.tools.get(call.name)
        if tool is None or tool.side_effects:
            self._conductor.fact("effects")
        conductor = self._conductor
        started = conductor.stamped(ToolStarted(call=call.id, name=call.name, arguments=arguments, response=response))
        if tool is not None and tool.long_running:
            self._lasting[call.id] = started
        conductor.emit(started)
        self._hook("before_tool", call)
        self._conductor.journal.when_durable(lambda: self._start(call))

    def recover(self, started: ToolStarted) -> None:
        """A run of an owner that was lost: it runs again if its tool says so, else nobody knows how it ended."""
        call = ToolCall(id=started.call, name=started.name, arguments=dict(started.arguments))
        self._origin[call.id] = (started.response, "")
        self._waiting.setdefault(started.response, set()).add(call.id)
        tool = self.executor.tools.get(call.name)
        if tool is not None and tool.long_running:
            self._lasting[call.id] = started
        self.executor.recover(call)

    def _start(self, call: ToolCall) -> None:
        try:
            self.executor.start(call)
        except SessionClosedError:
            return
        tool = self.executor.tools.get(call.name)
        if self._filler.after_s and tool is not None and not tool.ends_call:
            self._loop.call_later(self._filler.after_s, self._fill, call.id)

    def _fill(self, call: str) -> None:
        """The caller may have waited in silence for a while: say something, once a run."""
        conductor = self._conductor
        if not (conductor.speaking.speaks and conductor.present) or all(
            run.call.id != call for run in self.executor.running
        ):
            return
        left_s = self._filler.after_s - (conductor.now() - conductor.speaking.silent_since)
        if conductor.responses.owed or conductor.floor.user_has_floor:
            self._loop.call_later(self._filler.after_s, self._fill, call)
        elif left_s > _SOON_S:
            self._loop.call_later(left_s, self._fill, call)
        else:
            texts = self._filler.texts
            conductor.speaking.say(texts[self._fillers_said % len(texts)], "filler")
            self._fillers_said += 1

    def withdraw(self, calls: Iterable[str]) -> None:
        """The model no longer wants these results."""
        self._cancel(calls, "the model withdrew the call")

    def reopen(self, turn: str) -> None:
        """The user goes on with a turn: the answer that asked for these runs was taken back."""
        self._cancel([call for call, origin in self._origin.items() if origin[1] == turn], "the caller went on")

    def _cancel(self, calls: Iterable[str], reason: str) -> None:
        for call in calls:
            if self.executor.cancel(call, reason):
                self._unwanted.add(call)

    def barge_in(self) -> None:
        """The caller took the floor: stop what may be stopped."""
        self._unwanted.update(self.executor.barge_in())

    def decide(self, answer: ApprovalInput) -> bool:
        """Approve or deny a waiting run."""
        return self.executor.decide(answer.call, answer.approved, answer.note)

    async def close(self) -> None:
        """Cancel what runs. Bounded."""
        await self.executor.aclose()

    def _event(self, event: ToolEvent) -> None:
        call, conductor = event.call, self._conductor
        if event.kind == "approval":
            arguments = call.arguments if isinstance(call.arguments, dict) else {}
            conductor.emit(ToolApprovalNeeded(call=call.id, name=call.name, arguments=arguments))
        elif event.kind == "progress":
            conductor.emit(ToolProgress(call=call.id, name=call.name, message=event.text))
            tool = self.executor.tools.get(call.name)
            if (
                tool is not None
                and tool.speak_progress
                and conductor.speaking.speaks
                and conductor.present
                and not conductor.floor.user_has_floor
            ):
                conductor.speaking.say(event.text, "filler")
        elif event.kind == "finished" and event.result is not None:
            self._finished(call, event.result)

    def _finished(self, call: ToolCall, result: ToolResult) -> None:
        conductor = self._conductor
        text = result.text()
        conductor.emit(
            ToolFinished(
                call=call.id,
                name=call.name,
                status=result.status,
                output=result.output,
                error=result.error or "",
                duration_s=round(result.duration, 4),
            )
        )
        self._hook("after_tool", call, result)
        conductor.journal.when_durable(lambda: self._deliver(call, result, text))

    def _deliver(self, call: ToolCall, result: ToolResult, text: str) -> None:
        """The result is durable: it is history, and the model may have it."""
        conductor = self._conductor
        conductor.conversation.result(call.id, call.name, text, failed=result.status != "ok")
        conductor.speaking.untold.append(call.id)
        failed = result.status != "ok"
        if not conductor.present:  # a model that is given a result may answer it
            self._withheld.append((conductor.owner.generation, call.id, call.name, text, failed))
        elif conductor.connection is not None:
            conductor.connection.tool_result(call.id, call.name, text, error=failed)
        unwanted = call.id in self._unwanted
        self._unwanted.discard(call.id)
        if self._lasting.pop(call.id, None) is not None and not unwanted:
            conductor.speaking.lasting.add(call.id)
        tool = self.executor.tools.get(call.name)
        response, _ = self._origin.pop(call.id, ("", ""))
        waiting = self._waiting.get(response, set())
        waiting.discard(call.id)
        if tool is not None and tool.ends_call and not failed and conductor.present:
            conductor.speaking.say_goodbye()
        if not waiting:
            # One answer for all results of one request: parallel tools are spoken of together.
            self._waiting.pop(response, None)
            if unwanted:
                conductor.speaking.unowed()
            else:
                conductor.speaking.respond("", "farewell" if conductor.speaking.farewell else "tool")
        conductor.owner.run_settled()


def _approval(started: ToolStarted) -> ToolApprovalNeeded:
    return ToolApprovalNeeded(at=started.at, call=started.call, name=started.name, arguments=started.arguments)
