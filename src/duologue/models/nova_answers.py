"""The answers of Nova Sonic: which response of the session each belongs to, what was asked for, and what nobody wants any more.

The provider answers turns and tool results by itself and takes no order to stop. So an answer that begins is the open turn's, or
what was asked for last, or one of its own; and what still comes of one that was cancelled is dropped here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from ..events import ResponseOrigin
from .base import Began, Context, Ended
from .nova_turns import UserTurns

#: after a tool use, the wait for another one of the same request
_MORE_TOOLS_S = 0.25
_VERBATIM = "Say exactly the following, word for word, and nothing else. Do not answer it, do not add to it:\n\n"
_GO_ON = "Go on."


class _Asked:
    """An answer that was asked for and has not begun to be spoken. `text` is what asks for it; None: tool results do."""

    def __init__(self, response: str, text: str | None) -> None:
        self.response = response
        self.text = text
        self.sent = text is None


class Answers:
    """See the module.

    Args:
        send: sends text of the user, which is answered.
        waiting: whether the provider waits for results of tools.
    """

    def __init__(
        self, context: Context, turns: UserTurns, send: Callable[[str], None], waiting: Callable[[], bool]
    ) -> None:
        self.current = ""  # the response that is being made
        self.dropping = False  # what is left of an answer that nobody wants is coming in
        self.open = False  # whether anything can be asked for yet
        #: what only text can carry until an answer is asked for: results of tools for an older stream, and context
        self.late: list[str] = []
        self.notes: list[str] = []
        self._context = context
        self._turns = turns
        self._send = send
        self._waiting = waiting
        self._asked: deque[_Asked] = deque()
        self._results: Literal["none", "given", "spoken"] = "none"  # of tools, on this connection: what came of them
        self._tool_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ what is asked for

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """An answer without a turn. The provider answers results unasked: what is asked for may have been said already."""
        self._context.report(Began(response=response, origin=origin))
        late, self.late = self.late, []
        if origin in ("tool", "farewell") and not late and not instructions:
            if self._results == "spoken" or self._waiting():
                self._over(response, "completed")
                return
            if self._results == "given":
                self._ask(response, None)
                return
        notes, self.notes = self.notes, []
        told = [f"[Instruction, not said by the user: {instructions}]"] if instructions else []
        self._ask(response, "\n".join([*notes, *late, *told]) or _GO_ON)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """An answer in these words."""
        self._context.report(Began(response=response, origin=origin))
        self._ask(response, _VERBATIM + text)

    def _ask(self, response: str, text: str | None) -> None:
        self._asked.append(_Asked(response, text))
        self.pump()

    def pump(self) -> None:
        """Ask for the next answer, if nothing else is going on."""
        if not self.open or not self._asked or self._asked[0].sent:
            return
        if self.current or self.dropping or self._turns.busy:
            return
        asked = self._asked[0]
        asked.sent = True
        assert asked.text is not None
        self._send(asked.text)

    def cancel(self, response: str) -> None:
        """Nobody wants it any more."""
        if response == self.current:
            self.drop()
            return
        for asked in self._asked:
            if asked.response == response:
                self._asked.remove(asked)
                self.dropping = self.dropping or (asked.sent and asked.text is not None)
                self._over(response, "cancelled")
                return

    def drop(self) -> None:
        """Nobody wants what is being made, if anything is."""
        if self.current:
            current, self.current = self.current, ""
            self.dropping = True
            self._over(current, "cancelled")

    def turn_committed(self) -> None:
        """The user has had a turn: what was asked for before is out of date, and results will be part of the answer to it."""
        asked, self._asked = self._asked, deque()
        for entry in asked:
            self._over(entry.response, "cancelled" if entry.text is not None else "completed")

    def result_given(self) -> None:
        """A tool's result goes to the provider, which will speak of it."""
        self._results = "given"
        self.end_request()

    # ------------------------------------------------------------------ what the provider does

    def begin(self) -> bool:
        """What comes belongs to an answer; begin it if it is a new one. False if nobody wants it."""
        if self.dropping:
            return False
        if self._tool_timer is not None:
            self.end_request()
        if self.current:
            return True
        if self._results == "given":
            self._results = "spoken"
        turn = self._turns.answered()
        if not turn and self._asked and self._asked[0].sent:
            self.current = self._asked.popleft().response
            return True
        response = self._context.next_response()
        self.current = response
        self._context.report(Began(response=response, turn=turn, origin="turn" if turn else "respond"))
        return self.current == response  # the session may have had no room for it

    def request(self) -> bool:
        """A tool is asked for, perhaps together with the one before. False if nobody wants it."""
        if self._tool_timer is not None:
            self._tool_timer.cancel()
            self._tool_timer = None
        return self.begin()

    def requested(self) -> None:
        """A tool use is complete; others of the same request may follow at once. Then it is an answer of its own."""
        if self.current:
            if self._tool_timer is not None:
                self._tool_timer.cancel()
            self._tool_timer = asyncio.get_running_loop().call_later(_MORE_TOOLS_S, self.end_request)

    def end_request(self) -> None:
        """No more tools are asked for in this answer."""
        if self._tool_timer is not None:
            self._tool_timer.cancel()
            self._tool_timer = None
            self.end()

    def end(self) -> None:
        """No more of what is being made will come."""
        if self.current:
            current, self.current = self.current, ""
            self._over(current, "completed")

    def turn_over(self) -> None:
        """The provider has said what it had to say."""
        self.dropping = False
        self.end()
        self.pump()

    def interrupted(self) -> None:
        """The provider has stopped by itself."""
        self.dropping = False
        if self.current:
            current, self.current = self.current, ""
            self._over(current, "cancelled")

    def _over(self, response: str, status: Literal["completed", "cancelled"]) -> None:
        self._context.report(Ended(response=response, status=status))

    def close(self) -> None:
        """The connection is over."""
        if self._tool_timer is not None:
            self._tool_timer.cancel()
