"""OpenTelemetry spans from turn records, made after the fact. Needs the extra ``telemetry``.

A trace a session: ``conversation`` > ``turn`` > ``stt``, ``llm``, ``tts`` and a span a tool, with the times of the
record. Attribute names follow OpenTelemetry's semantic conventions for generative AI where they have one
(``gen_ai.*``); the rest is under ``duologue.*``. What was said is an attribute only if the record has it.
"""

from __future__ import annotations

from collections.abc import Mapping

from duologue.errors import MissingDependencyError
from duologue.telemetry.record import TurnRecord
from duologue.telemetry.render import stages

try:
    from opentelemetry import trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise MissingDependencyError(
        "OpenTelemetry spans need opentelemetry-sdk.", hint="Install duologue[telemetry]."
    ) from error

_OPERATIONS = {"stt": "transcribe", "llm": "chat", "tts": "synthesize"}
Attributes = Mapping[str, str | int | float | bool]


class OpenTelemetryExporter:
    """An :class:`~duologue.telemetry.Exporter` that makes spans.

    Args:
        provider: whose tracer to use; by default the process' global one, as the application has set it up. What ships
            the spans, and where to, is the provider's matter.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("duologue", tracer_provider=provider)
        self._open: dict[str, tuple[Span, float]] = {}

    def session_started(self, session: str, *, wall: float, agent: str, model: str, tenant: str) -> None:
        span = self._tracer.start_span(
            "conversation",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.SERVER,
            start_time=_ns(wall),
            attributes={
                "gen_ai.conversation.id": session,
                "gen_ai.agent.name": agent,
                "gen_ai.request.model": model,
                "duologue.tenant": tenant,
            },
        )
        self._open[session] = (span, wall)

    def session_ended(self, session: str, *, at: float, reason: str) -> None:
        if (known := self._open.pop(session, None)) is not None:
            span, wall = known
            span.set_attribute("duologue.end_reason", reason)
            if reason == "error":
                span.set_status(Status(StatusCode.ERROR))
            span.end(_ns(wall, at))

    def turn(self, record: TurnRecord) -> None:
        """Make the spans of a turn; one of a session that was not started here is nobody's child and left out."""
        if (known := self._open.get(record.session)) is None:
            return
        conversation, wall = known
        found = {name: (start, end) for name, start, end in stages(record)}
        marks = [
            at for at in (getattr(record.times, name) for name in record.times.__struct_fields__) if at is not None
        ]
        marks += [at for tool in record.tools for at in (tool.started, tool.ended) if at is not None]
        if not marks:
            return
        turn = self._span("turn", conversation, wall, min(marks), _turn_attributes(record))
        for reason in record.reasons:
            turn.add_event(reason.transition, {"duologue.reason": reason.reason}, timestamp=_ns(wall, reason.at))
        for barge_in in record.barge_ins:
            turn.add_event(
                "barge_in",
                {
                    "duologue.response": barge_in.response,
                    "duologue.false": barge_in.false,
                    "duologue.reason": barge_in.reason,
                },
                timestamp=_ns(wall, barge_in.onset),
            )
        for name, operation in _OPERATIONS.items():
            if name in found:
                start, end = found[name]
                attributes: dict[str, str | int | float | bool] = {"gen_ai.operation.name": operation}
                if name == "llm":
                    attributes |= {
                        "gen_ai.request.model": record.model,
                        "gen_ai.usage.input_tokens": record.input_tokens,
                        "gen_ai.usage.output_tokens": record.output_tokens,
                    }
                self._span(name, turn, wall, start, attributes).end(_ns(wall, end))
        last = max(marks)
        for tool in record.tools:
            span = self._span(
                f"execute_tool {tool.name}",
                turn,
                wall,
                tool.started,
                {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": tool.name,
                    "gen_ai.tool.call.id": tool.call,
                    "duologue.status": tool.status or "running",
                },
            )
            if tool.status not in ("", "ok"):
                span.set_status(Status(StatusCode.ERROR, tool.status))
            span.end(_ns(wall, last if tool.ended is None else tool.ended))
        turn.end(_ns(wall, last))

    def close(self) -> None:
        """End the conversations that are still open where they began to be unknown: now."""
        for session, (span, _) in list(self._open.items()):
            del self._open[session]
            span.set_attribute("duologue.end_reason", "unknown")
            span.end()

    def _span(self, name: str, parent: Span, wall: float, at: float, attributes: Attributes) -> Span:
        context = trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, start_time=_ns(wall, at), attributes=attributes)


def _turn_attributes(record: TurnRecord) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        "gen_ai.conversation.id": record.session,
        "duologue.turn": record.turn,
        "duologue.origin": record.origin,
        "duologue.model": record.model,
        "duologue.generation": record.generation,
        "duologue.user_chars": record.user_chars,
        "duologue.agent_chars": record.agent_chars,
        "duologue.heard_chars": record.heard_chars,
        "duologue.interruptions": record.interruptions,
        "duologue.underruns": record.underruns,
    }
    if record.voice_to_voice_ms is not None:
        attributes["duologue.voice_to_voice_ms"] = record.voice_to_voice_ms
    attributes |= {f"duologue.drops.{kind}": count for kind, count in record.drops.items()}
    texts = {"user": record.user_text, "agent": record.agent_text, "heard": record.heard_text}
    return attributes | {f"duologue.{who}_text": text for who, text in texts.items() if text}


def _ns(wall: float, at: float = 0.0) -> int:
    # apart, because a float of seconds since 1970 resolves a quarter of a microsecond only
    return round(wall * 1e9) + round(at * 1e9)
