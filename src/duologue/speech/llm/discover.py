"""Finds a language model server that runs on this machine: Ollama, llama.cpp, vLLM or LM Studio on its usual port.

A port that answers is not enough: Duologue itself listens on 8080, as llama.cpp does. Each candidate must answer the
question that only its kind answers in its own way.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

logger = logging.getLogger("duologue.speech.llm")

MAX_ANSWER_BYTES = 1024 * 1024


class Candidate(NamedTuple):
    """A server that may run here: what kind, on which port, what to ask, and how its models read from the answer."""

    kind: str
    port: int
    path: str
    models: Callable[[Any], list[str]]


def _ollama(answer: Any) -> list[str]:
    """Ollama's `/api/tags`: `{"models": [{"name", "digest", ...}]}`."""
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        return []
    return [
        model["name"]
        for model in models
        if isinstance(model, dict) and isinstance(model.get("name"), str) and "digest" in model
    ]


def _openai(answer: Any) -> list[str]:
    """`/v1/models` of the others: `{"object": "list", "data": [{"id", "object": "model", ...}]}`."""
    if not isinstance(answer, dict) or answer.get("object") != "list" or not isinstance(answer.get("data"), list):
        return []
    return [
        model["id"]
        for model in answer["data"]
        if isinstance(model, dict) and model.get("object") == "model" and isinstance(model.get("id"), str)
    ]


CANDIDATES = (
    Candidate("ollama", 11434, "/api/tags", _ollama),
    Candidate("llamacpp", 8080, "/v1/models", _openai),
    Candidate("vllm", 8000, "/v1/models", _openai),
    Candidate("lmstudio", 1234, "/v1/models", _openai),
)
_NO_CHAT = ("embed", "rerank", "whisper", "tts")


class Found(NamedTuple):
    """A server that runs on this machine, and its first model that can chat."""

    kind: str
    port: int
    model: str


async def find_local(*, timeout_s: float = 0.15, candidates: Sequence[Candidate] = CANDIDATES) -> Found | None:
    """The first kind, in the order of `candidates`, that runs on this machine and has a model; None if none does.

    All are asked at the same time, and the whole takes at most `timeout_s` seconds. Never raises.
    """
    tasks = [asyncio.create_task(_ask(candidate)) for candidate in candidates]
    await asyncio.wait(tasks, timeout=timeout_s)
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for candidate, models in zip(candidates, answers, strict=True):
        if isinstance(models, list) and models:
            logger.debug("found %s on port %d with %d models", candidate.kind, candidate.port, len(models))
            return Found(candidate.kind, candidate.port, models[0])
    return None


async def _ask(candidate: Candidate) -> list[str]:
    try:
        content = await _get(candidate.port, candidate.path)
        models = candidate.models(msgspec.json.decode(content))
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        return []
    return [model for model in models if not any(word in model.lower() for word in _NO_CHAT)]


async def _get(port: int, path: str) -> bytes:
    """The JSON that a server on loopback answers, empty for any other answer.

    Asked as HTTP/1.0, whose answers come in one piece and end with the connection; an HTTP client would take longer to
    import than the whole search may.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n\r\n".encode())
        answer = bytearray()
        while len(answer) <= MAX_ANSWER_BYTES and (piece := await reader.read(65536)):
            answer += piece
    finally:
        writer.close()
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    status, _, headers = head.partition(b"\r\n")
    is_json = re.search(rb"^content-type:[^\r\n]*json", headers, re.I | re.M)
    return content if re.match(rb"HTTP/1\.[01] 200\b", status) and is_json else b""
