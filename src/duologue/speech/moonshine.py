"""Recognition on this machine with Moonshine (MIT; ``moonshine-voice==0.1.0`` carries the English tiny model).

Moonshine reads a whole segment at a cost that grows with its length (about 15 ms a second of speech on one x86 core),
so "streaming" is reading the open utterance again every few hundred milliseconds, at background priority, and
dropping that under load. The package's own voice activity detection is switched off: it splits sentences at short
pauses, and we have one. It gives no word times with the model in the package, and no confidence.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
from pathlib import Path

from duologue.compute import Compute, Handle, Priority, SupersededError, shared
from duologue.errors import ConfigurationError, MissingDependencyError, ModelError, OverloadedError
from duologue.speech.base import STT_RATE, Transcript
from duologue.speech.utterance import Span, UtteranceBuffer, trim

_ARCHITECTURES = ("tiny", "base")
_NEW_FOR_PARTIAL = STT_RATE // 5
_KNOWN = 8


class MoonshineSTT:
    """The recogniser. All streams of the process with the same model share one handle and its owner.

    Args:
        model: directory with ``encoder_model.ort``, ``decoder_model_merged.ort`` and ``tokenizer.bin``; default: the
            English tiny model of the package.
        architecture: "tiny" or "base", what the directory holds.
        language: what the model recognises; another one asked of :meth:`open` is refused.
        compute: where it runs; default: the shared compute of the process.
        declared_cost: seconds a second of speech that the virtual compute charges, on top of 10 ms.

    Raises:
        ConfigurationError: unknown architecture.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        architecture: str = "tiny",
        language: str = "en",
        compute: Compute | None = None,
        declared_cost: float = 0.015,
    ) -> None:
        if architecture not in _ARCHITECTURES:
            raise ConfigurationError(
                f"MoonshineSTT: unknown architecture {architecture!r}.", hint=f"Use one of {', '.join(_ARCHITECTURES)}."
            )
        self._model = None if model is None else str(model)
        self._architecture = architecture
        self._language = language
        self._compute = compute
        self._cost = declared_cost
        self._handle: Handle[_Reader] | None = None
        self._opening = asyncio.Lock()

    async def open(self, *, position: int = 0, language: str | None = None) -> MoonshineStream:
        """Open a stream; loads the model with the first.

        Raises:
            MissingDependencyError: the package or the model is not installed.
            ConfigurationError: the model does not speak `language`.
        """
        if language is not None and language.split("-")[0].lower() != self._language:
            raise ConfigurationError(
                f"The Moonshine model in use recognises {self._language!r}, not {language!r}.",
                hint="Give MoonshineSTT a model of that language, or use another recogniser.",
            )
        return MoonshineStream(await self._acquire(), position, self._language, self._cost)

    async def warm(self) -> None:
        """Load the model and run it once."""
        handle = await self._acquire()
        await handle.run(lambda reader: reader.read(bytes(2 * STT_RATE)))

    async def close(self) -> None:
        """Release the shared model; streams that are still open raise SessionClosedError from then on."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await handle.release()

    async def _acquire(self) -> Handle[_Reader]:
        async with self._opening:
            if self._handle is None:
                compute = self._compute or shared()
                key = ("stt:moonshine", self._model, self._architecture)
                self._handle = await compute.acquire(
                    key, lambda: _Reader(self._model, self._architecture), close=_Reader.close
                )
            return self._handle


class _Segment:
    """A stretch of speech of an utterance, and its text once it is known."""

    __slots__ = ("pcm", "span", "text")

    def __init__(self, span: Span, pcm: bytes) -> None:
        self.span = span
        self.pcm = pcm
        self.text: str | None = None


class MoonshineStream:
    """Recognition of one track; see :class:`duologue.speech.base.STTStream`. Made by :meth:`MoonshineSTT.open`."""

    def __init__(self, handle: Handle[_Reader], position: int, language: str, cost: float) -> None:
        self._handle = handle
        self._language = language
        self._cost = cost
        self._buffer = UtteranceBuffer(position=position)
        self._open = False
        self._generation = 0
        self._segments: list[_Segment] = []
        self._known: dict[Span, str] = {}
        self._urgent: dict[Span, asyncio.Task[str]] = {}
        self._partial_end = position

    @property
    def position(self) -> int:
        """Position after the last sample pushed."""
        return self._buffer.position

    @property
    def lost(self) -> int:
        """Samples of utterances lost because nobody asked for their text within a minute."""
        return self._buffer.lost

    def push(self, pcm: bytes) -> None:
        """See :meth:`duologue.speech.base.STTStream.push`."""
        self._buffer.push(pcm)

    def begin(self, position: int) -> None:
        """See :meth:`duologue.speech.base.STTStream.begin`."""
        if not self._open:
            self._open = True
            self._buffer.begin(position)
            self._partial_end = min(position, self.position)

    async def partial(self) -> Transcript | None:
        """See :meth:`duologue.speech.base.STTStream.partial`."""
        if not self._open or self.position - self._partial_end < _NEW_FOR_PARTIAL:
            return None
        generation, before = self._generation, self._partial_end
        self._partial_end = self.position
        try:
            return await self._compose(self._prepare(self.position), final=False, priority=Priority.BACKGROUND)
        except (SupersededError, OverloadedError):
            if generation == self._generation:
                self._partial_end = before
            return None

    async def peek(self, up_to: int | None = None) -> Transcript:
        """See :meth:`duologue.speech.base.STTStream.peek`."""
        return await self._compose(self._prepare(self._end(up_to)), final=False, priority=Priority.URGENT)

    async def final(self, up_to: int | None = None) -> Transcript:
        """See :meth:`duologue.speech.base.STTStream.final`."""
        end = self._end(up_to)
        segments = self._prepare(end)
        # Closed before the first await: what is pushed meanwhile belongs to the next utterance.
        self.discard(end)
        return await self._compose(segments, final=True, priority=Priority.URGENT)

    def discard(self, up_to: int | None = None) -> None:
        """See :meth:`duologue.speech.base.STTStream.discard`."""
        if self._open:
            self._buffer.end(self._end(up_to))
        self._open = False
        self._generation += 1
        self._segments = []

    def reset(self, position: int) -> None:
        """See :meth:`duologue.speech.base.STTStream.reset`."""
        self.discard()
        self._buffer.reset(position)
        self._known.clear()
        self._partial_end = position

    async def close(self) -> None:
        """Forget the audio and what is being recognised; the shared model stays with :class:`MoonshineSTT`."""
        self.reset(self.position)
        tasks = list(self._urgent.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, up_to: int | None) -> int:
        return self.position if up_to is None else min(up_to, self.position)

    def _prepare(self, end: int) -> list[_Segment]:
        """The segments of the open utterance up to `end`: those already cut off, kept as objects, and the rest."""
        if not self._open:
            return []
        while (span := self._buffer.cut()) is not None:
            pcm = self._buffer.read(span)
            if (spoken := trim(pcm, span[0])) is not None:
                self._segments.append(_Segment(spoken, self._buffer.read(spoken)))
        spoken = self._buffer.speech(end)
        return [*self._segments, *([] if spoken is None else [_Segment(spoken, self._buffer.read(spoken))])]

    async def _compose(self, segments: list[_Segment], *, final: bool, priority: Priority) -> Transcript:
        end = self.position
        for segment in segments:
            if segment.text is None:
                segment.text = await self._read(segment, priority)
                segment.pcm = b""
        return Transcript(
            text=" ".join(segment.text for segment in segments if segment.text),
            start=segments[0].span[0] if segments else end,
            end=segments[-1].span[1] if segments else end,
            final=final,
            language=self._language,
        )

    async def _read(self, segment: _Segment, priority: Priority) -> str:
        span, pcm = segment.span, segment.pcm
        if (known := self._known.get(span)) is not None:
            return known
        cost = 0.010 + self._cost * len(pcm) / (2 * STT_RATE)
        if priority is Priority.BACKGROUND:
            generation = self._generation

            def partial(reader: _Reader) -> str:
                if generation != self._generation:
                    raise SupersededError("The utterance is closed.")
                return reader.read(pcm)

            text = await self._handle.run(partial, priority=priority, cost=cost, key=id(self))
        else:
            # A pause is often asked about twice: by the reply prepared in it, then by the end of the turn.
            task = self._urgent.get(span)
            if task is None:
                task = asyncio.ensure_future(
                    self._handle.run(lambda reader: reader.read(pcm), priority=priority, cost=cost)
                )
                self._urgent[span] = task
                task.add_done_callback(lambda _: self._urgent.pop(span, None))
            text = await asyncio.shield(task)
        self._known[span] = text
        while len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return text


class _Reader:
    """The model's handle; lives in its owner."""

    def __init__(self, model: str | None, architecture: str) -> None:
        try:
            import moonshine_voice
            import numpy as np
        except ImportError as error:
            raise MissingDependencyError(
                "Speech recognition needs the package moonshine-voice.",
                hint="Install it with: pip install 'duologue[local]'",
            ) from error
        path = Path(model) if model is not None else Path(moonshine_voice.get_model_path("tiny-en"))
        if not (path / "encoder_model.ort").is_file():
            raise MissingDependencyError(
                f"There is no Moonshine model in {path}.",
                hint="Give the directory of one, or install moonshine-voice==0.1.0, which carries the English one.",
            )
        self._np = np
        self._transcriber = moonshine_voice.Transcriber(
            str(path),
            moonshine_voice.ModelArch[architecture.upper()],
            options={"vad_threshold": "0", "return_audio_data": "false"},
        )
        from moonshine_voice.moonshine_api import TranscriptC

        self._result = TranscriptC

    def read(self, pcm: bytes) -> str:
        """Text of PCM16 at 16 kHz.

        The package's own method turns every sample into a Python object and back, holding the interpreter for
        milliseconds; so its C function is called with the buffer. The release of the package is pinned.
        """
        samples = self._np.frombuffer(pcm, dtype="<i2").astype(self._np.float32) / 32768.0
        out = ctypes.POINTER(self._result)()
        error = self._transcriber._lib.moonshine_transcribe_without_streaming(
            self._transcriber._handle,
            samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            len(samples),
            STT_RATE,
            0,
            ctypes.byref(out),
        )
        if error != 0:
            raise ModelError(f"Moonshine failed with its error {error} on {len(samples)} samples.")
        lines = self._transcriber._parse_transcript(out).lines
        return clean(" ".join(line.text.strip() for line in lines), len(samples) / STT_RATE)

    def close(self) -> None:
        self._transcriber.close()


