"""What the caller of the demo says, in which voice and when: all of it follows from a seed.

Each sentence was tried in each voice with the local recogniser, and only those it understood were kept: the demo is about the
conversation, not about the limits of a recogniser of 27 million parameters.
"""

from __future__ import annotations

import random

import msgspec

from ..speech.piper import PiperVoice

#: the call that the README shows
DEFAULT_SEED = 1


class Voice(msgspec.Struct, frozen=True):
    """A caller's voice: the local synthesiser's, made into somebody else."""

    name: str
    pitch: float
    speed: float

    def piper(self) -> PiperVoice:
        """How Piper speaks it. Without expression, so that a seed always sounds the same."""
        return PiperVoice(pitch=self.pitch, expression=0.0)


VOICES = (
    Voice("Ada", 1.22, 1.0),
    Voice("Mia", 1.32, 1.08),
    Voice("Noor", 1.12, 0.95),
    Voice("Bo", 0.86, 1.0),
    Voice("Kim", 1.16, 1.1),
)

NEXT_STOP = (
    "What's my next stop?",
    "Where do I go next?",
    "Hi, what's my next stop?",
    "Okay, where do I go next?",
    "So, what is my next stop?",
)
BACKCHANNEL = ("Uh-huh.", "Okay.", "Right.", "Yeah.")
ROUTE = (
    "How do I get there?",
    "And how do I get there?",
    "Okay, how do I get there?",
    "Can you tell me how to get there?",
)
BARGE_IN = (
    "Wait. How many boxes is it?",
    "Wait. How many boxes are there?",
    "Hold on. How many boxes is it?",
    "Wait, wait. How many boxes is it?",
    "Hold on. How many boxes are there?",
)
COMPLETE = (
    "Mark the school as complete.",
    "Please mark the school as complete.",
    "Now mark the school as complete.",
)
MEANWHILE = (
    "And what are the remaining stops?",
    "How many stops are there?",
    "What are the remaining stops?",
)
CORRECTION = (
    "Mark the last one, no, the one before, as complete.",
    "Now mark the last one, no, the one before, as complete.",
    "Please mark the last one, no, the one before, as complete.",
    "Mark the last one, I mean, the one before, as complete.",
)
PAUSE = (
    "What's the phone number for",
    "Can you give me the phone number for",
    "Give me the phone number for",
)
AFTER_PAUSE = ("the bakery?", "the post office?")
NOTE = (
    "Make a note that the back door is locked.",
    "Please note that the back door is locked.",
    "Please note that the gate is locked.",
    "Please note that the front door is open.",
)
GOODBYE = ("Thanks, goodbye.", "That's all, goodbye.", "Thank you. Goodbye.")


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's part. Times are seconds.

    Attributes:
        gaps: how long the caller waits, for each step, once the agent is silent.
        backchannel_after: how much of the answer they hear before the backchannel.
        barge_in_after: how much of the route they listen to before they barge in.
        meanwhile_after: from the tool's start to the question in between.
        pause: silence in mid-sentence.
    """

    seed: int
    voice: Voice
    next_stop: str
    backchannel: str
    route: str
    barge_in: str
    complete: str
    meanwhile: str
    correction: str
    pause: tuple[str, str]
    note: str
    goodbye: str
    gaps: tuple[float, ...]
    backchannel_after: float
    barge_in_after: float
    meanwhile_after: float
    pause_s: float = 1.0

    @property
    def lines(self) -> dict[str, str]:
        """Everything that is said, by the name of its step, in order; the sentence with the pause is in two parts."""
        return {
            "next_stop": self.next_stop,
            "backchannel": self.backchannel,
            "route": self.route,
            "barge_in": self.barge_in,
            "complete": self.complete,
            "meanwhile": self.meanwhile,
            "correction": self.correction,
            "pause": self.pause[0],
            "after_pause": self.pause[1],
            "note": self.note,
            "goodbye": self.goodbye,
        }


def script(seed: int) -> Script:
    """The script of a seed. In the default one the backchannel is "uh-huh"."""
    chance = random.Random(seed)

    def between(low: float, high: float) -> float:
        return round(chance.uniform(low, high), 2)

    pick = chance.choice
    return Script(
        seed=seed,
        voice=VOICES[seed % len(VOICES)],
        next_stop=pick(NEXT_STOP),
        backchannel=BACKCHANNEL[0] if seed == DEFAULT_SEED else pick(BACKCHANNEL),
        route=pick(ROUTE),
        barge_in=pick(BARGE_IN),
        complete=pick(COMPLETE),
        meanwhile=pick(MEANWHILE),
        correction=pick(CORRECTION),
        pause=(pick(PAUSE), pick(AFTER_PAUSE)),
        note=pick(NOTE),
        goodbye=pick(GOODBYE),
        gaps=tuple(between(0.35, 1.1) for _ in range(8)),
        backchannel_after=between(1.4, 2.6),
        barge_in_after=between(4.0, 7.0),
        meanwhile_after=between(0.25, 0.45),
    )
