"""People's recordings as callers of the whole agent, beside synthetic speech, on the virtual clock.

The recordings that the package ``moonshine-voice`` carries are played through a channel into a session of the local cascade as
it comes, frame by frame, with its default turn-taking. All models are the real ones; what they cost is declared, so that a
call is the same on every machine. A script answers, because here only hearing is judged: who waits, and for how long.

``beckett`` is one paragraph of six short sentences with pauses of up to 1.1 s between them, ``two_cities`` one of two long
sentences with pauses of up to 0.9 s in them, ``clone-test`` a remark that ends in "um". ``endgame_nagg_nell`` is a dialogue of
two people who pause for each other: an agent that hears both answers between them, but never inside a sentence. There is no
text of the last two beside the recordings, so no word error rate is stated for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from duologue.audio import resample, voiced_spans, write_wav
from duologue.channels.file import File
from duologue.compute import VirtualCompute
from duologue.events import (
    ResponseFinished,
    ResponseStarted,
    TurnCommitted,
    UserSpeechStopped,
)
from duologue.models.cascade import Cascade
from duologue.session.definition import Definition
from duologue.session.session import Session
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.llm.scripted import ScriptedLLM
from duologue.speech.moonshine import MoonshineSTT
from duologue.speech.piper import PiperTTS, PiperVoice
from duologue.speech.vad import SileroVAD
from duologue.testing.words import wer
from tests.speech.recordings import BECKETT, TWO_CITIES, recording

RATE = 16_000
#: silence before the recording, in samples; ``File`` waits so long by default
LEAD = round(0.4 * RATE)
#: seconds a second of speech that recognition is said to take: those of a busy machine, on which partial texts are fewer
STT_COST = 0.045
ANSWER = "Thank you, I have noted that."
#: where the sentences of ``endgame_nagg_nell`` end, seconds of the recording
ENDGAME_ENDS = (0.9, 1.9, 3.3, 4.3, 8.1, 11.4, 14.1, 17.0, 19.0, 20.0, 21.9, 23.2, 25.1, 27.5, 28.3)
#: how far off a sentence's end the end of speech may be found, seconds
_SLACK = 0.35


@dataclass
class Heard:
    """What came of a call: committed turns with the end of their speech (seconds of the recording), and answers."""

    turns: list[tuple[str, float]] = field(default_factory=list)
    begun: int = 0
    answers: list[ResponseFinished] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(text for text, _ in self.turns)


async def call(pcm: bytes, folder: Path) -> Heard:
    """Play PCM16 at 16 kHz to an agent and listen until it has answered."""
    source, compute = folder / "caller.wav", VirtualCompute()
    write_wav(source, pcm, RATE)
    model = Cascade(
        stt=MoonshineSTT(compute=compute, declared_cost=STT_COST),
        llm=ScriptedLLM(lambda _: ANSWER, first_token_s=0.1),
        tts=PiperTTS(compute=compute),
        vad=SileroVAD,
        end_of_turn=TextEndOfTurn(),
    )
    channel = File(input=source, output=folder / "agent.wav")
    heard, stopped = Heard(), 0.0
    try:
        async with Session(
            Definition(name="listener", model=model, idle_prompt=""), [channel], tool_runner="inline"
        ) as session:
            async for event in session.receive():
                match event:
                    case UserSpeechStopped():
                        stopped = (event.position - LEAD) / RATE
                    case TurnCommitted():
                        heard.turns.append((event.text, stopped))
                    case ResponseStarted():
                        heard.begun += 1
                    case ResponseFinished():
                        heard.answers.append(event)
    finally:
        await model.aclose()
        await compute.close()
    return heard


# Measured with the English tiny model: beckett 0.08 (one word of twelve), two_cities 0.06; the request 0.18 (two words of
# eleven), the note with pauses 0.10, the synthetic paragraph 0.00.


def assert_answered_once(heard: Heard) -> None:
    """One turn, one answer begun, and it was heard to its end."""
    assert len(heard.turns) == 1, heard.turns
    assert heard.begun == 1
    assert [(answer.status, answer.heard) for answer in heard.answers] == [("completed", ANSWER)]


@pytest.mark.virtual(limit=120)
@pytest.mark.parametrize(
    ("name", "said", "most"),
    [
        ("beckett", ". ".join(text for text, *_ in BECKETT), 0.17),
        ("two_cities", TWO_CITIES, 0.09),
    ],
    ids=["beckett", "two_cities"],
)
async def test_a_paragraph_is_one_turn_and_understood(name: str, said: str, most: float, tmp_path: Path) -> None:
    heard = await call(recording(name), tmp_path)
    assert_answered_once(heard)
    assert wer(said, heard.text) <= most, heard.text


@pytest.mark.virtual(limit=120)
async def test_who_hesitates_at_the_end_is_waited_for(tmp_path: Path) -> None:
    heard = await call(recording("clone-test"), tmp_path)
    assert_answered_once(heard)
    assert "America" in heard.text


@pytest.mark.virtual(limit=120)
async def test_a_dialogue_is_never_answered_inside_a_sentence(tmp_path: Path) -> None:
    heard = await call(recording("endgame_nagg_nell"), tmp_path)
    assert heard.turns
    for text, end in heard.turns:
        nearest = min(ENDGAME_ENDS, key=lambda known: abs(known - end))
        assert abs(nearest - end) <= _SLACK, (text, end)
    assert heard.answers[-1].status == "completed"


async def spoken(*sentences: str, pause_s: float) -> bytes:
    """Sentences by the synthesiser in a voice that is not the agent's, with this much silence between them."""
    compute = VirtualCompute()
    tts = PiperTTS(PiperVoice(pitch=1.2, expression=0.0), compute=compute)  # expression is chance
    parts: list[bytes] = []
    for sentence in sentences:
        pcm = resample(b"".join([chunk.pcm async for chunk in tts.synthesize(sentence)]), tts.rate, RATE)
        spans = voiced_spans(pcm, RATE)
        parts.append(pcm[2 * max(0, spans[0].start - RATE // 50) : 2 * (spans[-1].end + RATE // 50)])
    await tts.close()
    await compute.close()
    return bytes(2 * round(pause_s * RATE)).join(parts)


@pytest.mark.virtual(limit=120)
@pytest.mark.parametrize(
    ("sentences", "pause_s", "most"),
    [
        (("What is the phone number of the bakery on Harbour Street?",), 0.0, 0.2),
        (("Please make a note that", "the back door is", "locked."), 0.9, 0.2),
        (
            (
                "It was raining when we came to the house.",
                "There was a dog behind the gate.",
                "The door was open and nobody answered.",
                "We left the parcel with the neighbour.",
            ),
            0.35,
            0.1,
        ),
    ],
    ids=["request", "pauses inside", "paragraph"],
)
async def test_synthetic_speech_is_one_turn_and_understood(
    sentences: tuple[str, ...], pause_s: float, most: float, tmp_path: Path
) -> None:
    heard = await call(await spoken(*sentences, pause_s=pause_s), tmp_path)
    assert_answered_once(heard)
    assert wer(" ".join(sentences), heard.text) <= most, heard.text
