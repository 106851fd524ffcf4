"""Language models for the cascade: OpenAI-compatible endpoints, GGUF files in process, and a matcher for when there is
none.
"""

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
from duologue.speech.llm.phrase import PhraseLLM
from duologue.speech.llm.scripted import ScriptedLLM

__all__ = [
    "DEFAULT_OPTIONS",
    "LLM",
    "Finished",
    "GenerateOptions",
    "LLMEvent",
    "Message",
    "PhraseLLM",
    "ScriptedLLM",
    "TextDelta",
    "ToolCallRequest",
    "Usage",
]
