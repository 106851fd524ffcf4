"""The cascade of this machine: Moonshine recognises, Piper speaks, Silero hears; the language model is found or matched."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from ..speech.endpoint import TextEndOfTurn
from ..speech.llm import LLM
from ..speech.moonshine import MoonshineSTT
from ..speech.piper import PiperTTS
from ..speech.vad import SileroVAD
from .base import Audio
from .cascade import Cascade


def local_cascade(llm: LLM | str | None, *, audio: Audio | None, speculate: bool) -> Cascade:
    """See :meth:`Cascade.local`."""
    return Cascade(
        stt=MoonshineSTT(),
        llm=find_llm(llm),
        tts=PiperTTS(),
        vad=SileroVAD,
        end_of_turn=TextEndOfTurn(),
        audio=audio,
        speculate=speculate,
    )


def find_llm(llm: LLM | str | None) -> LLM:
    """The language model that `llm` names. None: one that runs on loopback, else the phrase matcher.

    Raises ConfigurationError for a name that means nothing.
    """
    if llm is None:
        from ..speech.llm.openai_compatible import discover_local
        from ..speech.llm.phrase import PhraseLLM

        return discover_local() or PhraseLLM()
    if not isinstance(llm, str):
        return llm
    if llm == "phrase":
        from ..speech.llm.phrase import PhraseLLM

        return PhraseLLM()
    if llm.endswith(".gguf") or llm == "gguf":
        from ..speech.llm.gguf import GGUFLLM

        if llm.endswith(".gguf") and not Path(llm).is_file():
            raise ConfigurationError(f"There is no file {llm}.", hint="Give the path of a GGUF file.")
        return GGUFLLM(None if llm == "gguf" else llm)
    from ..speech.llm.openai_compatible import from_spec

    return from_spec(llm)
