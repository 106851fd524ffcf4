"""Synthesis with eSpeak NG (GPL-3): no weights, 100 languages, a few milliseconds a sentence, exact word times.

It sounds like a machine. It serves where that does not matter: scripted callers, tests, a last
resort. The shared library is that of the package ``espeakng-loader``, else the system's.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
from collections.abc import AsyncGenerator

import msgspec

from duologue.compute import Compute, Handle, Priority, shared
from duologue.errors import ConfigurationError, MissingDependencyError, ModelError
from duologue.speech.base import SpeechChunk, SpokenWord
from duologue.speech.spoken import finish, pause_after

_RATE = 22_050
# Of eSpeak NG's speak_lib.h:
_SYNCHRONOUS, _DONT_EXIT, _BUFFER_MS = 2, 0x8000, 60
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_EVENT_END_OF_LIST, _EVENT_WORD = 0, 1
_POSITION_CHARACTER, _UTF8 = 1, 1


class EspeakVoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A voice of eSpeak NG.

    Attributes:
        name: a voice's file name as in ``espeak-ng --voices`` and a variant: "en-us", "en+f2" (British), "de+m3".
        words_per_minute: 80 to 450.
        pitch: 0 to 99.
        pitch_range: 0 (monotone) to 99.
    """

    name: str = "en-us+f3"
    words_per_minute: int = 155
    pitch: int = 50
    pitch_range: int = 50


class EspeakTTS:
    """The synthesiser. The library has one state a process, so all of its users share one owner.

    Args:
        voice: the voice spoken unless :meth:`synthesize` names another.
        voices: further voices by name.
        compute: where it runs; default: the shared compute of the process.
        clause_pause, sentence_pause: seconds of silence after a clause and after a sentence.
        declared_cost: seconds a second of audio that the virtual compute charges.
    """

    rate = _RATE

    def __init__(
        self,
        voice: EspeakVoice | None = None,
        *,
        voices: dict[str, EspeakVoice] | None = None,
        compute: Compute | None = None,
        clause_pause: float = 0.10,
        sentence_pause: float = 0.24,
        declared_cost: float = 0.002,
    ) -> None:
        self._voice = voice or EspeakVoice()
        self._voices = dict(voices or {})
        self._compute = compute
        self._pauses = (clause_pause, sentence_pause)
        self._cost = declared_cost
        self._handle: Handle[_Library] | None = None
        self._opening = asyncio.Lock()

    async def synthesize(
        self, text: str, *, voice: str | None = None, speed: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> AsyncGenerator[SpeechChunk, None]:
        """See :meth:`duologue.speech.base.TTS.synthesize`: the whole of `text` as one chunk, with word times.

        Raises:
            ConfigurationError: unknown `voice`, or `speed` out of 0.5..2.0.
            MissingDependencyError: the library is not installed.
        """
        if voice is not None and voice not in self._voices:
            known = ", ".join(sorted(self._voices)) or "none"
            raise ConfigurationError(f"There is no voice {voice!r}.", hint=f"Voices that were given: {known}.")
        if not 0.5 <= speed <= 2.0:
            raise ConfigurationError(f"The speed of speech must be in 0.5..2.0, not {speed}.")
        if not any(char.isalnum() for char in text):
            return
        chosen = self._voice if voice is None else self._voices[voice]
        pause = pause_after(text, *self._pauses)
        handle = await self._acquire()
        yield await handle.run(
            lambda library: library.speak(text, chosen, speed, pause),
            priority=priority,
            cost=lambda chunk: self._cost * len(chunk.pcm) / (2 * _RATE),
        )

    async def warm(self) -> None:
        """Load the library."""
        await self._acquire()

    async def close(self) -> None:
        """Release the library."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await handle.release()

    async def _acquire(self) -> Handle[_Library]:
        async with self._opening:
            if self._handle is None:
                self._handle = await (self._compute or shared()).acquire(("tts:espeak",), _Library)
            return self._handle


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Library:
    """The loaded library; lives in its owner."""

    def __init__(self) -> None:
        self._lib, data = _load()
        rate = self._lib.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, _DONT_EXIT)
        if rate != _RATE:
            raise MissingDependencyError(
                "eSpeak NG does not find its data.", hint="Reinstall it: pip install espeakng-loader"
            )
        self._pcm = bytearray()
        self._words: list[tuple[int, int, int]] = []
        # Kept: the library calls it for as long as it is loaded.
        self._callback = _CALLBACK(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: EspeakVoice, speed: float, pause: float) -> SpeechChunk:
        import numpy as np

        # With a variant the library takes any name: ask for the language alone first.
        for name in (voice.name.partition("+")[0], voice.name):
            if self._lib.espeak_SetVoiceByName(name.encode()) != 0:
                raise ConfigurationError(
                    f"eSpeak NG has no voice {voice.name!r}.",
                    hint="See the files in `espeak-ng --voices`; variants are +m1 to +m7 and +f1 to +f5.",
                )
        self._lib.espeak_SetParameter(_PARAMETER_RATE, max(80, min(450, round(voice.words_per_minute * speed))), 0)
        self._lib.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
        self._lib.espeak_SetParameter(_PARAMETER_RANGE, voice.pitch_range, 0)
        self._pcm.clear()
        self._words.clear()
        data = text.encode()
        if self._lib.espeak_Synth(data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None) != 0:
            raise ModelError("eSpeak NG failed to speak.")
        audio = np.frombuffer(bytes(self._pcm), dtype="<i2").astype(np.float32) / 32768.0
        pcm, start = finish(audio, _RATE, 1.0)
        end = len(pcm) // 2
        spoken = [word for word in self._words if any(char.isalnum() for char in text[word[0] : word[0] + word[1]])]
        ends = [at for _, _, at in spoken[1:]] + [start + end]
        pcm += bytes(2 * round(pause * _RATE))
        return SpeechChunk(
            pcm=pcm,
            rate=_RATE,
            words=tuple(
                SpokenWord(offset=offset, length=length, start=_clamp(at - start, end), end=_clamp(until - start, end))
                for (offset, length, at), until in zip(spoken, ends, strict=True)
            ),
            estimated_total=len(pcm) // 2,
        )

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._words.append((event.text_position - 1, event.length, event.sample))
            index += 1
        if samples and count > 0:
            self._pcm += ctypes.string_at(samples, 2 * count)
        return 0


def _clamp(position: int, end: int) -> int:
    return max(0, min(end, position))


def _load() -> tuple[ctypes.CDLL, bytes | None]:
    try:
        import espeakng_loader  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        path, data = ctypes.util.find_library("espeak-ng"), None
    else:
        path, data = espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path()).encode()
    if path is None:
        raise MissingDependencyError(
            "eSpeak NG is not installed.",
            hint="Install it with: pip install espeakng-loader (or the system's espeak-ng).",
        )
    return ctypes.CDLL(path), data
