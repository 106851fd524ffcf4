"""Prometheus metrics from turn records. Needs the extra ``telemetry``.

Durations are in seconds, as Prometheus wants them. The label ``model`` is the model's name, ``tenant`` the tenant.
"""

from __future__ import annotations

from duologue.errors import MissingDependencyError
from duologue.telemetry.record import TurnRecord
from duologue.telemetry.render import stages

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    raise MissingDependencyError(
        "Prometheus metrics need prometheus-client.", hint="Install duologue[telemetry]."
    ) from error

_LATENCY = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_REACTION = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 2.0)


class PrometheusExporter:
    """An :class:`~duologue.telemetry.Exporter` that keeps metrics to be scraped.

    Args:
        registry: where to register them; by default one of its own, so that two exporters never collide.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        who = ("tenant", "model")
        self._sessions = Gauge("duologue_sessions", "Sessions open now.", ("tenant",), registry=registry)
        self._turns = Counter("duologue_turns", "Turns ended.", who, registry=registry)
        self._voice = Histogram(
            "duologue_voice_to_voice_seconds",
            "From the end of the user's speech to the agent's first sample at the listener.",
            (*who, "to"),
            buckets=_LATENCY,
            registry=registry,
        )
        self._stages = Histogram(
            "duologue_stage_seconds",
            "What each stage of a turn took.",
            (*who, "stage"),
            buckets=_LATENCY,
            registry=registry,
        )
        self._barge_in = Histogram(
            "duologue_barge_in_seconds",
            "From the onset of the user's speech to silence, and from the decision until cleared.",
            (*who, "span"),
            buckets=_REACTION,
            registry=registry,
        )
        self._false = Counter("duologue_false_barge_ins", "Barge-ins that were given back.", who, registry=registry)
        self._interruptions = Counter("duologue_interruptions", "Responses cut short.", who, registry=registry)
        self._underruns = Counter("duologue_underruns", "Gaps in agent speech.", who, registry=registry)
        self._drops = Counter("duologue_drops", "What was thrown away.", (*who, "kind"), registry=registry)
        self._tools = Counter("duologue_tool_runs", "Tools run.", ("tenant", "tool", "status"), registry=registry)
        self._tool_time = Histogram(
            "duologue_tool_seconds", "What tools took.", ("tenant", "tool"), buckets=_LATENCY, registry=registry
        )
        self._tokens = Counter(
            "duologue_tokens", "Tokens counted by providers.", (*who, "direction"), registry=registry
        )
        self._open: dict[str, str] = {}

    def session_started(self, session: str, *, wall: float, agent: str, model: str, tenant: str) -> None:
        self._open[session] = tenant
        self._sessions.labels(tenant).inc()

    def session_ended(self, session: str, *, at: float, reason: str) -> None:
        if (tenant := self._open.pop(session, None)) is not None:
            self._sessions.labels(tenant).dec()

    def turn(self, record: TurnRecord) -> None:
        who = (record.tenant, record.model)
        self._turns.labels(*who).inc()
        if record.voice_to_voice_ms is not None:
            self._voice.labels(*who, record.voice_to_voice_to).observe(record.voice_to_voice_ms / 1e3)
        for name, start, end in stages(record):
            self._stages.labels(*who, name).observe(end - start)
        for barge_in in record.barge_ins:
            if barge_in.false:
                self._false.labels(*who).inc()
            if (ms := barge_in.onset_to_silence_ms) is not None:
                self._barge_in.labels(*who, "onset_to_silence").observe(ms / 1e3)
            if (ms := barge_in.decision_to_cleared_ms) is not None:
                self._barge_in.labels(*who, "decision_to_cleared").observe(ms / 1e3)
        self._interruptions.labels(*who).inc(record.interruptions)
        self._underruns.labels(*who).inc(record.underruns)
        for kind, count in record.drops.items():
            self._drops.labels(*who, kind).inc(count)
        for tool in record.tools:
            self._tools.labels(record.tenant, tool.name, tool.status or "running").inc()
            if tool.ended is not None:
                self._tool_time.labels(record.tenant, tool.name).observe(tool.ended - tool.started)
        self._tokens.labels(*who, "input").inc(record.input_tokens)
        self._tokens.labels(*who, "output").inc(record.output_tokens)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format 0.0.4, for ``/metrics``."""
        return generate_latest(self.registry)

    def close(self) -> None:
        """Nothing is held back."""
