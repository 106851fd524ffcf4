"""The one record of a turn: what the session fills in, what it tells, and what exporters get of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from duologue.agent import Agent
from duologue.channels.program import Program
from duologue.errors import ConfigurationError
from duologue.events import InterruptInput, ResponseStarted, TurnMeasured
from duologue.models.base import Context
from duologue.telemetry import ExportQueue, TurnRecord
from duologue.telemetry.otel import OpenTelemetryExporter
from duologue.telemetry.prometheus import PrometheusExporter
from duologue.testing.clock import run_virtual
from duologue.testing.scripted import Reply, ScriptedModel
from duologue.tools import tool
from tests.session.calls import BARGE_IN, LONG, STOP, UH_HUH, Call, hold, line, make, run


def records(call: Call) -> dict[str, TurnRecord]:
    return {event.turn: TurnRecord.from_mapping(event.record) for event in call.caller.of(TurnMeasured)}


@pytest.mark.virtual
async def test_a_turn_is_recorded_whole() -> None:
    call = await run(make([line(1.0, STOP, 1.2)], until_s=8, name="courier", session={"tenant": "acme"}))
    (record,) = records(call).values()
    assert (record.session, record.turn, record.tenant, record.agent) == (call.session.id, "t1", "acme", "courier")
    assert (record.model, record.generation) == ("scripted", 1)
    assert record.responses == ("r1",)
    times = record.times
    marks = [times.speech_start, times.speech_end, times.endpoint, times.first_sent, times.finished]
    assert None not in marks
    assert marks == sorted(marks)  # type: ignore[type-var]
    assert times.first_played is not None
    assert record.voice_to_voice_to == "played"
    assert (record.status, record.words, record.user_text) == ("completed", 5, "")
    assert record.heard_chars == record.agent_chars > 0
    assert record.reason.startswith("turn over")
    steps = [step.transition for step in record.reasons]
    assert steps[:3] == ["idle>user", "user>pause", "pause>thinking"]
    assert all(step.reason for step in record.reasons)
    (event,) = call.caller.of(TurnMeasured)
    assert event.record["points_ms"]["user_speech_end"] == 0.0
    assert event.record["points_ms"]["first_played"] == pytest.approx(record.voice_to_voice_ms, abs=0.1)


@pytest.mark.virtual
async def test_a_true_barge_in_is_in_its_turn_and_a_false_one_in_the_next_record() -> None:
    lines = [line(1.0, STOP, 1.2), line(4.0, UH_HUH, 0.4), line(6.0, BARGE_IN, 1.5)]
    call = await run(make(lines, lambda text, _: Reply(text=LONG), until_s=24))
    found = records(call)
    first, last = found["t1"], found["t3"]
    assert "t2" not in found, "a backchannel is no turn"
    assert [entry.false for entry in first.barge_ins] == [True]
    assert (first.interruptions, first.status) == (1, "interrupted")
    (barge_in,) = last.barge_ins
    assert (barge_in.false, barge_in.response) == (False, first.responses[-1])
    assert barge_in.onset_to_silence_ms is not None
    assert 0 < barge_in.onset_to_silence_ms <= 300
    assert barge_in.decision_to_cleared_ms is not None


@pytest.mark.virtual
async def test_tools_are_in_the_record_of_the_turn_that_asked_for_them() -> None:
    @tool
    async def lookup() -> str:
        """Look it up."""
        await asyncio.sleep(0.5)
        return "found"

    def answer(text: str | None, context: Context) -> Reply:
        if text is None:
            return Reply(text="It is found.")
        return Reply(tools=(("lookup", {}),))

    call = await run(make([line(1.0, STOP, 1.2)], answer, until_s=10, tools=(lookup,)))
    (record,) = records(call).values()
    (run_,) = record.tools
    assert (run_.name, run_.status) == ("lookup", "ok")
    assert run_.ended is not None
    assert run_.ended - run_.started == pytest.approx(0.5, abs=0.05)
    assert record.status == "completed"


@pytest.mark.virtual
async def test_a_turn_whose_answer_was_taken_back_unheard_keeps_its_record() -> None:
    """The speculative answer is cancelled after the commit and before a sample of it was heard."""

    def slow(text: str | None, context: Context) -> Reply:
        return Reply(text=LONG, delay_s=5.0)

    call = make([line(1.0, STOP, 1.2), line(6.0, STOP, 1.2)], slow, until_s=16)
    async with call.session as session:
        await hold(call, 3.5)
        session.user_input(InterruptInput(reason="button"))
        await session.wait()
    found = records(call)
    assert found["t1"].times.endpoint is not None
    assert found["t1"].reason
    assert set(found) == {"t1", "t2"}


@pytest.mark.virtual
async def test_what_a_channel_loses_is_in_the_next_record_once() -> None:
    class Leaky(Program):
        name = "leaky"
        lost = 0

        @property
        def losses(self) -> dict[str, int]:
            return {"output_samples": self.lost}

    leaky = Leaky(audio=False)
    call = make([line(1.0, STOP, 1.2), line(7.0, STOP, 1.2)], until_s=14, channels=[leaky])
    async with call.session as session:
        await hold(call, 0.5)
        leaky.lost = 480
        await session.wait()
    found = records(call)
    assert found["t1"].drops == {"output_samples:leaky": 480}
    assert found["t2"].drops == {}


@pytest.mark.virtual
async def test_audio_that_comes_late_is_counted() -> None:
    call = make([line(1.0, STOP, 1.2)], until_s=8)
    async with call.session as session:
        await hold(call, 0.5)
        port = session.participants.ports[call.caller]
        port.audio(bytes(640), 0)
        await session.wait()
    (record,) = records(call).values()
    assert record.drops == {"user_late_samples": 320}


def test_exporters_are_fed_by_the_sessions_of_an_agent() -> None:
    spans, prometheus = InMemorySpanExporter(), PrometheusExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    export = ExportQueue([OpenTelemetryExporter(provider), prometheus])

    async def calls() -> None:
        for _ in range(2):
            await run(make([line(1.0, STOP, 1.2)], until_s=8, telemetry=export))

    run_virtual(calls())
    export.close()
    assert (export.dropped, export.failed) == (0, 0)
    names = [span.name for span in spans.get_finished_spans()]
    assert names.count("conversation") == names.count("turn") == 2
    text = prometheus.render().decode()
    assert 'duologue_turns_total{model="scripted",tenant="local"} 2.0' in text
    assert 'duologue_sessions{tenant="local"} 0.0' in text
    assert "duologue_voice_to_voice_seconds_count" in text


@pytest.mark.parametrize("given", [PrometheusExporter(), [PrometheusExporter()], "prometheus"])
def test_an_exporter_that_could_block_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="ExportQueue"):
        Agent(model=ScriptedModel((), lambda text, context: Reply(text="")), telemetry=given)


@pytest.mark.virtual
async def test_an_agents_telemetry_reaches_its_sessions() -> None:
    export = ExportQueue([PrometheusExporter()])
    agent = Agent(model=ScriptedModel((), lambda text, context: Reply(text="")), telemetry=export)
    assert agent.session().definition.telemetry is export
    export.close()


@pytest.mark.virtual
async def test_the_first_answer_is_told_of_before_its_turn_is_measured() -> None:
    call = await run(make([line(1.0, STOP, 1.2)], until_s=8))
    kinds = [type(event) for event in call.caller.events]
    assert kinds.index(ResponseStarted) < kinds.index(TurnMeasured)
