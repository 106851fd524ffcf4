"""Our events in the words of both Strands generations. A writer keeps what it needs to pair starts with stops."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from duologue.events import (
    ConnectionRotated,
    ErrorEvent,
    Event,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionGoingAway,
    SessionStarted,
    ToolFinished,
    ToolStarted,
    TurnDiscarded,
    UsageReported,
    UserTranscript,
)

type Json = dict[str, Any]

#: reasons of `bidi_connection_close`
_CLOSE = {"error": "error", "client_left": "client_disconnect", "idle": "timeout", "limit": "timeout"}
_STOP = {"completed": "complete", "interrupted": "interrupted", "cancelled": "interrupted", "failed": "error"}


class Writer(Protocol):
    """Turns what a session sends into messages."""

    def event(self, event: Event) -> list[Json]:
        """Messages for an event; none for what this vocabulary cannot say."""

    def audio(self, response: str, encoded: str, rate: int) -> list[Json]:
        """Messages for audio in base64."""

    def barge_in(self) -> Json:
        """The client must drop the audio that it holds."""

    def error(self, code: str, message: str) -> Json:
        """Something that the client sent could not be taken."""


class _Grown:
    """Texts that grow: what is new in each."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def known(self, key: str) -> bool:
        return key in self._texts

    def extend(self, key: str, whole: str) -> str:
        """What `whole` adds to what was said of `key`; empty if it takes something back."""
        before = self._texts.get(key, "")
        if not whole.startswith(before):
            return ""
        self._texts[key] = whole
        return whole[len(before) :]

    def append(self, key: str, piece: str) -> str:
        """Add `piece`; returns the whole."""
        self._texts[key] = whole = self._texts.get(key, "") + piece
        return whole

    def pop(self, key: str) -> str:
        return self._texts.pop(key, "")


class _Common:
    """What both generations say alike."""

    def __init__(self) -> None:
        self._connection = ""
        self._user = _Grown()
        self._agent = _Grown()

    def error(self, code: str, message: str) -> Json:
        """See Writer."""
        return {"type": "bidi_error", "message": message, "code": code, "details": None}

    def _common(self, event: Event) -> list[Json] | None:
        match event:
            case SessionStarted():
                self._connection = event.session
                return [{"type": "bidi_connection_start", "connection_id": event.session, "model": event.model}]
            case ResponseStarted(response=response):
                return [{"type": "bidi_response_start", "response_id": response}]
            case ErrorEvent(code=code, message=message):
                return [self.error(code, message)]
            case _:
                return None


class ExperimentalWriter(_Common):
    """``strands.experimental.bidi``, to v1.40."""

    def event(self, event: Event) -> list[Json]:
        """See Writer."""
        common = self._common(event)
        if common is not None:
            return common
        match event:
            case UserTranscript(turn=turn, text=text, final=final):
                if final:
                    self._user.pop(turn)
                    return [_transcript("user", text, text, final=True)]
                new = self._user.extend(turn, text)
                return [_transcript("user", new, text, final=False)] if new else []
            case TurnDiscarded(turn=turn):
                self._user.pop(turn)
                return []
            case ResponseText(response=response, text=text):
                return [_transcript("assistant", text, self._agent.append(response, text), final=False)]
            case ResponseFinished(response=response):
                said = self._agent.pop(response)
                done: Json = {
                    "type": "bidi_response_complete",
                    "response_id": response,
                    "stop_reason": _STOP[event.status],
                }
                if not said and not event.heard:
                    return [done]
                return [_transcript("assistant", event.heard, event.heard, final=True), done]
            case ToolStarted(call=call, name=name):
                arguments = msgspec.json.encode(event.arguments).decode()
                return [
                    {
                        "type": "tool_use_stream",
                        "delta": {"toolUse": {"input": arguments}},
                        "current_tool_use": {"toolUseId": call, "name": name, "input": dict(event.arguments)},
                    }
                ]
            case ToolFinished():
                return [{"type": "tool_result", "tool_result": _result(event)}]
            case UsageReported(input_tokens=inward, output_tokens=outward):
                total = inward + outward
                return [{"type": "bidi_usage", "inputTokens": inward, "outputTokens": outward, "totalTokens": total}]
            case ConnectionRotated(reason=reason):
                return [{"type": "bidi_connection_restart", "timeout_error": reason}]
            case SessionEnded(reason=reason):
                why = _CLOSE.get(reason, "complete" if reason == "completed" else "user_request")
                return [{"type": "bidi_connection_close", "connection_id": self._connection, "reason": why}]
            case _:
                return []

    def audio(self, response: str, encoded: str, rate: int) -> list[Json]:
        """See Writer."""
        return [{"type": "bidi_audio_stream", "audio": encoded, "format": "pcm", "sample_rate": rate, "channels": 1}]

    def barge_in(self) -> Json:
        """See Writer."""
        return {"type": "bidi_interruption", "reason": "user_speech"}


