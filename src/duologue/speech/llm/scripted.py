"""A language model that says what it was told to, at the pace of a real one: for tests and benchmarks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from duologue.errors import ConfigurationError, ModelRequestError
from duologue.speech.llm.base import (
    DEFAULT_OPTIONS,
    Finished,
    GenerateOptions,
    LLMEvent,
    Message,
    TextDelta,
    ToolCallRequest,
    Usage,
)
from duologue.tools.base import ToolSpec

#: A whole answer: a text, or the events themselves (without `Finished`).
type Reply = str | Sequence[LLMEvent]


class ScriptedLLM:
    """Gives `replies` in turn, word by word.

    Args:
        replies: one for each generation, or a function of the conversation that makes one.
        first_token_s: seconds before the first event.
        tokens_per_s: words of text a second after that; 0 gives them without pause.
        repeat: begin again after the last reply, instead of failing.

    All waiting is `asyncio.sleep`, so that a virtual clock drives it. `requests` keeps what each generation was asked
    (the last 100).
    """

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[Sequence[Message]], Reply],
        *,
        first_token_s: float = 0.4,
        tokens_per_s: float = 50.0,
        repeat: bool = False,
    ) -> None:
        if first_token_s < 0 or tokens_per_s < 0:
            raise ConfigurationError("first_token_s and tokens_per_s must not be negative.")
        if isinstance(replies, str):
            raise ConfigurationError("replies is one string.", hint="Pass a list: ScriptedLLM([...]).")
        self._make = replies if callable(replies) else None
        self._replies = [] if callable(replies) else list(replies)
        self._first_token_s = first_token_s
        self._tokens_per_s = tokens_per_s
        self._repeat = repeat
        self._given = 0
        self.requests: list[tuple[Message, ...]] = []
        #: generations that were closed before they were through
        self.cancelled = 0

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def is_language_model(self) -> bool:
        return False

    def describe(self) -> str:
        """What answers, in one line."""
        return "A script answers, not a language model."

    async def warm_up(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def generate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, options: GenerateOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[LLMEvent, None]:
        """The next reply.

        Raises:
            ModelRequestError: all replies have been given.
        """
        reply = self._next(messages)
        del self.requests[:-99]
        self.requests.append(tuple(messages))
        finished = False
        try:
            await asyncio.sleep(self._first_token_s)
            calls = words = 0
            for event in [TextDelta(text=reply)] if isinstance(reply, str) else reply:
                calls += isinstance(event, ToolCallRequest)
                if not isinstance(event, TextDelta):
                    yield event
                    continue
                for piece in re.findall(r"\s*\S+\s*$|\s*\S+", event.text):
                    if words and self._tokens_per_s:
                        await asyncio.sleep(1 / self._tokens_per_s)
                    words += 1
                    yield TextDelta(text=piece)
            yield Usage(input_tokens=sum(len(message.content.split()) for message in messages), output_tokens=words)
            finished = True
            yield Finished(reason="tool_calls" if calls else "stop")
        finally:
            if not finished:
                self.cancelled += 1

    def _next(self, messages: Sequence[Message]) -> Reply:
        if self._make is not None:
            return self._make(messages)
        if self._given >= len(self._replies):
            if not self._repeat or not self._replies:
                raise ModelRequestError(
                    f"The script is over after {self._given} replies.", hint="Give it more, or repeat=True."
                )
            self._given = 0
        self._given += 1
        return self._replies[self._given - 1]
