"""Recordings as callers: what is played in, what comes out, what is refused."""

from __future__ import annotations

import asyncio
import struct
from array import array
from pathlib import Path

import pytest

from duologue import Agent
from duologue.audio import read_wav, write_wav
from duologue.channels.file import File
from duologue.channels.recording import Patience, Recording
from duologue.errors import AudioFormatError, ConfigurationError, UnknownOptionError
from duologue.events import (
    ActivityInput,
    Event,
    ResponseFinished,
    ResponseText,
    SessionEnded,
    TurnCommitted,
    UserSpeechStarted,
)
from duologue.testing.scripted import INPUT_RATE, OUTPUT_RATE, Reply, ScriptedModel, Utterance

LONG = (
    "Your next stop is twelve Harbour Street, in Oslo, and after that there are many more, which I could list for you."
)
UTTERANCES = (Utterance(text="what is my next stop"), Utterance(text="stop please tell me less"))


def spoken(*parts: tuple[int, float]) -> bytes:
    """A recording as the scripted model hears it: (utterance number or 0, seconds)."""
    return b"".join(struct.pack("<h", value) * int(seconds * INPUT_RATE) for value, seconds in parts)


async def hold(
    path: Path, *parts: tuple[int, float], greeting: str = "", answer: str = LONG
) -> tuple[list[Event], SessionEnded, Path]:
    question, out = path / "question.wav", path / "answer.wav"
    write_wav(question, spoken(*parts), INPUT_RATE)
    model = ScriptedModel(UTTERANCES, lambda text, context: Reply(text=answer if text else "", delay_s=0.3))
    agent = Agent(model=model, greeting=greeting)
    events: list[Event] = []
    async with agent.session(File(input=question, output=out, output_rate=OUTPUT_RATE)) as session:

        async def watch() -> None:
            async for event in session.receive():
                events.append(event)

        watching = asyncio.ensure_future(watch())
        ended = await session.wait()
        await watching
    return events, ended, out


def of[E: Event](events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def sounding(out: Path) -> list[tuple[int, int]]:
    """The runs of samples that are not silent, to within 5 ms."""
    samples = array("h", read_wav(out).pcm)
    runs: list[tuple[int, int]] = []
    for index in range(0, len(samples), 120):
        if any(samples[index : index + 120]):
            if runs and runs[-1][1] == index:
                runs[-1] = (runs[-1][0], index + 120)
            else:
                runs.append((index, index + 120))
    return runs


@pytest.mark.virtual
async def test_a_question_is_answered_and_the_caller_hangs_up(tmp_path: Path) -> None:
    events, ended, _out = await hold(tmp_path, (0, 0.2), (1, 1.5))
    assert ended.reason == "hangup"
    assert [event.text for event in of(events, TurnCommitted)] == ["what is my next stop"]
    (finished,) = of(events, ResponseFinished)
    assert finished.status == "completed"
    assert finished.heard == LONG
    assert not finished.estimated


@pytest.mark.virtual
async def test_the_output_is_the_timeline_of_the_call(tmp_path: Path) -> None:
    events, ended, out = await hold(tmp_path, (0, 0.2), (1, 1.5))
    ((start, end),) = sounding(out)
    made = of(events, ResponseText)[0]
    seconds = (end - start) / OUTPUT_RATE
    (finished,) = of(events, ResponseFinished)
    # It begins when the words were made, lasts as long as was heard, and silence goes on to the end.
    assert start / OUTPUT_RATE == pytest.approx(made.at, abs=0.02)
    assert seconds == pytest.approx(finished.heard_ms / 1000, abs=0.01)
    assert read_wav(out).seconds == pytest.approx(ended.at, abs=0.05)


@pytest.mark.virtual
async def test_a_barge_in_cuts_the_output_where_it_was_heard(tmp_path: Path) -> None:
    events, _, out = await hold(tmp_path, (1, 1.5), (0, 3.0), (2, 1.5))
    first, second = of(events, ResponseFinished)
    assert first.status == "interrupted"
    assert second.status == "completed"
    assert 0 < first.heard_ms < second.heard_ms
    assert LONG.startswith(first.heard.strip())
    runs = sounding(out)
    assert len(runs) == 2
    assert (runs[0][1] - runs[0][0]) * 1000 / OUTPUT_RATE == pytest.approx(first.heard_ms, abs=10)


@pytest.mark.virtual
async def test_a_greeting_is_heard_out_before_the_question(tmp_path: Path) -> None:
    events, _, _ = await hold(
        tmp_path, (1, 1.5), greeting="Hello, this is the delivery assistant speaking.", answer="Yes."
    )
    greeting = of(events, ResponseFinished)[0]
    assert greeting.status == "completed"
    assert of(events, UserSpeechStarted)[0].at > greeting.at


@pytest.mark.virtual
async def test_a_recording_without_speech_ends_the_call(tmp_path: Path) -> None:
    events, ended, out = await hold(tmp_path, (0, 1.0))
    assert ended.reason == "hangup"
    assert not of(events, TurnCommitted)
    assert not sounding(out)


@pytest.mark.virtual
async def test_a_recorder_beside_the_program_ends_with_the_call(tmp_path: Path) -> None:
    out = tmp_path / "said.wav"
    agent = Agent(model=ScriptedModel(UTTERANCES, lambda text, context: Reply(text="Yes.")))
    async with agent.session(File(output=out)) as session:
        await session.send("what is my next stop")
        async for event in session.receive():
            if isinstance(event, ResponseFinished):
                break
        await session.send(ActivityInput(kind="ended"))
    assert len(sounding(out)) == 1


def test_any_rate_and_either_side_of_stereo(tmp_path: Path) -> None:
    stereo = struct.pack("<hh", 1000, 3000) * 441
    write_wav(tmp_path / "s.wav", stereo, 44_100, channels=2)
    levels = {side: set(array("h", Recording(tmp_path / "s.wav", side).pcm)) for side in ("mix", "left", "right")}
    assert levels == {"mix": {2000}, "left": {1000}, "right": {3000}}
    assert File(input=tmp_path / "s.wav").traits.input_rate == 44_100
    assert Recording(tmp_path / "s.wav").seconds == pytest.approx(0.01)


def test_what_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    good, bad, empty = tmp_path / "good.wav", tmp_path / "bad.wav", tmp_path / "empty.wav"
    write_wav(good, bytes(640), 16_000)
    write_wav(empty, b"", 16_000)
    bad.write_bytes(b"ID3 this is an MP3")
    with pytest.raises(ConfigurationError, match="neither"):
        File()
    with pytest.raises(ConfigurationError, match=r"missing\.wav cannot be read"):
        File(input=tmp_path / "missing.wav")
    with pytest.raises(AudioFormatError, match="ffmpeg"):
        File(input=bad)
    with pytest.raises(ConfigurationError, match="no audio"):
        File(input=empty)
    with pytest.raises(ConfigurationError, match="no directory"):
        File(output=tmp_path / "no" / "where.wav")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        File(output=tmp_path)
    with pytest.raises(ConfigurationError, match="same file"):
        File(input=good, output=good)
    with pytest.raises(AudioFormatError, match="96000"):
        File(output=tmp_path / "out.wav", output_rate=96_000)
    with pytest.raises(ConfigurationError, match="side"):
        File(input=good, side="both")  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="'output'"):
        File(ouptut=good)
    with pytest.raises(ConfigurationError, match="negative"):
        Patience(settle_s=-1)
    assert good.read_bytes()[:4] == b"RIFF"