class StableWriter(_Common):
    """``strands.bidi``, v1.62."""

    def __init__(self) -> None:
        super().__init__()
        self._sounding: set[str] = set()

    def event(self, event: Event) -> list[Json]:
        """See Writer."""
        common = self._common(event)
        if common is not None:
            return common
        match event:
            case UserTranscript(turn=turn, text=text, final=final):
                out = self._start("user", turn, self._user)
                if new := self._user.extend(turn, text):
                    out.append(_words("delta", "user", turn, delta=new))
                if final:
                    self._user.pop(turn)
                    out += self._stop("user", turn, text)
                return out
            case TurnDiscarded(turn=turn, text=text) if self._user.known(turn):
                self._user.pop(turn)
                return self._stop("user", turn, text)
            case ResponseText(response=response, text=text):
                out = self._start("assistant", response, self._agent)
                self._agent.append(response, text)
                return [*out, _words("delta", "assistant", response, delta=text)]
            case ResponseFinished(response=response):
                out = []
                if response in self._sounding:
                    self._sounding.discard(response)
                    out.append({"type": "bidi_audio_stop", "content_id": f"{response}.audio"})
                if self._agent.known(response):
                    self._agent.pop(response)
                    out += self._stop("assistant", response, event.heard)
                return [*out, {"type": "bidi_response_stop", "response_id": response}]
            case ToolStarted(call=call, name=name):
                use = {"toolUseId": call, "name": name, "input": dict(event.arguments)}
                return [{"type": "bidi_tool_use_blocks", "tool_uses": [use]}]
            case UsageReported(input_tokens=inward, output_tokens=outward):
                total = inward + outward
                return [{"type": "bidi_usage", "input_tokens": inward, "output_tokens": outward, "total_tokens": total}]
            case ConnectionRotated():
                return [
                    {
                        "type": "bidi_connection_restart",
                        "reason": "scheduled",
                        "timeout_error": None,
                        "turn_interrupted": False,
                    }
                ]
            case SessionGoingAway(in_s=seconds):
                return [{"type": "bidi_connection_warning", "time_left_s": seconds}]
            case SessionEnded():
                return [{"type": "bidi_connection_stop", "connection_id": self._connection, "reason": "user_request"}]
            case _:
                return []

    def audio(self, response: str, encoded: str, rate: int) -> list[Json]:
        """See Writer."""
        content = f"{response}.audio"
        out: list[Json] = []
        if response not in self._sounding:
            self._sounding.add(response)
            out.append({"type": "bidi_audio_start", "content_id": content})
        out.append(
            {
                "type": "bidi_audio_delta",
                "audio": encoded,
                "format": "pcm",
                "sample_rate": rate,
                "channels": 1,
                "content_id": content,
            }
        )
        return out

    def barge_in(self) -> Json:
        """See Writer."""
        return {"type": "bidi_barge_in"}

    def _start(self, role: str, key: str, texts: _Grown) -> list[Json]:
        if texts.known(key):
            return []
        texts.append(key, "")
        return [_words("start", role, key)]

    def _stop(self, role: str, key: str, whole: str) -> list[Json]:
        return [_words("stop", role, key), _words("block", role, key, transcript=whole)]


def is_barge_in(event: Event) -> bool:
    """Whether `event` takes the floor from the agent for good."""
    return isinstance(event, Interruption) and event.stage == "yield"


def _transcript(role: str, new: str, whole: str, *, final: bool) -> Json:
    return {
        "type": "bidi_transcript_stream",
        "delta": {"text": new},
        "text": new,
        "role": role,
        "is_final": final,
        "current_transcript": whole,
    }


def _words(step: str, role: str, key: str, **content: str) -> Json:
    return {"type": f"bidi_transcript_{step}", "role": role, "content_id": f"{key}.{role}", **content}


def _result(event: ToolFinished) -> Json:
    content = {"json": event.output} if event.status == "ok" else {"text": event.error or event.status}
    return {
        "toolUseId": event.call,
        "status": "success" if event.status == "ok" else "error",
        "content": [content],
    }
