"""Language models for the cascade: OpenAI-compatible endpoints, GGUF files in process, and a phrase matcher."""

from duologue.speech.llm.base import (
    DEFAULT_OPTIONS,
    LLM,
    Finished,
    GenerateOptions,
    LLMEvent,
    Message,
    TextDelta,
    ToolCallRequest,
    Usage,
)
from duologue.speech.llm.gguf import GGUFLLM
from duologue.speech.llm.openai_compatible import OpenAICompatibleLLM, discover_local, from_spec
from duologue.speech.llm.phrase import PhraseLLM
from duologue.speech.llm.scripted import ScriptedLLM

__all__ = [
    "DEFAULT_OPTIONS",
    "GGUFLLM",
    "LLM",
    "Finished",
    "GenerateOptions",
    "LLMEvent",
    "Message",
    "OpenAICompatibleLLM",
    "PhraseLLM",
    "ScriptedLLM",
    "TextDelta",
    "ToolCallRequest",
    "Usage",
    "discover_local",
    "from_spec",
]
