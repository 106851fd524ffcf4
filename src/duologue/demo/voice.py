"""The caller's voice: all that they will say, made before they phone, so that speaking costs nothing during the call."""

from __future__ import annotations

from ..audio import resample, voiced_spans
from ..speech.piper import PiperTTS
from .script import Script

#: Hz of the caller's microphone
MIC_RATE = 16_000
#: kept around the sound of an utterance, seconds
_MARGIN_S = 0.02


async def speak_lines(script: Script) -> dict[str, bytes]:
    """Every line of the script as PCM16 at :data:`MIC_RATE`, without silence around it; the pause is in its sentence.

    Raises MissingDependencyError if the synthesiser is not installed.
    """
    tts = PiperTTS(voices={script.voice.name: script.voice.piper()})
    try:
        spoken = {name: await _speak(tts, script, text) for name, text in script.lines.items()}
    finally:
        await tts.close()
    spoken["pause"] += bytes(2 * round(script.pause_s * MIC_RATE)) + spoken.pop("after_pause")
    return spoken


async def _speak(tts: PiperTTS, script: Script, text: str) -> bytes:
    chunks = [chunk.pcm async for chunk in tts.synthesize(text, voice=script.voice.name, speed=script.voice.speed)]
    pcm = resample(b"".join(chunks), tts.rate, MIC_RATE)
    spans = voiced_spans(pcm, MIC_RATE)
    margin = round(_MARGIN_S * MIC_RATE)
    return pcm[2 * max(0, spans[0].start - margin) : 2 * (spans[-1].end + margin)]
