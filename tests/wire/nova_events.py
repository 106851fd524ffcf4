"""Events of Nova Sonic for tests: what clients send, in each client's manner."""

from __future__ import annotations

import json
from typing import Any

from duologue.wire.nova_sonic import ServerProtocol

PROMPT = "p1"
START = {"sessionStart": {"inferenceConfiguration": {"maxTokens": 1024, "topP": 0.9, "temperature": 0.7}}}
AUDIO_OUT = {
    "mediaType": "audio/lpcm",
    "sampleRateHertz": 24000,
    "sampleSizeBits": 16,
    "channelCount": 1,
    "voiceId": "matthew",
    "encoding": "base64",
    "audioType": "SPEECH",
}
AUDIO_IN = {
    "mediaType": "audio/lpcm",
    "sampleRateHertz": 16000,
    "sampleSizeBits": 16,
    "channelCount": 1,
    "audioType": "SPEECH",
    "encoding": "base64",
}
PROMPT_START: dict[str, Any] = {
    "promptStart": {
        "promptName": PROMPT,
        "textOutputConfiguration": {"mediaType": "text/plain"},
        "audioOutputConfiguration": AUDIO_OUT,
    }
}


def text(name: str, role: str, content: str, *, interactive: bool = False) -> list[dict[str, Any]]:
    """A block of text."""
    start = {
        "promptName": PROMPT,
        "contentName": name,
        "type": "TEXT",
        "interactive": interactive,
        "role": role,
        "textInputConfiguration": {"mediaType": "text/plain"},
    }
    return [
        {"contentStart": start},
        {"textInput": {"promptName": PROMPT, "contentName": name, "content": content}},
        end(name),
    ]


def end(name: str) -> dict[str, Any]:
    return {"contentEnd": {"promptName": PROMPT, "contentName": name}}


def open_audio(name: str = "a1", rate: int = 16000) -> dict[str, Any]:
    config = {**AUDIO_IN, "sampleRateHertz": rate}
    start = {"promptName": PROMPT, "contentName": name, "type": "AUDIO", "interactive": True, "role": "USER"}
    return {"contentStart": {**start, "audioInputConfiguration": config}}


def audio(content: str = "AAAAAA==", name: str = "a1") -> dict[str, Any]:
    return {"audioInput": {"promptName": PROMPT, "contentName": name, "content": content}}


def tool_result(use: str, content: str, name: str = "t1") -> list[dict[str, Any]]:
    config = {"toolUseId": use, "type": "TEXT", "textInputConfiguration": {"mediaType": "text/plain"}}
    start = {"promptName": PROMPT, "contentName": name, "type": "TOOL", "interactive": False, "role": "TOOL"}
    return [
        {"contentStart": {**start, "toolResultInputConfiguration": config}},
        {"toolResult": {"promptName": PROMPT, "contentName": name, "content": content}},
        end(name),
    ]


def server(**options: Any) -> ServerProtocol:
    return ServerProtocol(options.pop("model", "amazon.nova-2-sonic-v1:0"), now=0.0, **options)


def opened(**options: Any) -> ServerProtocol:
    """A server whose client is ready to speak."""
    made = server(**options)
    give(made, START, PROMPT_START, *text("s1", "SYSTEM", "Be brief."), open_audio())
    return made


def give(to: ServerProtocol, *events: dict[str, Any], now: float = 0.0, indent: int | None = None) -> list[Any]:
    """Have a server take events; what they amount to."""
    taken: list[Any] = []
    for event in events:
        taken += to.receive(json.dumps({"event": event}, indent=indent), now)
    return taken


def sent(of: ServerProtocol) -> list[tuple[str, dict[str, Any]]]:
    """Names and bodies of what a server has to send."""
    return [next(iter(json.loads(payload)["event"].items())) for payload in of.take()]
