"""PhraseLLM: no language model, but a matcher that lets an agent with tools be talked to without one.

It compares what was said with the tools' `examples`, fills their slots, asks for what is missing, speaks results, and
knows a little small talk. It keeps nothing between turns: what it asked before is worked out anew from the
conversation, so a session that is resumed elsewhere goes on as before. The same conversation gives the same answer.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from duologue.errors import ConfigurationError
from duologue.speech.llm.base import (
    DEFAULT_OPTIONS,
    LLM,
    Finished,
    GenerateOptions,
    LLMEvent,
    Message,
    TextDelta,
    ToolCallRequest,
)
from duologue.speech.llm.phrase_catalogue import Catalogue, Match
from duologue.speech.llm.phrase_continue import NEUTRAL, UNANSWERED, could_continue
from duologue.speech.llm.phrase_render import abilities, question, shown_example, tool_answer
from duologue.speech.llm.phrase_talk import ANSWERS, Chat, small_talk
from duologue.speech.llm.phrase_text import BACKCHANNELS, Token, core, tokenize
from duologue.speech.llm.phrase_values import MISSING, fill
from duologue.tools.base import ToolSpec

#: how far back a question, its question again, and so on, are followed
MAX_PENDING = 4
_CALL_PREFIX = "phrase_"
_PROMPT = "What can I do for you?"


class _Say(NamedTuple):
    text: str


class _Call(NamedTuple):
    tool: ToolSpec
    arguments: dict[str, Any]


class _Ask(NamedTuple):
    """A question for `parameter`; the other arguments are there already."""

    tool: ToolSpec
    parameter: str
    arguments: dict[str, Any]
    missing: tuple[str, ...]
    text: str


class _Confirm(NamedTuple):
    """A match too weak to act on: "Did you mean ...?"."""

    match: Match
    text: str


class _Unknown(NamedTuple):
    pass


type _Outcome = _Say | _Call | _Ask | _Confirm | _Unknown


class PhraseLLM:
    """Answers by matching phrases to tools; see the module.

    Args:
        fallback: a language model for what does not match.
        threshold: score (0 to 1) from which a match is acted on.
        confirm_threshold: score from which a weaker match is asked about ("Did you mean ...?").
        talk_threshold: score from which words are taken as small talk.
        today: gives the day that "tomorrow" counts from.

    Raises:
        ConfigurationError: thresholds that are not 0 < confirm_threshold <= threshold <= 1.
    """

    def __init__(
        self,
        fallback: LLM | None = None,
        *,
        threshold: float = 0.66,
        confirm_threshold: float = 0.52,
        talk_threshold: float = 0.8,
        today: Callable[[], datetime.date] = datetime.date.today,
    ) -> None:
        if not 0 < confirm_threshold <= threshold <= 1 or not 0 < talk_threshold <= 1:
            raise ConfigurationError(
                f"threshold={threshold}, confirm_threshold={confirm_threshold}, talk_threshold={talk_threshold}.",
                hint="They are scores from 0 to 1, and confirm_threshold is not above threshold.",
            )
        self._fallback = fallback
        self._threshold = threshold
        self._confirm_threshold = confirm_threshold
        self._talk_threshold = talk_threshold
        self._today = today
        self._catalogue = Catalogue(())
        self._calls = 0

    @property
    def name(self) -> str:
        return f"phrases+{self._fallback.name}" if self._fallback is not None else "phrases"

    @property
    def is_language_model(self) -> bool:
        return self._fallback is not None and self._fallback.is_language_model

    def describe(self) -> str:
        """What answers, in one line; without a fallback, with the change that puts a language model in its place."""
        if self._fallback is not None:
            return f"A phrase matcher answers what it knows, and {self._fallback.name} the rest."
        return 'A phrase matcher answers, not a language model. For one: Cascade.local(llm="ollama/llama3.2").'

    async def warm_up(self) -> None:
        """Warm the fallback up, if there is one."""
        if self._fallback is not None:
            await self._fallback.warm_up()

    async def aclose(self) -> None:
        """Close the fallback, if there is one."""
        if self._fallback is not None:
            await self._fallback.aclose()

    def could_continue(self, text: str, tools: Sequence[ToolSpec], question: str | None = None) -> float:
        """How probable it is that `text` is the beginning of a longer request; `question` is what the agent asked, if it did.

        See :func:`could_continue`; and what could not be answered yet is rather the beginning of something that can be.
        """
        catalogue = self._prepared(tools)
        found = could_continue(text, catalogue)
        if found != NEUTRAL or question is not None or self._fallback is not None:
            return found
        alone = [Message(role="user", content=text)]
        return UNANSWERED if isinstance(self._decide(alone, catalogue, 0), _Unknown) else found

    async def generate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, options: GenerateOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[LLMEvent, None]:
        """Answer the conversation; never raises of its own, but passes on what the fallback raises.

        Backchannels alone ("uh-huh") are answered with nothing but :class:`Finished`.
        """
        if options.tool_choice == "none":
            tools = ()
        everything = messages
        # instructions to a language model are nothing to match
        messages = [message for message in messages if message.role != "system"]
        results = _trailing_results(messages)
        outcome: _Outcome
        if results:
            theirs = not any((message.tool_call_id or "").startswith(_CALL_PREFIX) for message in results)
            outcome = _Unknown() if theirs and self._fallback is not None else _Say(_answers(results, tools))
        else:
            outcome = self._decide(messages, self._prepared(tools), MAX_PENDING)
        if self._fallback is not None and isinstance(outcome, (_Unknown, _Confirm)):
            stream = self._fallback.generate(everything, tools, options=options)
            try:
                async for event in stream:
                    yield event
            finally:
                await stream.aclose()
            return
        if isinstance(outcome, _Unknown):
            outcome = _Say(f"Sorry, I did not understand that. {abilities(tools)}")
        for event in self._events(outcome, messages):
            yield event

    def _events(self, outcome: _Say | _Call | _Ask | _Confirm, messages: Sequence[Message]) -> list[LLMEvent]:
        if isinstance(outcome, _Call):
            self._calls += 1
            seen = "\0".join(f"{message.role}:{message.content}" for message in messages[-8:])
            call_id = _CALL_PREFIX + hashlib.blake2s(f"{self._calls}\0{seen}".encode(), digest_size=8).hexdigest()
            arguments = msgspec.json.encode(outcome.arguments).decode()
            preface: list[LLMEvent] = [TextDelta(text="Okay, one moment.")] if outcome.tool.long_running else []
            return [
                *preface,
                ToolCallRequest(id=call_id, name=outcome.tool.name, arguments=arguments),
                Finished(reason="tool_calls"),
            ]
        pieces = [piece for piece in re.split(r"(?<=[.!?…])(?=\s)", outcome.text) if piece]
        return [*(TextDelta(text=piece) for piece in pieces), Finished()]

    def _prepared(self, tools: Sequence[ToolSpec]) -> Catalogue:
        if tuple(tools) != self._catalogue.tools:
            self._catalogue = Catalogue(tools)
        return self._catalogue

    # -- deciding

    def _decide(self, messages: Sequence[Message], catalogue: Catalogue, depth: int) -> _Outcome:
        """What to do about a conversation that ends with something a person said."""
        said = next((index for index in range(len(messages) - 1, -1, -1) if messages[index].role == "user"), None)
        if said is None:
            return _Say(ANSWERS["hello"] if not messages else _PROMPT)
        if messages[-1].role != "user":
            return _Say(_PROMPT)
        raw = tokenize(messages[said].content)
        words = core(raw)
        pending = self._pending(messages[:said], catalogue, depth - 1) if depth > 0 else None
        if not words or (pending is None and all(word.text in BACKCHANNELS for word in raw)):
            return _Say("")
        match = catalogue.match(words, self._today())
        chat = small_talk(words, self._talk_threshold)
        if chat is None and len(raw) != len(words):
            chat = small_talk(raw, self._talk_threshold)
        if pending is not None:
            answer = self._answer_pending(pending, raw, words, match, chat)
            if answer is not None:
                return answer
        if match is not None and match.score >= max(self._threshold, chat.score if chat else 0.0):
            return _act(match)
        if chat is not None:
            return self._chat(chat, messages[:said], catalogue)
        loose = catalogue.by_words(words, self._today())
        if loose is not None and not loose.tool.examples and loose.score >= self._threshold:
            return _act(loose)
        if match is None or match.score < self._confirm_threshold or match.literal < 1:
            match = loose
        if match is not None:
            return _Confirm(match, f"Did you mean “{shown_example(match.example)}”?")
        return _Unknown()

    def _pending(self, messages: Sequence[Message], catalogue: Catalogue, depth: int) -> _Ask | _Confirm | None:
        """The question that the conversation ends with, if its last entry is one of ours and was heard at least in
        part.
        """
        if len(messages) < 2 or messages[-1].role != "assistant" or messages[-2].role != "user":
            return None
        outcome = self._decide(messages[:-1], catalogue, depth)
        if not isinstance(outcome, (_Ask, _Confirm)):
            return None
        heard = [token.text for token in tokenize(messages[-1].content)][:3]
        asked = [token.text for token in tokenize(outcome.text)][: len(heard)]
        return outcome if heard and heard == asked else None

    def _answer_pending(
        self, pending: _Ask | _Confirm, raw: list[Token], words: list[Token], match: Match | None, chat: Chat | None
    ) -> _Outcome | None:
        """What an answer to our question leads to; None if it is no answer but something new."""
        other = match is not None and match.literal >= 1 and match.score >= 0.85
        if isinstance(pending, _Confirm):
            if (chat is not None and chat.talk == "yes") or raw[0].text in ("yes", "yeah", "yep"):
                return _act(pending.match)
            if not other and (
                raw[0].text in ("no", "nope") or (chat is not None and chat.talk in ("no", "never_mind"))
            ):
                return _Say("All right. What is it then?")
            return None
        if other:
            return None
        if chat is not None and chat.talk in ("never_mind", "wait", "repeat", "abilities", "goodbye"):
            return _Say(pending.text) if chat.talk == "repeat" else None
        schema = pending.tool.parameters.get("properties", {}).get(pending.parameter, {})
        value = fill(schema, words, self._today())
        if value is MISSING:
            value = fill(schema, raw, self._today())
        if value is MISSING:
            text = question(pending.tool, pending.parameter, again=True)
            return pending._replace(text=text)
        arguments = {**pending.arguments, pending.parameter: value}
        return _next(pending.tool, arguments, pending.missing[1:])

    def _chat(self, chat: Chat, before: Sequence[Message], catalogue: Catalogue) -> _Outcome:
        if chat.talk == "goodbye":
            ending = next((tool for tool in catalogue.tools if tool.ends_call), None)
            return _Say(ANSWERS["goodbye"]) if ending is None else _Call(ending, {})
        if chat.talk == "abilities":
            return _Say(abilities(catalogue.tools))
        if chat.talk == "who":
            return _Say(f"I am a phrase matcher, not a person and not a language model. {abilities(catalogue.tools)}")
        if chat.talk == "repeat":
            return _Say(_last_said(before, catalogue.tools))
        return _Say(ANSWERS[chat.talk])


def _act(match: Match) -> _Outcome:
    # what could not be used is asked for first, even if it may be left out: it was said on purpose
    wanted = dict.fromkeys([*match.unusable, *match.missing])
    return _next(match.tool, match.arguments, tuple(wanted))


def _next(tool: ToolSpec, arguments: dict[str, Any], missing: tuple[str, ...]) -> _Outcome:
    if missing:
        return _Ask(tool, missing[0], arguments, missing, question(tool, missing[0]))
    return _Call(tool, arguments)


def _trailing_results(messages: Sequence[Message]) -> list[Message]:
    start = len(messages)
    while start > 0 and messages[start - 1].role == "tool":
        start -= 1
    return list(messages[start:])


def _answers(results: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
    """Results as one answer; a goodbye comes last."""
    known = {tool.name: tool for tool in tools}
    ordered = sorted(results, key=lambda message: message.name in known and known[message.name].ends_call)
    return " ".join(tool_answer(message, known.get(message.name or "")) for message in ordered)


def _last_said(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
    """What was said last, in full even if it was cut short when it came from a tool's result."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "assistant" and message.content and not message.tool_calls:
            results = _trailing_results(messages[:index])
            return _answers(results, tools) if results else message.content.rstrip(" …")
    return "I have not said anything yet."
