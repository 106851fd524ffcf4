"""A connection that passes on to another one, whichever that is just now, what it has nothing to add to itself."""

from __future__ import annotations

from abc import abstractmethod

from ..engine.conversation import Item
from .base import Capabilities, Connection


class Relay(Connection):
    """See the module. Without a link nothing is passed on: what is in the history, the next link is given with that."""

    capabilities: Capabilities

    @abstractmethod
    def live(self) -> Connection | None:
        """The link in use, if there is one that is not lost."""

    def image(self, data: bytes, mime: str) -> None:
        """See Connection. Without a link, what none would take is refused."""
        if (live := self.live()) is not None:
            live.image(data, mime)
        elif "image" not in self.capabilities.inputs:
            super().image(data, mime)

    def item(self, item: Item) -> None:
        """See Connection."""
        if (live := self.live()) is not None:
            live.item(item)

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        if (live := self.live()) is not None:
            live.prepare(turn, reply=reply)

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection."""
        if (live := self.live()) is not None:
            live.tool_result(call, name, text, error=error)

    def hear_out(self) -> None:
        """See Connection."""
        if (live := self.live()) is not None:
            live.hear_out()

    def input_ended(self) -> None:
        """See Connection."""
        if (live := self.live()) is not None:
            live.input_ended()
