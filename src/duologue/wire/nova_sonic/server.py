"""The server's side of a stream, without I/O: a client's events in, checked and timed, and the model's events out in order.

A turn as the service sends it: userSpeechStart, userSpeechEnd → USER TEXT FINAL → (TOOL block) → for each sentence ASSISTANT TEXT
SPECULATIVE, then an AUDIO block; END_TURN ends the last one → ASSISTANT TEXT FINAL. One completion spans the session.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from . import outputs as o
from .codec import decode_input, encode_event
from .faults import IDLE, TIMED_OUT, StreamException, invalid
from .sequence import Answered, Heard, InputSequence, Phase, PromptOpened, SequenceLimits, Taken, Typed

#: most audio in one event, seconds: small enough for a 16 KiB frame at 24 kHz in base64
_CHUNK_S = 0.1


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a stream lives, in seconds. The defaults are what is measured of the service.

    Attributes:
        connection_s: the stream ends after this long, whatever happens.
        audio_gap_s: longest gap between audio bytes, text or tool results.
        interactive_gap_s: longest time without speech or text.
    """

    connection_s: float = 480.0
    audio_gap_s: float = 55.0
    interactive_gap_s: float = 295.0


class ServerProtocol:
    """One stream as its server sees it.

    :meth:`receive` takes the client's events; the other methods say what the model does and return nothing: what is to be
    sent is fetched with :meth:`take`. `now` is the monotonic clock, seconds.
    """

    def __init__(
        self,
        model: str,
        *,
        now: float,
        limits: StreamLimits | None = None,
        history: SequenceLimits | None = None,
        strict: bool = False,
    ) -> None:
        self.limits = limits or StreamLimits()
        self.sequence = InputSequence(model, strict=strict, limits=history)
        self.session_id = str(uuid.uuid4())
        self.prompt_name = ""
        self.output_rate = 24000
        self._completion_id = ""
        self._out: list[bytes] = []
        self._end_at = now + self.limits.connection_s
        self._fed_at = now
        self._interactive_at = now
        self._audio_id = ""
        self._input_tokens = 0
        self._output_tokens = 0
        self._completed = False

    # ------------------------------------------------------------------ in

    def receive(self, payload: bytes | str, now: float) -> list[Taken]:
        """What a client's event amounts to. Raises StreamException; the stream is over then."""
        try:
            event = decode_input(payload)
        except Exception:
            raise invalid() from None
        taken = self.sequence.take(event)
        for entry in taken:
            if isinstance(entry, Heard):
                self._fed_at = now
            elif isinstance(entry, Typed | Answered):
                self._fed_at = self._interactive_at = now
            elif isinstance(entry, PromptOpened):
                self.prompt_name = entry.prompt.prompt_name
                if entry.prompt.audio_output_configuration is not None:
                    self.output_rate = entry.prompt.audio_output_configuration.sample_rate_hertz
        return taken

    def next_deadline(self) -> float:
        """When :meth:`wake` is due."""
        if self.sequence.phase is Phase.OVER:
            return self._end_at
        return min(
            self._end_at,
            self._fed_at + self.limits.audio_gap_s,
            self._interactive_at + self.limits.interactive_gap_s,
        )

    def wake(self, now: float) -> None:
        """The deadline has come. Raises the StreamException that it means."""
        if now >= self._end_at:
            raise StreamException("modelTimeoutException", TIMED_OUT)
        if self.sequence.phase is Phase.OVER:
            return
        for since, gap in (
            (self._fed_at, self.limits.audio_gap_s),
            (self._interactive_at, self.limits.interactive_gap_s),
        ):
            if now >= since + gap:
                raise invalid(IDLE.format(seconds=gap))

    # ------------------------------------------------------------------ out

    def take(self) -> list[bytes]:
        """JSON texts of the events that are to be sent, in order."""
        out, self._out = self._out, []
        return out

    def user_started(self, ms: float, now: float) -> None:
        """The user is heard to speak, `ms` into their audio."""
        self._interactive_at = now
        self._send(
            o.UserSpeechStart(session_id=self.session_id, prompt_name=self.prompt_name, input_audio_offset_ms=round(ms))
        )

    def user_stopped(self, ms: float, detected_ms: float) -> None:
        """The user has ceased to speak at `ms`, which was noticed at `detected_ms`."""
        self._send(
            o.UserSpeechEnd(
                session_id=self.session_id,
                prompt_name=self.prompt_name,
                input_audio_offset_ms=round(ms),
                input_audio_detection_offset_ms=round(detected_ms),
            )
        )

    def user_said(self, text: str) -> None:
        """What the user said in a turn that is answered now."""
        if text:
            self._text("USER", "FINAL", text, "PARTIAL_TURN")

    def plan(self, text: str) -> None:
        """What the audio that follows is going to say."""
        self.audio_end("PARTIAL_TURN")
        self._text("ASSISTANT", "SPECULATIVE", text, "PARTIAL_TURN")

    def audio(self, pcm: bytes) -> None:
        """The model speaks: PCM16 at the output rate."""
        ids = self._ids()
        if not self._audio_id:
            self._audio_id = str(uuid.uuid4())
            config = {
                "mediaType": "audio/lpcm",
                "sampleRateHertz": self.output_rate,
                "sampleSizeBits": 16,
                "encoding": "base64",
                "channelCount": 1,
            }
            self._send(
                o.ContentStart(
                    **ids, content_id=self._audio_id, type="AUDIO", role="ASSISTANT", audio_output_configuration=config
                )
            )
        size = int(self.output_rate * _CHUNK_S) * 2
        for at in range(0, len(pcm), size):
            self._send(o.AudioOutput(**ids, content_id=self._audio_id, role="ASSISTANT", content=pcm[at : at + size]))

    def audio_end(self, stop: o.StopReason) -> None:
        """Close the block of audio, if one is open. END_TURN: the model has said what it had to say."""
        if self._audio_id:
            content, self._audio_id = self._audio_id, ""
            self._send(o.ContentEnd(**self._ids(), content_id=content, type="AUDIO", stop_reason=stop))

    def spoken(self, text: str) -> None:
        """The record of what was really said; may come late."""
        if text:
            self._text("ASSISTANT", "FINAL", text, "END_TURN")

    def interrupted(self) -> None:
        """The user took the floor: the audio ends, and both marks of it follow."""
        self.audio_end("END_TURN")  # first: Strands would end its response twice otherwise
        self._text("ASSISTANT", "FINAL", o.INTERRUPTED, "INTERRUPTED")

    def tool_use(self, id: str, name: str, arguments: str) -> None:
        """The model wants a tool run; exactly one result is due. `arguments` is JSON text."""
        self.audio_end("PARTIAL_TURN")
        ids, content = self._ids(), str(uuid.uuid4())
        self.sequence.tool_asked(id)
        config = {"mediaType": "application/json"}
        self._send(
            o.ContentStart(**ids, content_id=content, type="TOOL", role="TOOL", tool_use_output_configuration=config)
        )
        self._send(o.ToolUse(**ids, content_id=content, role="TOOL", tool_name=name, tool_use_id=id, content=arguments))
        self._send(o.ContentEnd(**ids, content_id=content, type="TOOL", stop_reason="TOOL_USE"))

    def usage(self, input_tokens: int, output_tokens: int) -> None:
        """Tokens since the last time."""
        self._input_tokens += input_tokens
        self._output_tokens += output_tokens

        def split(in_: int, out: int) -> dict[str, Any]:
            return {
                "input": {"speechTokens": 0, "textTokens": in_},
                "output": {"speechTokens": 0, "textTokens": out},
            }

        self._send(
            o.UsageEvent(
                **self._ids(),
                total_input_tokens=self._input_tokens,
                total_output_tokens=self._output_tokens,
                total_tokens=self._input_tokens + self._output_tokens,
                details={
                    "delta": split(input_tokens, output_tokens),
                    "total": split(self._input_tokens, self._output_tokens),
                },
            )
        )

    def complete(self) -> None:
        """The session is over: what a client that has ended its session waits for. Once."""
        if not self._completed and self.prompt_name:
            self._completed = True
            self.audio_end("END_TURN")
            self._send(o.CompletionEnd(**self._ids(), stop_reason="END_TURN"))

    def _text(self, role: str, stage: o.Stage, text: str, stop: o.StopReason) -> None:
        ids, content = self._ids(), str(uuid.uuid4())
        fields = msgspec.json.encode({"generationStage": stage}).decode()
        config = {"mediaType": "text/plain"}
        self._send(
            o.ContentStart(
                **ids,
                content_id=content,
                type="TEXT",
                role=role,
                text_output_configuration=config,
                additional_model_fields=fields,
            )
        )
        self._send(o.TextOutput(**ids, content_id=content, role=role, content=text))
        self._send(o.ContentEnd(**ids, content_id=content, type="TEXT", stop_reason=stop))

    def _ids(self) -> dict[str, Any]:
        first = not self._completion_id
        if first:
            self._completion_id = str(uuid.uuid4())
        ids = {
            "session_id": self.session_id,
            "prompt_name": self.prompt_name,
            "completion_id": self._completion_id,
        }
        if first:
            self._send(o.CompletionStart(**ids))
        return ids

    def _send(self, event: o.Output) -> None:
        self._out.append(encode_event(event))
