"""The session as its model's connection sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.conversation import Item
from ..models.base import Setup

if TYPE_CHECKING:
    from .session import Session


class ModelContext:
    """See :class:`duologue.models.base.Context`. Made once the session has its conductor."""

    generation = 0

    def __init__(self, session: Session) -> None:
        self._session = session
        self.memory: dict[str, Any] = {}
        # Each is called for every window of user audio: what stands between them and the session's own would cost more.
        self.report = session.conductor.report
        self.now = session.conductor.now

    @property
    def speaks(self) -> bool:
        """Whether anybody hears the agent."""
        return self._session.speaks

    def next_response(self) -> str:
        """A fresh response id."""
        return self._session.conductor.responses.next_id()

    def history(self) -> Sequence[Item]:
        """The conversation for a model."""
        return self._session.conductor.history()

    def setup(self) -> Setup:
        """What a connection starts with, as of now."""
        return self._session.setup()

    def room(self, response: str) -> Awaitable[None]:
        """Wait until a response may be made further."""
        return self._session.conductor.responses.room(response)

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task inside the session."""
        self._session.spawn(run, name)
