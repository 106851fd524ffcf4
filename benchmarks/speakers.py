"""Callers for benchmarks: sentences, voices made from the local synthesiser, and pauses in the middle of sentences.

The sentences were written before anything was measured, and none was taken out for what came of it. Half are requests that
the delivery agent's tools give as examples or nearly so, half have nothing to do with it. Where a caller pauses is drawn
evenly from all places between two words, so that a pause falls behind a word that could end the sentence as often as words
happen to do so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from benchmarks.rig import MIC_RATE, SOUND_DBFS
from duologue.audio import resample, voiced_spans
from duologue.speech.piper import PiperTTS, PiperVoice


@dataclass(frozen=True)
class Voice:
    """A caller's voice: the local synthesiser's, made into another person by pitch and speed."""

    name: str
    pitch: float
    speed: float


VOICES = (
    Voice("Ada", 1.22, 1.0),
    Voice("Bo", 0.86, 1.0),
    Voice("Mia", 1.32, 1.08),
    Voice("Noor", 1.10, 0.92),
    Voice("Joe", 1.0, 1.0),
    Voice("Kim", 1.16, 1.12),
)

#: requests as the tools of `examples/delivery.py` know them, most in other words; | where a speaker may look for a word
REQUESTS = (
    "What's my | next stop?",
    "Where do I | go next?",
    "How do I | get to the | next stop?",
    "Can you tell me | how to | get there?",
    "How many stops are | left today?",
    "What are the | remaining stops?",
    "How many boxes are there for | the next one?",
    "Who is the | delivery on | Harbour Street for?",
    "Give me the | phone number of the | bakery.",
    "What is the | phone number for the | post office?",
    "Please mark | the school as | complete.",
    "Mark the delivery on | Station Road as | complete.",
    "Make a note that | the back door is | locked.",
    "Please add a note that | the customer wants | a call.",
    "Tell dispatch that | I will be | ten minutes late.",
    "Could you give me | directions to | the next stop?",
    "What time is it | right now?",
    "Note that | nobody was | home at the hotel.",
    "I need the | phone number for the | pharmacy.",
    "Now where am I | going next?",
    "Where is my | next delivery?",
    "What's the | next address on | my list?",
    "How many | deliveries do I | have left?",
    "Who is the next | parcel for?",
    "Give me | directions to the | bakery.",
    "Please note that | the gate was | locked.",
    "Mark the | hotel as | complete, please.",
    "Tell dispatch that | the van has | a flat tyre.",
    "Can you give me the | phone number of | the hotel?",
    "I need to know | what comes after | this one.",
)
#: and others, that it does not
OTHERS = (
    "Is it going to | rain this afternoon?",
    "I would like to | change the time of | my appointment.",
    "Can you book a table for | four people on | Friday evening?",
    "How long does it take to | get to the | airport?",
    "My | parcel should have | been here yesterday.",
    "Do you have this jacket in | a | smaller size?",
    "I want to | speak to somebody about | my last bill.",
    "Which train goes to | the | city centre?",
    "The washing machine | makes a | strange noise.",
    "Could you send me the | invoice by | email?",
    "What does the | large pizza with | mushrooms cost?",
    "I forgot the | password of | my account.",
    "Please wake me up at | half past six | tomorrow.",
    "When does the | museum close on | Sundays?",
    "There is a | problem with the | heating in my room.",
    "Can I | pay with a | credit card?",
    "I am looking for a | present for | my sister.",
    "How do I | cancel | my subscription?",
    "We are | five adults and | two children.",
    "Where can I | park the car near | the station?",
)

#: how long a pause lasts, in seconds
PAUSES_S = (0.4, 0.6, 0.8, 1.0, 1.2)


@dataclass(frozen=True)
class Utterance:
    """Something that a caller says.

    Attributes:
        text: the words.
        pcm: PCM16 at 16 kHz, from the first sound to the last.
        end: sample after the last 10 ms of sound.
        pauses: samples [from, to) of silence that were put between two words, and the text before each.
        voice: whose it is.
    """

    text: str
    pcm: bytes
    end: int
    pauses: tuple[tuple[int, int, str], ...]
    voice: str


class Speakers:
    """Makes utterances. Each is the same for the same arguments: the synthesiser speaks without expression."""

    def __init__(self) -> None:
        voices = {voice.name: PiperVoice(pitch=voice.pitch, expression=0.0) for voice in VOICES}
        self._tts = PiperTTS(voices["Joe"], voices=voices)

    async def say(self, marked: str, voice: Voice, *, pauses: tuple[tuple[int, float], ...] = ()) -> Utterance:
        """A sentence in a voice. `pauses`: after how many words, and for how long in seconds.

        The synthesiser is given a comma where a pause is to be, so that it ends the word as people do before they
        hesitate, instead of running into the next one.
        """
        text = unmarked(marked)
        pcm, words = b"", []
        rate = self._tts.rate
        plain = text.split()
        written = " ".join(
            word.rstrip(",") + "," if any(after == number for after, _ in pauses) else word
            for number, word in enumerate(plain, 1)
        )
        async for chunk in self._tts.synthesize(written, voice=voice.name, speed=voice.speed):
            base = len(pcm) // 2
            words += [(base + word.start, base + word.end) for word in chunk.words or ()]
            pcm += chunk.pcm
        pcm = resample(pcm, rate, MIC_RATE)
        scale = MIC_RATE / rate
        silent: list[tuple[int, int, str]] = []
        shift = 0
        for after, seconds in pauses:
            at = _quietest(pcm, shift + words[after - 1][1] * scale, shift + words[after][0] * scale)
            length = int(seconds * MIC_RATE)
            pcm = _faded_out(pcm[: 2 * at]) + bytes(2 * length) + _faded_in(pcm[2 * at :])
            silent.append((at, at + length, " ".join(plain[:after])))
            shift += length
        spans = voiced_spans(pcm, MIC_RATE, SOUND_DBFS)
        begin, end = spans[0].start, spans[-1].end
        return Utterance(
            text,
            pcm[2 * begin :],
            end - begin,
            tuple((a - begin, b - begin, before) for a, b, before in silent),
            voice.name,
        )

    async def hesitant(self, marked: str, voice: Voice, chance: random.Random, *, anywhere: bool = False) -> Utterance:
        """A sentence with a pause at one of its marks (`anywhere`: between any two words), drawn by `chance`; one in
        three of those with two marks pauses at both."""
        if anywhere:
            places = [chance.randrange(1, len(unmarked(marked).split()))]
        else:
            places = marks(marked)
            if len(places) < 2 or chance.random() >= 1 / 3:
                places = [chance.choice(places)]
        return await self.say(marked, voice, pauses=tuple((place, chance.choice(PAUSES_S)) for place in places))

    async def close(self) -> None:
        """Let go of the synthesiser."""
        await self._tts.close()


def unmarked(marked: str) -> str:
    """A sentence without the marks."""
    return " ".join(marked.replace("|", " ").split())


def marks(marked: str) -> list[int]:
    """After how many words each mark stands."""
    parts = marked.split("|")
    return [len(" ".join(parts[:index]).split()) for index in range(1, len(parts))]


_FADE = MIC_RATE // 200


def _quietest(pcm: bytes, start: float, end: float) -> int:
    """The quietest place around the border of two words: samples within 30 ms of [start, end]."""
    low, high = max(0, int(start) - MIC_RATE * 30 // 1000), min(len(pcm) // 2, int(end) + MIC_RATE * 30 // 1000)
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)[low:high] ** 2
    window = MIC_RATE // 100
    if len(samples) <= window:
        return (low + high) // 2
    level = np.convolve(samples, np.ones(window), "valid")
    return low + int(np.argmin(level)) + window // 2


def _faded_out(pcm: bytes) -> bytes:
    return _ramped(pcm, np.linspace(1.0, 0.0, _FADE), end=True)


def _faded_in(pcm: bytes) -> bytes:
    return _ramped(pcm, np.linspace(0.0, 1.0, _FADE), end=False)


def _ramped(pcm: bytes, ramp: np.ndarray, *, end: bool) -> bytes:
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    part = slice(-len(ramp), None) if end else slice(0, len(ramp))
    if len(samples) >= len(ramp):
        samples[part] *= ramp
    return np.rint(samples).astype("<i2").tobytes()
