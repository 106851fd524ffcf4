"""What a client has been told to drop: audio below a line that arrives late is never played, no clear is executed twice."""

from __future__ import annotations

from duologue.wire.duologue.messages import Clear, Cleared

#: clears and responses that are remembered
_MAX = 64


class Clears:
    """The clears of one call, over all its links."""

    __slots__ = ("_answers", "_line", "_lines")

    def __init__(self) -> None:
        self._answers: dict[int, Cleared | None] = {}
        self._line = 0
        self._lines: dict[str, int] = {}

    def is_new(self, message: Clear) -> bool:
        """Whether `message` is to be executed; it counts as seen."""
        if message.c in self._answers:
            return False
        self._answers[message.c] = None
        _trim(self._answers)
        if message.response:
            self._lines[message.response] = max(message.before, self._lines.get(message.response, 0))
            _trim(self._lines)
        else:
            self._line = max(self._line, message.before)
        return True

    def answer(self, message: Cleared) -> None:
        """The clear was executed."""
        self._answers[message.c] = message

    def answered(self, c: int) -> Cleared | None:
        """The answer that was given to clear `c`."""
        return self._answers.get(c)

    def below(self, position: int, response: str) -> int:
        """How many samples from `position` on of `response` lie below the line."""
        line = self._line
        if self._lines:
            line = max(line, self._lines.get(response, 0))
        return line - position if line > position else 0


def _trim[K, V](memory: dict[K, V]) -> None:
    if len(memory) > _MAX:
        del memory[next(iter(memory))]
