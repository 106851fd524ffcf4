"""One row of the timeline as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from typing import NamedTuple

from .story import Phase, Said, Story, Tool

#: seconds a row; where its time begins, in units of the drawing; units a second; its width
SPAN_S, LEFT, SCALE, WIDTH = 10.0, 72.0, 112.0, 1250.0
_COLUMN = 3.0
_HALF = 23.0
# what lies where, from the top
_RULER, _NOTES, _NOTE_STEP, _CALLER_WORDS, _CALLER, _FLOOR, _AGENT = 15.0, 31.0, 14.0, 61.0, 93.0, 122.0, 160.0
_AGENT_WORDS, _UNHEARD, _TOOLS, _TOOL_STEP, _HEIGHT = 202.0, 219.0, 230.0, 19.0, 234.0
#: a pause in mid-sentence of this length is marked, seconds
_LONG_PAUSE_S = 0.6
_NARROW, _WIDE = "iljtfr.,'!|:;I() ", "mwMW—…%"


class _Row(NamedTuple):
    start: float

    @property
    def end(self) -> float:
        return self.start + SPAN_S

    def x(self, at: float) -> float:
        return LEFT + (min(max(at, self.start), self.end) - self.start) * SCALE

    def has(self, at: float) -> bool:
        return self.start <= at < self.end

    def overlaps(self, start: float, end: float) -> bool:
        return start < self.end and end > self.start


def row(story: Story, caller: bytes, agent: bytes, rate: int, start: float) -> str:
    """The row that begins at `start` seconds. `caller` and `agent` are PCM16 mono at `rate`."""
    here = _Row(start)
    lanes = _tool_lanes([tool for tool in story.tools if here.overlaps(tool.start, _tool_end(tool))], here)
    height = _HEIGHT + _TOOL_STEP * (1 + max((lane for _, lane in lanes), default=-1)) if lanes else _HEIGHT
    parts = [
        *_ruler(here, height),
        *_barge_ins(story, here),
        f'<text class="who caller-word" x="12" y="{_CALLER + 4}">caller</text>',
        f'<text class="who agent-word" x="12" y="{_AGENT + 4}">agent</text>',
        _wave(caller, rate, here, _CALLER, "caller"),
        _wave(agent, rate, here, _AGENT, "agent"),
        *_floor(story.phases, here),
        *_caller(story, here),
        *_agent(story, here),
        *_latencies(story, here),
        *(_tool(tool, lane, here) for tool, lane in lanes),
    ]
    label = f"{start:.0f} to {min(start + SPAN_S, story.length):.0f} seconds"
    return (
        f'<svg class="row" viewBox="0 0 {WIDTH:g} {height:g}" data-start="{start:g}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def _ruler(here: _Row, height: float) -> Iterator[str]:
    for second in range(int(SPAN_S) + 1):
        x = LEFT + second * SCALE
        yield f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="22" y2="{height - 6:g}"/>'
        if second < SPAN_S:
            at = int(here.start) + second
            yield f'<text class="tick" x="{x:g}" y="{_RULER}" text-anchor="middle">{at // 60}:{at % 60:02d}</text>'


def _wave(pcm: bytes, rate: int, here: _Row, middle: float, name: str) -> str:
    """Levels as thin bars, drawn louder than they are so that quiet sounds show."""
    import numpy as np

    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    columns = int(SPAN_S * SCALE / _COLUMN)
    size = _COLUMN / SCALE * rate
    path = []
    for column in range(columns):
        first = int(here.start * rate + column * size)
        part = samples[first : int(first + size)]
        if not len(part):
            break
        level = float(np.sqrt(np.mean(part * part)))
        if level < 10 ** (-52 / 20):
            continue
        tall = min(_HALF, max(1.0, _HALF * (level / 0.22) ** 0.65))
        x = LEFT + (column + 0.5) * _COLUMN
        path.append(f"M{x:.1f} {middle - tall:.1f}V{middle + tall:.1f}")
    quiet = f'<line class="grid" x1="{LEFT:g}" x2="{LEFT + SPAN_S * SCALE:g}" y1="{middle}" y2="{middle}"/>'
    return quiet + f'<path class="wave {name}" d="{"".join(path)}"/>'


def _floor(phases: Iterable[Phase], here: _Row) -> Iterator[str]:
    for phase in phases:
        if here.overlaps(phase.start, phase.end):
            x, end = here.x(phase.start), here.x(phase.end)
            name = "speaks" if phase.state == "agent" else phase.state
            yield (
                f'<rect class="{name}" x="{x:.1f}" y="{_FLOOR}" width="{end - x:.1f}" height="9">'
                f"<title>{phase.state}: {escape(phase.reason)}</title></rect>"
            )


def _words(words: Iterable[Said], here: _Row, y: float, style: str) -> Iterator[str]:
    """Words at their times; where they are longer than their time, pushed on."""
    free = 0.0
    for word in words:
        if not here.has(word.start):
            continue
        x = max(here.x(word.start), free)
        free = x + text_width(word.text, 12) + 4.5
        yield (
            f'<text class="word {style}" x="{x:.1f}" y="{y}" data-t="{word.start:.3f}" data-e="{word.end:.3f}">'
            f"{escape(word.text)}</text>"
        )


def _caller(story: Story, here: _Row) -> Iterator[str]:
    for utterance in story.utterances:
        style = "caller-word" if utterance.kind == "turn" else "caller-word noise"
        yield from _words(utterance.words, here, _CALLER_WORDS, style)
        for (_, before), (after, _) in pairwise(utterance.spans):
            if after - before >= _LONG_PAUSE_S and here.overlaps(before, after):
                x, end = here.x(before) + 3, here.x(after) - 3
                yield f'<line class="wait" x1="{x:.1f}" x2="{end:.1f}" y1="{_CALLER}" y2="{_CALLER}"/>'
                if here.has((before + after) / 2):
                    yield _text(
                        "wait-text", (x + end) / 2, _CALLER - 6, f"{after - before:.1f} s pause: it waits", "middle"
                    )


def _agent(story: Story, here: _Row) -> Iterator[str]:
    heard = [word for answer in story.answers for word in answer.words if word.heard]
    yield from _words(heard, here, _AGENT_WORDS, "agent-word")
    for answer in story.answers:
        unheard = [word.text for word in answer.words if not word.heard]
        if unheard and here.has(answer.end):
            x = min(here.x(answer.end), WIDTH - 480)
            shown: list[str] = []
            room = WIDTH - 230 - x
            while unheard and text_width(" ".join([*shown, unheard[0]]), 12) < room:
                shown.append(unheard.pop(0))
            yield _text("word unheard", x, _UNHEARD, " ".join(shown))
            if unheard:
                after = x + text_width(" ".join(shown), 12) + 10
                yield _text("more", after, _UNHEARD, f"… and {len(unheard)} words more, never heard")


def _latencies(story: Story, here: _Row) -> Iterator[str]:
    for turn in story.utterances:
        if turn.answer_at is None or turn.latency_ms is None or not here.overlaps(turn.end, turn.answer_at):
            continue
        x, end = here.x(turn.end), here.x(turn.answer_at)
        yield f'<path class="late" fill="none" d="M{x:.1f} {_AGENT - 5}v10M{x:.1f} {_AGENT}H{end:.1f}"/>'
        if here.has((turn.end + turn.answer_at) / 2):
            shown = f"{turn.latency_ms:.0f} ms" if turn.latency_ms < 1000 else f"{turn.latency_ms / 1000:.1f} s"
            yield _text("late-text", (x + end) / 2, _AGENT - 9, shown, "middle")


def _barge_ins(story: Story, here: _Row) -> Iterator[str]:
    top, bottom = _CALLER_WORDS + 6, _AGENT + _HALF + 4
    free = [0.0, 0.0]
    for entry in story.barge_ins:
        until = entry.resumed if entry.false else entry.silent
        if not here.overlaps(entry.onset, until):
            continue
        x, end = here.x(entry.onset), here.x(until)
        if entry.false:
            yield f'<path class="false" fill="none" d="M{x:.1f} {top}V{bottom}M{end:.1f} {top}V{bottom}"/>'
            label, style = f"{entry.reason}: it goes on", "false-text"
        else:
            yield f'<rect class="cut-area" x="{x:.1f}" y="{top}" width="{end - x:.1f}" height="{bottom - top}"/>'
            yield f'<path class="cut" fill="none" d="M{x:.1f} {top}V{bottom}M{end:.1f} {top}V{bottom}"/>'
            label, style = f"barge-in: silent after {(entry.silent - entry.onset) * 1000:.0f} ms", "cut-text"
        if here.has(entry.onset):
            x = min(x, WIDTH - 12 - text_width(label, 12))
            line = 1 if free[1] <= x else 0
            free[line] = x + text_width(label, 12)
            yield _text(style, x, _NOTES + line * _NOTE_STEP, label)


def _tool_label(tool: Tool) -> str:
    shown = ", ".join(str(value) for value in tool.arguments.values())
    took = f" · {tool.end - tool.start:.1f} s" if tool.end - tool.start >= 0.5 else ""
    failed = f" · {tool.status}" if tool.status != "ok" else ""
    return f"{tool.name}({shown}){took}{failed}"


def _tool_end(tool: Tool) -> float:
    """Where the drawing of a tool ends: its label may be longer than its run."""
    return max(tool.end, tool.start + 0.08)


def _tool_lanes(tools: Iterable[Tool], here: _Row) -> list[tuple[Tool, int]]:
    """Each tool with the first lane that is free of others and of their labels."""
    free: list[float] = []
    placed: list[tuple[Tool, int]] = []
    for tool in sorted(tools, key=lambda tool: tool.start):
        x = here.x(tool.start)
        lane = next((index for index, until in enumerate(free) if until <= x), len(free))
        if lane == len(free):
            free.append(0.0)
        free[lane] = max(here.x(tool.end), x + text_width(_tool_label(tool), 11) + 18) + 6
        placed.append((tool, lane))
    return placed


def _tool(tool: Tool, lane: int, here: _Row) -> str:
    x, end = here.x(tool.start), here.x(_tool_end(tool))
    y = _TOOLS + lane * _TOOL_STEP
    width = max(end - x, 4.0)
    label = _tool_label(tool)
    at = x + 6 if width > text_width(label, 11) + 10 else x + width + 6
    shown = _text("tool-text", at, y + 11.5, label) if here.has(tool.start) else ""
    return (
        f'<g><title>{escape(tool.output)}</title><rect class="tool" x="{x:.1f}" y="{y}" width="{width:.1f}" height="15" rx="4"/>'
        f"{shown}</g>"
    )


def _text(style: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:g}"{where}>{escape(text)}</text>'


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a sans-serif face of this size."""
    units = sum(0.36 if c in _NARROW else 0.92 if c in _WIDE else 0.7 if c.isupper() else 0.63 for c in text)
    return units * size
