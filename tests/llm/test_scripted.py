from __future__ import annotations

import asyncio

import pytest

from duologue.errors import ConfigurationError, ModelRequestError
from duologue.speech.llm import Finished, Message, ScriptedLLM, TextDelta, ToolCallRequest
from tests.llm.driver import text_of

HELLO = [Message(role="user", content="Hello")]


@pytest.mark.anyio
async def test_gives_replies_in_turn_word_by_word() -> None:
    call = ToolCallRequest(id="a", name="one")
    llm = ScriptedLLM(["Hello there, you.", [TextDelta(text="Wait."), call]], first_token_s=0, tokens_per_s=0)
    events = [event async for event in llm.generate(HELLO)]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello", " there,", " you."]
    assert events[-1] == Finished()
    events = [event async for event in llm.generate(HELLO)]
    assert call in events
    assert events[-1] == Finished(reason="tool_calls")
    with pytest.raises(ModelRequestError, match="over after 2 replies"):
        await anext(llm.generate(HELLO))
    assert llm.requests == [tuple(HELLO)] * 2


@pytest.mark.anyio
async def test_repeats_or_makes_replies() -> None:
    llm = ScriptedLLM(["a"], first_token_s=0, repeat=True)
    assert [text_of([event async for event in llm.generate(HELLO)]) for _ in range(3)] == ["a"] * 3
    echo = ScriptedLLM(lambda messages: messages[-1].content, first_token_s=0, tokens_per_s=0)
    assert text_of([event async for event in echo.generate(HELLO)]) == "Hello"


@pytest.mark.anyio
async def test_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    llm = ScriptedLLM(["one two three"], first_token_s=0.4, tokens_per_s=20)
    assert text_of([event async for event in llm.generate(HELLO)]) == "one two three"
    assert slept == [0.4, 0.05, 0.05]


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError):
        ScriptedLLM("one string")
    with pytest.raises(ConfigurationError):
        ScriptedLLM([], first_token_s=-1)
