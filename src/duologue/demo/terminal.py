"""The call in the terminal: who says what, as it is said and as it is heard; tools; a waterfall a turn.

On a terminal the line that is being spoken is redrawn: bright what was heard, faint what is still to come. Elsewhere (a file,
a pipe) each line is written once, when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..events import (
    AnyEvent,
    Interruption,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    ResponseText,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
    UserTranscript,
)
from .story import Story

_CALLER, _AGENT, _TOOL = "bold cyan", "bold yellow", "magenta"
#: stages of a waterfall: the point that ends it, its name, its colour
_STAGES = (
    ("stt_final", "hear", "blue"),
    ("committed", "wait", "cyan"),
    ("llm_first_token", "think", "magenta"),
    ("tts_first_audio", "voice", "yellow"),
    ("first_sample", "send", "green"),
)
#: cells of a waterfall, at most, and what one shows at least
_CELLS, _MS_A_CELL = 20, 25.0
_INDENT = " " * 16


def stages(points: Mapping[str, float]) -> list[tuple[str, float, float, str]]:
    """A turn's waterfall as (stage, start, end, colour), ms from the end of speech, one after the other.

    Work that was done on speculation before the turn was over has cost no time, and does not show.
    """
    found: list[tuple[str, float, float, str]] = []
    at = 0.0
    for point, name, colour in sorted(
        (stage for stage in _STAGES if stage[0] in points), key=lambda stage: points[stage[0]]
    ):
        end = points[point]
        if end > at:
            found.append((name, at, end, colour))
            at = end
    return found


class Terminal:
    """Shows a call. Use it as a context manager; `now` gives seconds since the call began."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._texts: dict[str, str] = {}
        self._heard: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._speaking = ""
        self._partial = ""
        self._running: dict[str, ToolStarted] = {}
        self._said_at = 0.0

    def __enter__(self) -> Terminal:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str, style: str = "") -> None:
        """A line of our own."""
        self._console.print(Text(text, style=style))

    def step(self, title: str) -> None:
        """What comes next in the script."""
        self._console.print(Text(f"\n─ {title}", style="dim"))

    def caller_speaks(self, at: float) -> None:
        """The caller begins to say something, `at` seconds into the call."""
        self._said_at = at

    def take(self, event: AnyEvent, at: float) -> None:
        """An event that came `at` seconds into the call."""
        match event:
            case UserTranscript():
                self._partial = "" if event.final else event.text
            case TurnCommitted():
                self._partial = ""
                self._line(self._said_at, "caller", _CALLER, Text(event.text))
            case TurnDiscarded():
                self._partial = ""
                if event.text:
                    said = Text(event.text, style="dim italic").append(f"   {event.reason}: the agent goes on", "dim")
                    self._line(self._said_at, "caller", _CALLER, said)
            case ResponseStarted():
                self._began[event.response] = at
            case ResponseText():
                self._texts[event.response] = self._texts.get(event.response, "") + event.text
                self._speaking = self._speaking or event.response
            case ResponseHeard():
                self._heard[event.response] = event.text
                self._speaking = event.response
            case Interruption() if event.stage == "yield":
                self._console.print(Text(f"{_INDENT}✂ barge-in: {event.reason}", style="bold red"))
            case ResponseFinished():
                self._finished(event)
            case ToolStarted():
                self._running[event.call] = event
                shown = ", ".join(f"{name}={value!r}" for name, value in event.arguments.items())
                self._console.print(Text(f"{_INDENT}⚙ {event.name}({shown})", style=_TOOL))
            case ToolFinished():
                self._running.pop(event.call, None)
                done = event.error if event.status != "ok" else f"done after {event.duration_s:.1f} s"
                if event.duration_s >= 0.5 or event.status != "ok":
                    self._console.print(Text(f"{_INDENT}⚙ {event.name} {done}", style=_TOOL))
            case TurnMeasured():
                self._waterfall(event.record)
            case _:
                return
        self._redraw()

    def _finished(self, event: ResponseFinished) -> None:
        began = self._began.pop(event.response, 0.0)
        self._texts.pop(event.response, None)
        self._heard.pop(event.response, None)
        if self._speaking == event.response:
            self._speaking = next(iter(self._texts), "")
        if event.text.strip():
            self._line(began, "agent", _AGENT, _told(event.heard, event.text, final=True))

    def _line(self, at: float, who: str, style: str, text: Text) -> None:
        minutes, seconds = divmod(max(at, 0.0), 60)
        head = Text(f"{int(minutes)}:{seconds:04.1f}".rjust(7), style="dim").append(f"  {who:<7}", style)
        body = text.copy()
        self._console.print(_hang(head, body, self._console.width))

    def _waterfall(self, record: Mapping[str, object]) -> None:
        points = record.get("points_ms")
        total = record.get("voice_to_voice_ms")
        if not isinstance(points, Mapping) or not isinstance(total, int | float):
            return
        line = Text(" " * 9).append(f"{total:4.0f} ms ", "bold")
        legend = Text(" ", style="dim")
        scale = max(_MS_A_CELL, total / _CELLS)
        for name, start, end, colour in stages(points):
            line.append("█" * max(1, round(end / scale) - round(start / scale)), colour)
            legend.append(f"{name} ", f"dim {colour}").append(f"{end - start:.0f} ", "dim")
        self._console.print(line.append_text(legend), overflow="crop", no_wrap=True)

    def _redraw(self) -> None:
        if self._live is None:
            return
        shown = Text()
        if self._partial:
            shown.append(f"{'':7}  caller  ", _CALLER).append(f"{self._partial} …\n", "italic")
        if self._speaking and (text := self._texts.get(self._speaking)):
            head = Text(f"{'':7}  ").append("agent   ", _AGENT)
            shown.append_text(_hang(head, _told(self._heard.get(self._speaking, ""), text), self._console.width))
            shown.append("\n")
        for run in self._running.values():
            shown.append(f"{_INDENT}⚙ {run.name} is running …\n", _TOOL)
        self._live.update(shown, refresh=True)


def _told(heard: str, text: str, *, final: bool = False) -> Text:
    """What the agent says: what was heard of it, and, told apart, what was not (yet)."""
    rest = text[len(heard) :] if text.startswith(heard) else ""
    shown = Text(heard.strip())
    if rest.strip():
        if final:
            shown.append(" ✂ not heard: " if heard.strip() else "✂ not heard: ", "red").append(
                rest.strip(), "dim strike"
            )
        else:
            shown.append(" " if heard else "").append(rest.strip(), "dim")
    return shown


def _hang(head: Text, body: Text, width: int) -> Text:
    """A text beside its head, its further lines indented."""
    indent = head.cell_len
    lines = body.wrap(Console(width=max(width - indent, 20)), max(width - indent, 20))
    out = head.copy()
    for index, line in enumerate(lines):
        if index:
            out.append("\n" + " " * indent)
        line.rstrip()
        out.append_text(line)
    return out


def last_line(story: Story) -> str:
    """The line that ends the demo, measured on the recording."""
    parts = []
    if latencies := sorted(story.latencies):
        parts.append(
            f"voice to voice: median {median(latencies):.0f} ms over {len(latencies)} turns "
            f"({latencies[0]:.0f} to {latencies[-1]:.0f})"
        )
    if cuts := sorted(story.cuts):
        parts.append(f"barge-in: silent {median(cuts):.0f} ms after the caller's first sound")
    return " · ".join(parts)


def median(values: list[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
