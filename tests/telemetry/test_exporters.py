"""Exporters: spans and metrics from records, and the queue in front of them."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from duologue.errors import ConfigurationError
from duologue.telemetry import BargeIn, ExportQueue, TurnBuilder, TurnRecord
from duologue.telemetry.otel import OpenTelemetryExporter
from duologue.telemetry.prometheus import PrometheusExporter

WALL = 1_700_000_000.0


def record(*, keep_text: bool = False) -> TurnRecord:
    turn = TurnBuilder("s1", "t1", keep_text=keep_text)
    turn.tenant, turn.model, turn.user_text = "acme", "cascade", "what's next"
    turn.input_tokens, turn.output_tokens = 30, 7
    turn.mark("speech_start", 1.0)
    turn.mark("speech_end", 2.0)
    turn.mark("stt_final", 2.125)
    turn.mark("endpoint", 2.25)
    turn.mark("llm_first_token", 2.375)
    turn.mark("tts_first_audio", 2.4375)
    turn.mark("first_sent", 2.5)
    turn.mark("first_played", 2.625)
    turn.mark("finished", 5.0)
    turn.transition(2.25, "commit", "probability 0.9")
    turn.tool_started("c1", "next_stop", 2.3)
    turn.tool_finished("c1", "ok", 2.5)
    turn.tool_started("c2", "mark_complete", 2.5)
    turn.tool_finished("c2", "timeout", 4.0)
    turn.tool_started("c3", "goes_on", 4.5)
    turn.barge_ins = [
        BargeIn(response="r1", onset=4.0, decided=4.125, cleared=4.1875, silent=4.25, reason="speech"),
        BargeIn(response="r1", onset=3.0, false=True),
    ]
    turn.interruptions = 1
    turn.drop("input_late", 5)
    return turn.build()


class TestOpenTelemetry:
    def spans(self, *, keep_text: bool = False) -> dict[str, ReadableSpan]:
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        exporter = OpenTelemetryExporter(provider)
        exporter.session_started("s1", wall=WALL, agent="delivery", model="cascade", tenant="acme")
        exporter.turn(record(keep_text=keep_text))
        exporter.session_ended("s1", at=10.0, reason="completed")
        exporter.close()
        return {span.name: span for span in memory.get_finished_spans()}

    def test_a_trace_a_conversation(self) -> None:
        spans = self.spans()
        assert set(spans) == {
            "conversation",
            "turn",
            "stt",
            "llm",
            "tts",
            "execute_tool next_stop",
            "execute_tool mark_complete",
            "execute_tool goes_on",
        }
        conversation, turn = spans["conversation"], spans["turn"]
        assert conversation.parent is None
        assert turn.parent is not None
        assert conversation.context is not None
        assert turn.parent.span_id == conversation.context.span_id
        for name in set(spans) - {"conversation", "turn"}:
            parent = spans[name].parent
            assert parent is not None
            assert turn.context is not None
            assert parent.span_id == turn.context.span_id

    def test_times_are_those_of_the_record(self) -> None:
        spans = self.spans()

        def seconds(name: str) -> tuple[float, float]:
            span = spans[name]
            assert span.start_time is not None
            assert span.end_time is not None
            return (span.start_time - int(WALL) * 10**9) / 1e9, (span.end_time - int(WALL) * 10**9) / 1e9

        assert seconds("conversation") == (0, 10)
        assert seconds("turn") == (1, 5)
        assert seconds("stt") == (2, 2.125)
        assert seconds("llm") == (2.25, 2.375)
        assert seconds("tts") == (2.375, 2.4375)
        assert seconds("execute_tool goes_on") == (4.5, 5)

    def test_attributes(self) -> None:
        spans = self.spans()
        llm, turn, tool = spans["llm"].attributes, spans["turn"].attributes, spans["execute_tool mark_complete"]
        assert llm is not None
        assert turn is not None
        assert llm["gen_ai.usage.input_tokens"] == 30
        assert turn["duologue.voice_to_voice_ms"] == 625
        assert turn["duologue.drops.input_late"] == 5
        assert not tool.status.is_ok
        assert [event.name for event in spans["turn"].events] == ["commit", "barge_in", "barge_in"]

    def test_what_was_said_is_in_no_span_unless_the_record_has_it(self) -> None:
        assert not any("what's next" in span.to_json() for span in self.spans().values())
        assert "what's next" in self.spans(keep_text=True)["turn"].to_json()

    def test_an_unknown_session_makes_no_spans(self) -> None:
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        exporter = OpenTelemetryExporter(provider)
        exporter.turn(record())
        exporter.session_ended("s1", at=1, reason="completed")
        assert memory.get_finished_spans() == ()
        exporter.session_started("s2", wall=WALL, agent="a", model="m", tenant="t")
        exporter.turn(TurnBuilder("s2", "empty").build())
        exporter.close()
        assert [span.name for span in memory.get_finished_spans()] == ["conversation"]


class TestPrometheus:
    def test_metrics(self) -> None:
        exporter = PrometheusExporter()
        exporter.session_started("s1", wall=WALL, agent="a", model="cascade", tenant="acme")
        exporter.turn(record())
        exporter.turn(record())
        value = exporter.registry.get_sample_value
        who = {"tenant": "acme", "model": "cascade"}
        assert value("duologue_sessions", {"tenant": "acme"}) == 1
        assert value("duologue_turns_total", who) == 2
        assert value("duologue_voice_to_voice_seconds_sum", {**who, "to": "played"}) == pytest.approx(1.25)
        assert value("duologue_voice_to_voice_seconds_bucket", {**who, "to": "played", "le": "0.6"}) == 0
        assert value("duologue_voice_to_voice_seconds_bucket", {**who, "to": "played", "le": "0.7"}) == 2
        assert value("duologue_stage_seconds_sum", {**who, "stage": "llm"}) == pytest.approx(0.25)
        assert value("duologue_barge_in_seconds_sum", {**who, "span": "onset_to_silence"}) == pytest.approx(0.5)
        assert value("duologue_barge_in_seconds_count", {**who, "span": "decision_to_cleared"}) == 2
        assert value("duologue_false_barge_ins_total", who) == 2
        assert value("duologue_drops_total", {**who, "kind": "input_late"}) == 10
        assert value("duologue_tool_runs_total", {"tenant": "acme", "tool": "mark_complete", "status": "timeout"}) == 2
        assert value("duologue_tool_runs_total", {"tenant": "acme", "tool": "goes_on", "status": "running"}) == 2
        assert value("duologue_tool_seconds_count", {"tenant": "acme", "tool": "goes_on"}) is None
        assert value("duologue_tokens_total", {**who, "direction": "output"}) == 14
        exporter.session_ended("s1", at=9, reason="completed")
        exporter.session_ended("s1", at=9, reason="completed")
        assert value("duologue_sessions", {"tenant": "acme"}) == 0
        assert b"duologue_voice_to_voice_seconds_bucket" in exporter.render()
        exporter.close()

    def test_two_of_them_do_not_collide(self) -> None:
        PrometheusExporter()
        PrometheusExporter()


class Recorder:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.broken = False

    def session_started(self, session: str, *, wall: float, agent: str, model: str, tenant: str) -> None:
        self._note(f"start {session}")

    def turn(self, record: TurnRecord) -> None:
        self._note(f"turn {record.turn}")

    def session_ended(self, session: str, *, at: float, reason: str) -> None:
        self._note(f"end {session}")

    def close(self) -> None:
        self._note("close")

    def _note(self, call: str) -> None:
        self.entered.set()
        assert self.gate.wait(20)
        if self.broken:
            raise OSError("collector down")
        self.calls.append(call)


class TestQueue:
    def test_calls_arrive_in_order_and_a_broken_exporter_harms_nobody(self) -> None:
        broken, fine = Recorder(), Recorder()
        broken.broken = True
        queue = ExportQueue([broken, fine])
        queue.session_started("s1", wall=WALL, agent="a", model="m", tenant="t")
        queue.turn(record())
        queue.session_ended("s1", at=1, reason="completed")
        queue.close()
        queue.close()
        assert fine.calls == ["start s1", "turn t1", "end s1", "close"]
        assert queue.failed == 4

    def test_a_slow_exporter_costs_records_not_time(self) -> None:
        slow = Recorder()
        slow.gate.clear()
        queue = ExportQueue([slow], size=2)
        queue.turn(record())
        assert slow.entered.wait(20)
        for _ in range(5):
            queue.turn(record())
        assert queue.dropped == 3
        queue.close(patience=0.01)
        slow.gate.set()
        queue.close()
        assert slow.calls == ["turn t1"] * 3 + ["close"]

    def test_a_queue_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigurationError):
            ExportQueue([], size=0)
