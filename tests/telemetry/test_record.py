"""Turn records: built, carried in an event, drawn, summed up."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from duologue.errors import UnknownOptionError
from duologue.events import TurnMeasured
from duologue.telemetry import BargeIn, TurnBuilder, TurnRecord, Waterfall, percentile, summary, waterfall
from duologue.telemetry.render import stages


def spoken_turn(*, keep_text: bool = False) -> TurnBuilder:
    turn = TurnBuilder("s1", "t1", keep_text=keep_text)
    turn.model = "cascade"
    turn.user_text = "what's next"
    turn.agent_text = "12 Harbour Street, Oslo"
    turn.heard_text = "12 Harbour"
    for stage, at in {
        "speech_start": 1.0,
        "speech_end": 2.0,
        "stt_final": 2.1,
        "endpoint": 2.3,
        "llm_first_token": 2.35,
        "tts_first_audio": 2.45,
        "first_sent": 2.46,
        "first_played": 2.6,
    }.items():
        turn.mark(stage, at)  # type: ignore[arg-type]
    return turn


def test_voice_to_voice_ends_with_what_was_played() -> None:
    record = spoken_turn().build()
    assert record.voice_to_voice_ms == pytest.approx(600)
    assert record.voice_to_voice_to == "played"


def test_without_an_acknowledgement_it_ends_with_what_was_sent_and_says_so() -> None:
    turn = TurnBuilder("s", "t")
    turn.mark("speech_end", 1.0)
    turn.mark("first_sent", 1.5)
    record = turn.build()
    assert (record.voice_to_voice_ms, record.voice_to_voice_to) == (500.0, "sent")
    assert TurnBuilder("s", "t").build().voice_to_voice_ms is None


def test_text_is_kept_only_if_allowed() -> None:
    quiet = spoken_turn().build()
    assert (quiet.user_chars, quiet.agent_chars, quiet.heard_chars) == (11, 23, 10)
    assert "Harbour" not in repr(quiet)
    assert spoken_turn(keep_text=True).build().heard_text == "12 Harbour"


def test_marks() -> None:
    turn = TurnBuilder("s", "t")
    turn.mark("endpoint", 1.0)
    turn.mark("endpoint", 2.0)
    assert turn.at("endpoint") == 1.0
    turn.mark("endpoint", 3.0, again=True)
    assert turn.build().times.endpoint == 3.0
    with pytest.raises(UnknownOptionError, match="endpoint"):
        turn.mark("endpont", 1.0)  # type: ignore[arg-type]


def test_tools_that_outlive_the_turn() -> None:
    turn = TurnBuilder("s", "t")
    turn.tool_started("c1", "next_stop", 1.0)
    turn.tool_started("c2", "slow", 1.5)
    turn.tool_finished("c1", "ok", 1.2)
    turn.tool_finished("of an earlier turn", "ok", 1.2)
    assert [(run.name, run.ended, run.status) for run in turn.build().tools] == [
        ("next_stop", 1.2, "ok"),
        ("slow", None, ""),
    ]


def test_a_record_travels_in_its_event() -> None:
    turn = spoken_turn()
    turn.barge_ins.append(BargeIn(response="r1", onset=3.0, decided=3.2, cleared=3.25, silent=3.24, reason="speech"))
    turn.tool_started("c", "next_stop", 2.3)
    turn.transition(2.3, "commit", "end of turn 0.93")
    turn.drop("input_late", 40)
    turn.drop("input_late", 2)
    turn.drop("nothing", 0)
    record = turn.build()
    event = TurnMeasured(turn="t1", record=record.to_mapping())
    decoded = msgspec.json.decode(msgspec.json.encode(event), type=TurnMeasured)
    assert TurnRecord.from_mapping(decoded.record) == record
    assert record.drops == {"input_late": 42}


def test_barge_in_spans() -> None:
    barge_in = BargeIn(response="r", onset=1.0, decided=1.2, cleared=1.25, silent=1.24)
    assert barge_in.onset_to_silence_ms == pytest.approx(240)
    assert barge_in.decision_to_cleared_ms == pytest.approx(50)
    assert msgspec.structs.replace(barge_in, false=True).onset_to_silence_ms is None
    assert BargeIn(response="r", onset=1.0).decision_to_cleared_ms is None


def test_stages_follow_each_other() -> None:
    found = {name: (start, end) for name, start, end in stages(spoken_turn().build())}
    assert found == {
        "endpoint": (2.0, 2.3),
        "stt": (2.0, 2.1),
        "llm": (2.3, 2.35),
        "tts": (2.35, 2.45),
        "send": (2.45, 2.46),
        "play": (2.46, 2.6),
    }


def test_the_waterfall_is_a_picture() -> None:
    lines = Text.from_markup(waterfall(spoken_turn().build(), width=60)).plain.splitlines()
    assert lines[0] == "t1 · voice to voice 600 ms"
    assert [line.split()[0] for line in lines[1:]] == ["endpoint", "stt", "llm", "tts", "send", "play"]
    bars = [line[12:72] for line in lines[1:]]
    assert bars[0] == ("█" * 30).ljust(60)
    assert bars[1] == ("█" * 10).ljust(60)
    assert bars[5].index("█") == 46
    assert len(bars[5].rstrip()) == 60
    assert [line.split()[-2] for line in lines[1:]] == ["300", "100", "50", "100", "10", "140"]


def test_speculation_is_marked_and_cut() -> None:
    turn = TurnBuilder("s", "t")
    for stage, at in {
        "speech_end": 2.0,
        "llm_start": 1.9,
        "llm_first_token": 2.1,
        "endpoint": 2.4,
        "first_sent": 2.4,
    }.items():
        turn.mark(stage, at)  # type: ignore[arg-type]
    lines = Text.from_markup(waterfall(turn.build(), width=40)).plain.splitlines()
    llm = next(line for line in lines if "llm" in line)
    assert "‹██████████ " in llm
    assert llm.endswith("200 ms")


def test_a_title_names_what_went_wrong() -> None:
    turn = TurnBuilder("s", "[b]t[/b]\\")
    turn.underruns = 2
    turn.drop("input_late", 3)
    turn.tool_started("c", "[red]", 1.0)
    turn.barge_ins.append(BargeIn(response="r", onset=1.0, silent=1.2))
    title = Text.from_markup(waterfall(turn.build())).plain
    assert title == "[b]t[/b]\\ · barge-in heard 200 ms · [red] runs on · 2 underruns · 3 input_late"


TIMES = st.none() | st.floats(-10, 1e5)


@given(
    st.fixed_dictionaries(dict.fromkeys(Waterfall.__struct_fields__, TIMES)),
    st.text(max_size=10),
    st.integers(1, 200),
)
def test_any_record_can_be_drawn(times: dict[str, float | None], name: str, width: int) -> None:
    turn = TurnBuilder("s", name)
    for stage, at in times.items():
        if at is not None:
            turn.mark(stage, at)  # type: ignore[arg-type]
    record = turn.build()
    drawn = waterfall(record, width=width)
    Text.from_markup(drawn)
    for line in drawn.split("\n")[-len(stages(record)) :] if stages(record) else []:
        assert len(Text.from_markup(line).plain) >= 12 + width
    assert summary([record]).turns == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_lie_within(values: list[float], q: float) -> None:
    assert min(values) <= percentile(values, q) + 1e-6
    assert percentile(values, q) <= max(values) + 1e-6
    assert percentile(values, 0) == min(values)
    assert percentile(values, 1) == max(values)


def test_percentiles_interpolate() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2.5
    assert percentile(range(101), 0.95) == 95
    for bad in ([], [1.0]):
        with pytest.raises(ValueError, match="q between"):
            percentile(bad, 2 if bad else 0.5)


def test_summary() -> None:
    turn = spoken_turn()
    turn.barge_ins = [
        BargeIn(response="r", onset=1.0, decided=1.1, cleared=1.15, silent=1.2),
        BargeIn(response="r", onset=1.0, false=True, silent=9.0),
    ]
    turn.interruptions = 1
    turn.drop("input_late", 2)
    turn.tool_started("a", "x", 1)
    turn.tool_finished("a", "timeout", 2)
    greeting = TurnBuilder("s", "greeting")
    greeting.drop("input_late", 1)
    result = summary([turn.build(), greeting.build()])
    assert result.turns == 2
    assert result.voice_to_voice is not None
    assert result.voice_to_voice.n == 1
    assert result.onset_to_silence is not None
    assert math.isclose(result.onset_to_silence.median, 200)
    assert (result.barge_ins, result.false_barge_ins, result.interruptions) == (1, 1, 1)
    assert (result.tools, result.failed_tools, result.drops) == (1, 1, {"input_late": 3})
    assert result.line() == (
        "2 turns · voice to voice median 600 ms (p95 600, n 1) · barge-in median 200 ms (p95 200, n 1)"
        " · dropped: 3 input_late"
    )
    assert summary([]).line() == "0 turns"
