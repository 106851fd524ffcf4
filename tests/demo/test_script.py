"""The script and the example agent belong together: each sentence must mean what its step needs."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest

from duologue.demo import script as module
from duologue.demo.run import example_path, load_example
from duologue.demo.script import DEFAULT_SEED, VOICES, script
from duologue.demo.voice import speak_lines
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.llm import Message, PhraseLLM, ToolCallRequest
from duologue.speech.llm.phrase_text import BACKCHANNELS
from duologue.testing.audio import recognise
from duologue.testing.words import wer
from duologue.tools import Tool

MEANING: dict[str, tuple[str, dict[str, str]]] = {
    "NEXT_STOP": ("next_stop", {}),
    "ROUTE": ("directions", {}),
    "BARGE_IN": ("customer", {}),
    "COMPLETE": ("mark_complete", {"delivery": "school"}),
    "MEANWHILE": ("stops_left", {}),
    "CORRECTION": ("mark_complete", {"delivery": "one before"}),
    "GOODBYE": ("end_call", {}),
}


def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in load_example().definition.tools if isinstance(tool, Tool)}


def understood(text: str) -> tuple[str, dict[str, Any]]:
    async def ask() -> list[Any]:
        specs = [tool.spec for tool in tools().values()]
        return [event async for event in PhraseLLM().generate([Message(role="user", content=text)], specs)]

    calls = [event for event in asyncio.run(ask()) if isinstance(event, ToolCallRequest)]
    assert len(calls) == 1, text
    return calls[0].name, msgspec.json.decode(calls[0].arguments)


@pytest.mark.parametrize("step", MEANING)
def test_each_sentence_means_its_step(step: str) -> None:
    for text in getattr(module, step):
        assert understood(text) == MEANING[step], text


def test_notes_and_pauses() -> None:
    for text in module.NOTE:
        name, arguments = understood(text)
        assert name == "add_note"
        assert text.rstrip(".").endswith(arguments["text"])
    for first in module.PAUSE:
        # the half sentence must sound unfinished, or the demo's second of silence would be its end
        assert TextEndOfTurn().judge(first) < 0.2, first
        for second in module.AFTER_PAUSE:
            assert understood(f"{first} {second}") == (
                "customer",
                {"delivery": second.removeprefix("the ").rstrip("?")},
            )


def test_backchannels_are_some() -> None:
    for text in module.BACKCHANNEL:
        assert set(text.lower().strip(".").split("-")) <= {*BACKCHANNELS, "uh", "huh"}


def test_a_seed_is_a_call() -> None:
    assert script(5) == script(5)
    assert len({tuple(script(seed).lines.values()) for seed in range(30)}) > 25
    assert len({script(seed).voice for seed in range(30)}) == len(VOICES)
    assert len({script(seed).gaps for seed in range(30)}) == 30
    assert script(DEFAULT_SEED).backchannel == "Uh-huh."
    for seed in range(30):
        part = script(seed)
        assert part.pause_s == 1.0
        assert all(0.3 <= gap <= 1.2 for gap in part.gaps)


def test_the_caller_sounds_unlike_the_agent() -> None:
    assert all(abs(math.log2(voice.pitch)) > 0.12 for voice in VOICES)


def test_the_voice_says_the_lines() -> None:
    """One call's lines, heard by the recogniser; the pause is one second of silence within its sentence."""
    part = script(13)
    lines = asyncio.run(speak_lines(part))
    assert "after_pause" not in lines
    for name in ("next_stop", "complete", "correction", "goodbye"):
        assert wer(part.lines[name], recognise(lines[name], 16_000)) <= 0.2
    silence = bytes(2 * 16_000)
    assert silence in lines["pause"]
    assert silence not in lines["correction"]


def test_the_long_answer_is_long() -> None:
    # at the synthesiser's pace of about 15 characters a second: twelve seconds and more to barge in on
    assert len(tools()["directions"]()) > 12 * 18
    assert example_path().name == "delivery.py"
