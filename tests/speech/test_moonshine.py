"""Recognition by the real model: people's recordings, pauses, long speech, silence, and many callers of one handle."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import jiwer
import pytest

from duologue.compute import ThreadCompute, VirtualCompute
from duologue.errors import AudioFormatError, ConfigurationError, MissingDependencyError, SessionClosedError
from duologue.speech.moonshine import MoonshineStream, MoonshineSTT, clean
from duologue.speech.vad import SileroVAD
from duologue.testing.clock import run_virtual
from tests.speech.recordings import BECKETT, TWO_CITIES, beckett, recording, two_cities, words

RATE = 16_000


def with_stt(scenario: Callable[[MoonshineSTT], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        compute = ThreadCompute()
        stt = MoonshineSTT(compute=compute)
        try:
            await scenario(stt)
        finally:
            await stt.close()
            await compute.close()

    asyncio.run(main())


async def utterances(stream: MoonshineStream, pcm: bytes, pause: float, ask: bool = False) -> list[str]:
    """What a caller says, its utterances divided by pauses of `pause` seconds, as a cascade would do it."""
    vad, texts, speaking, last = SileroVAD(), [], False, 0
    for offset in range(0, len(pcm), 640):
        stream.push(pcm[offset : offset + 640])
        for end, probability in vad.feed(pcm[offset : offset + 640]):
            if probability > 0.5:
                if not speaking:
                    stream.begin(end - 512)
                speaking, last = True, end
            elif speaking and end - last > pause * RATE:
                speaking = False
                texts.append((await stream.final(last + 3_200)).text)
        if ask and speaking and offset % 128_000 == 0:
            await stream.partial()
    if speaking:
        texts.append((await stream.final()).text)
    return texts


def test_single_phrases_of_a_recording() -> None:
    async def scenario(stt: MoonshineSTT) -> None:
        texts = await utterances(await stt.open(), beckett(), 0.3)
        assert len(texts) == len(BECKETT)
        assert jiwer.wer(" ".join(text for text, *_ in BECKETT), " ".join(words(" ".join(texts)))) <= 0.17

    with_stt(scenario)


@pytest.mark.parametrize("pause", [0.5, 3.0])
def test_a_page_read_aloud(pause: float) -> None:
    """With a pause of 3 s it is one utterance of 40 s, recognised in pieces."""

    async def scenario(stt: MoonshineSTT) -> None:
        stream = await stt.open()
        texts = await utterances(stream, two_cities(), pause, ask=True)
        assert (len(texts) == 1) == (pause == 3.0)
        assert jiwer.wer(" ".join(words(TWO_CITIES)), " ".join(words(" ".join(texts)))) <= 0.12
        assert stream.lost == 0

    with_stt(scenario)


def test_partials_grow_and_are_not_asked_too_often() -> None:
    async def scenario(stt: MoonshineSTT) -> None:
        stream = await stt.open()
        pcm = recording("clone-test")
        assert await stream.partial() is None
        stream.begin(0)
        lengths = []
        for offset in range(0, len(pcm), 2 * 8_000):
            stream.push(pcm[offset : offset + 2 * 8_000])
            partial = await stream.partial()
            if offset + 2 * 8_000 <= len(pcm):
                assert partial is not None
                assert not partial.final
                lengths.append(len(partial.text))
            assert await stream.partial() is None
        assert lengths[-1] > lengths[2] > 0
        final = await stream.final()
        assert final.final
        assert "America" in final.text
        assert 0 <= final.start < final.end <= stream.position
        assert await stream.partial() is None

    with_stt(scenario)


def test_a_pause_asked_about_twice_is_read_once_and_stays_open_until_final() -> None:
    async def main() -> None:
        compute = VirtualCompute()
        stt = MoonshineSTT(compute=compute)
        stream = await stt.open()
        loop = asyncio.get_running_loop()
        pcm = beckett()[: 2 * RATE * 3 // 2]
        stream.push(pcm + bytes(RATE))
        stream.begin(2_000)
        first, second = await asyncio.gather(stream.peek(), stream.peek(stream.position - 1_600))
        assert first.text == second.text == "Ever tried."
        assert first.final is False
        span = (first.end - first.start) / RATE
        assert loop.time() == pytest.approx(0.010 + 0.015 * span)  # the declared cost, once
        stream.push(bytes(RATE))
        final = await stream.final()
        assert (final.text, final.final) == ("Ever tried.", True)
        assert loop.time() == pytest.approx(0.010 + 0.015 * span)
        assert (await stream.final()).text == ""
        await stream.close()
        await stt.close()
        await compute.close()

    run_virtual(main())


def test_audio_pushed_while_the_final_is_read_belongs_to_the_next_utterance() -> None:
    async def scenario(stt: MoonshineSTT) -> None:
        stream = await stt.open()
        pcm = beckett()
        stream.push(pcm[: 2 * 23_000])
        stream.begin(2_000)
        final = asyncio.create_task(stream.final())
        await asyncio.sleep(0)
        stream.push(pcm[2 * 23_000 : 2 * 50_000])
        stream.begin(27_000)
        assert words((await final).text) == ["ever", "tried"]
        assert words((await stream.final()).text) == ["ever", "failed"]

    with_stt(scenario)


def test_silence_noise_nothing_and_refused_audio() -> None:
    async def scenario(stt: MoonshineSTT) -> None:
        stream = await stt.open(position=5_000)
        assert (await stream.final()).text == ""
        for pcm in (b"", bytes(2), bytes(64_000)):
            stream.begin(stream.position)
            stream.push(pcm)
            transcript = await stream.final()
            assert (transcript.text, transcript.start) == ("", stream.position)
        stream.begin(stream.position)
        stream.push(beckett()[:40_000])
        stream.discard()
        assert (await stream.final()).text == ""
        with pytest.raises(AudioFormatError):
            stream.push(b"abc")
        stream.reset(777)
        assert stream.position == 777
        with pytest.raises(ConfigurationError, match="'no'"):
            await stt.open(language="no")
        assert (await stt.open(language="en-GB")).position == 0

    with_stt(scenario)


def test_callers_of_one_handle_get_their_own_words_from_one_thread() -> None:
    before = set(threading.enumerate())  # the process-wide compute keeps the models of earlier tests warm

    async def scenario(stt: MoonshineSTT) -> None:
        async def call(text: str, start: float, end: float) -> tuple[str, str]:
            stream = await stt.open()
            stream.begin(0)
            stream.push(beckett()[2 * int((start - 0.1) * RATE) : 2 * int((end + 0.1) * RATE)])
            await stream.partial()
            return text, " ".join(words((await stream.final()).text))

        results = await asyncio.gather(*(call(*phrase) for phrase in BECKETT * 4))
        assert sum(said == heard for said, heard in results) >= 20
        owners = [t for t in set(threading.enumerate()) - before if t.name == "duologue-stt:moonshine"]
        assert len(owners) == 1

    with_stt(scenario)


def test_close_ends_the_streams_of_the_recogniser() -> None:
    async def main() -> None:
        compute = ThreadCompute()
        stt = MoonshineSTT(compute=compute)
        stream = await stt.open()
        stream.begin(0)
        stream.push(beckett()[:64_000])
        await stt.close()
        with pytest.raises(SessionClosedError):
            await stream.final()
        await compute.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("Yes. Yes", 0.5, "Yes."),
        ("No, no, no.", 1.5, "No, no, no."),
        ("Ever tried, ever tried, ever tr", 1.0, "Ever tried, ever tried, ever tr"),
        ("Ever tried, ever tried, ever tried.", 1.0, "Ever tried,"),
        ("It was the age of wisdom. It was the age of wisdom. It was the age", 2.5, "It was the age of wisdom."),
        ("♪ ♪ ♪ ?", 1.0, ""),
        ("[Music] Hello (laughs) there.", 1.0, "Hello there."),
        ("You", 0.5, ""),
        ("Thank you.", 0.5, "Thank you."),
        ("  What's   my next stop?", 1.2, "What's my next stop?"),
        ("", 1.0, ""),
    ],
)
def test_what_the_decoder_invents_is_removed(text: str, seconds: float, expected: str) -> None:
    assert clean(text, seconds) == expected


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="tiny, base"):
        MoonshineSTT(architecture="huge")

    async def open(stt: MoonshineSTT) -> None:
        try:
            await stt.open()
        finally:
            await stt.close()

    with pytest.raises(MissingDependencyError, match="no Moonshine model"):
        asyncio.run(open(MoonshineSTT(tmp_path)))
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        asyncio.run(open(MoonshineSTT(compute=ThreadCompute())))
