"""A new user's first minutes on real speech: an agent is written, asked aloud, and its answer is recognised."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from duologue.audio import read_wav, resample, voiced_spans, write_wav
from duologue.cli import main
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS, PiperVoice

pytest.importorskip("moonshine_voice")
pytest.importorskip("piper")

pytestmark = pytest.mark.anyio


async def say(path: Path, text: str) -> None:
    """Another voice than the agent's asks."""
    tts = PiperTTS(PiperVoice(pitch=1.15))
    pcm = b"".join([chunk.pcm async for chunk in tts.synthesize(text)])
    write_wav(path, pcm, tts.rate)
    await tts.close()


async def hear(path: Path) -> list[str]:
    """What is said in a file, one text for each stretch of speech."""
    wav = read_wav(path)
    stretches: list[list[int]] = []
    for span in voiced_spans(wav.pcm, wav.rate):
        if stretches and span.start - stretches[-1][1] < wav.rate * 0.8:
            stretches[-1][1] = span.end
        else:
            stretches.append([span.start, span.end])
    stt = MoonshineSTT()
    texts = []
    for start, end in stretches:
        margin = wav.rate // 3
        stream = await stt.open()
        stream.begin(0)
        stream.push(resample(wav.pcm[2 * max(0, start - margin) : 2 * (end + margin)], wav.rate, 16_000))
        texts.append((await stream.final()).text)
        await stream.close()
    await stt.close()
    return texts


def plain(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower())


async def test_the_agent_that_init_writes_answers_a_recording_aloud(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "mine")]) == 0
    await say(tmp_path / "question.wav", "Add coffee to the list.")
    command = [
        sys.executable,
        "-m",
        "duologue.cli",
        "talk",
        "mine/app.py",
        "--file",
        "question.wav",
        "--out",
        "answer.wav",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)  # noqa: ASYNC221
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    # The first line is honest about what answers, and how to change it.
    assert lines[0].startswith("· A phrase matcher answers, not a language model.")
    assert "Cascade.local(llm=" in lines[0]
    assert "agent  Hi, what do you need?" in lines
    assert 'tool  add_to_list(item="coffee")' in lines
    assert any("voice to voice" in line for line in lines)
    heard = " ".join(map(plain, await hear(tmp_path / "answer.wav")))
    assert "what do you need" in heard
    assert "added coffee" in heard


async def test_the_agent_that_init_writes_answers_typed_lines(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "duologue.cli", "talk", "app.py", "--text"]
    lines = "put milk on my list\nI need bread\nwhat's on my list\nwhat is 12 times 12\ngoodbye\n"
    done = subprocess.run(  # noqa: ASYNC221
        command, cwd=tmp_path, input=lines, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "agent  You need milk, bread." in done.stdout
    assert "144" in done.stdout
    assert "(completed)" in done.stdout  # the agent hung up: it said goodbye