def open_reader(model: str | None, architecture: str) -> _Reader:
    """Load a model for a lane: its `read(pcm)` gives the text of PCM16 at 16 kHz. Raises MissingDependencyError."""
    return _Reader(model, architecture)


_NOT_SPEECH = re.compile(r"[♪♫]+|\[[^\]]*\]|\([^)]*\)")
_SPACES = re.compile(r"\s+")
#: what the model makes of a breath or a hum; said alone, it says nothing either
_NOTHING = frozenset({"you"})
#: words a second beyond which a repeated phrase is the decoder going round in circles, not the speaker
_FASTEST = 3.6


def clean(text: str, seconds: float) -> str:
    """Recognised text without the marks for music and noise, and without repetitions that nobody had the time to say.

    The decoder sometimes repeats its last phrase ("Yes. Yes", "ever tried, ever tried, ever tr"), above all on short
    words and on speech that was cut off. While the text has more than 3.6 words a second, such a tail is removed.
    """
    words = _SPACES.sub(" ", _NOT_SPEECH.sub(" ", text)).strip().split()
    bare = ["".join(char for char in word.lower() if char.isalnum()) for word in words]
    while len(words) > 1 and len(words) > _FASTEST * seconds:
        repeated = _repeated_tail(bare)
        if not repeated:
            break
        del words[-repeated:], bare[-repeated:]
    if not any(bare) or " ".join(bare) in _NOTHING:
        return ""
    return " ".join(words)


def _repeated_tail(words: list[str]) -> int:
    """How many words at the end repeat those before them (at least once in full), the longest phrase first."""
    for period in range(len(words) // 2, 0, -1):
        count = 0
        while count + period < len(words) and words[-1 - count] == words[-1 - count - period]:
            count += 1
        if count >= period:
            return count
    return 0
