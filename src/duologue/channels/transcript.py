"""A conversation as text: who said what, what of it was heard, tools, latency. For terminals, pipes and files.

On a terminal the agent's words appear as they are heard, and what was cut off stays on the line, struck through. Anywhere
else each line is printed once, whole, and what was not heard stands in ``[not heard: …]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.text import Text

from ..events import (
    ConnectionLost,
    ConnectionRotated,
    ErrorEvent,
    Event,
    Interruption,
    ListenerAway,
    ListenerBack,
    ListenerJoined,
    ResponseFinished,
    ResponseHeard,
    ResponseStarted,
    ResponseText,
    SessionEnded,
    SessionGoingAway,
    SessionStarted,
    SessionWaiting,
    ToolApprovalNeeded,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnMeasured,
)

#: names of speakers take so many columns
_MARGIN = 7
#: longest tool arguments and results shown, characters
_LONG = 160
#: points of a turn's waterfall, as people call them
_POINTS = {
    "committed": "turn over",
    "stt_final": "words",
    "llm_first_token": "answer begins",
    "tts_first_audio": "sound",
    "first_sample": "spoken",
}
_BAR = 24
_BAR_MS = 1200.0


class Transcript:
    """Writes a call's events to `out` as they happen.

    Args:
        out: where to.
        live: words as they are heard, on a terminal; None: if `out` is one.
        spoken: the agent is heard, not read: its words count when they are heard.
        latency: a line of latency after each turn.
        typed: what the caller typed stands on the terminal already.
    """

    def __init__(
        self, out: TextIO, *, live: bool | None = None, spoken: bool = True, latency: bool = True, typed: bool = False
    ) -> None:
        self.console = Console(file=out, highlight=False, soft_wrap=True)
        self._live = self.console.is_terminal if live is None else live
        self._spoken = spoken
        self._latency = latency
        self._typed = typed
        self._line = ""  # response whose words stand on the open line; "" if no line is open
        self._shown: dict[str, str] = {}  # what of each unfinished response was shown
        self._planned: dict[str, str] = {}  # what it is going to say

    def take(self, event: Event) -> None:
        """Show an event, if it is one to be shown."""
        match event:
            case SessionStarted():
                self.opening(event.agent, event.model, event.notice)
            case TurnCommitted():
                if not (self._typed and event.reason == "typed"):
                    self._speaker("you", event.text, "cyan")
            case TurnDiscarded() if event.text:
                self.note(f"“{event.text}”: {event.reason}")
            case ResponseStarted():
                self._planned[event.response] = self._shown[event.response] = ""
            case ResponseText():
                self._planned[event.response] = self._planned.get(event.response, "") + event.text
                if not self._spoken:
                    self._say(event.response, self._planned[event.response])
            case ResponseHeard():
                self._say(event.response, event.text)
            case ResponseFinished():
                self._finish(event)
            case ToolStarted():
                self._tool(f"{event.name}({_arguments(event.arguments)})")
            case ToolProgress():
                self._tool(f"{event.name}: {event.message}", "dim")
            case ToolFinished():
                self._tool(_result(event), "" if event.status == "ok" else "red")
            case ToolApprovalNeeded():
                what = f"{event.name}({_arguments(event.arguments)})"
                self._note(f"{what} wants your approval: yes or no, within {event.timeout_s:.0f} s", "bold yellow")
            case Interruption(stage="resume"):
                self.note(f"it goes on: {event.reason}")
            case TurnMeasured() if self._latency:
                self._measured(event.record)
            case ErrorEvent():
                self._note(f"{'fatal: ' if event.fatal else ''}{event.message}", "red")
            case ConnectionLost():
                self._note(f"the link to {event.model} was lost: {event.reason}", "yellow")
            case ConnectionRotated():
                self.note(f"the link to {event.model} was renewed: {event.reason}")
            case ListenerAway():
                self._note(f"{event.participant} is away; it has {event.grace_s:.0f} s to come back", "yellow")
            case ListenerBack():
                lost = (
                    f", {event.gap_events} events and {event.gap_ms} ms lost"
                    if event.gap_events or event.gap_ms
                    else ""
                )
                self.note(f"{event.participant} is back{lost}")
            case ListenerJoined():
                self.note(f"{event.participant} has joined")
            case SessionWaiting():
                self._note("everybody has left; a long task goes on, or waits to be told of", "yellow")
            case SessionGoingAway():
                self._note(f"the call will end in {event.in_s:.0f} s: {event.reason}", "yellow")
            case SessionEnded():
                detail = f": {event.detail}" if event.detail and event.reason == "error" else ""
                length = f" after {event.at:.1f} s" if event.at else ""
                self.note(f"the call has ended{length} ({event.reason}){detail}")
            case _:
                pass

    def opening(self, agent: str, model: str, notice: str) -> None:
        """The first lines: what answers, honestly, then who."""
        if notice:
            self._note(notice, "yellow")
        self.note(f"{agent} on {model}")

    def note(self, text: str) -> None:
        """A remark about the call."""
        self._note(text, "dim")

    # ------------------------------------------------------------------ the agent's words

    def _say(self, response: str, text: str) -> None:
        """More of a response was heard: `text` is all of it."""
        shown = self._shown.get(response, "")
        if not self._live or len(text) <= len(shown):
            return
        self._shown[response] = text
        if self._line != response:
            self._close()
            self._put(Text("agent".rjust(_MARGIN) + "  ", "bold green"), end="")
            self._line = response
            text = text.lstrip() if not shown else f"… {text[len(shown) :].lstrip()}"
        else:
            text = text[len(shown) :]
        self._put(Text(_clean(text)), end="")

    def _finish(self, event: ResponseFinished) -> None:
        planned = event.text or self._planned.get(event.response, "")
        heard = event.heard if self._spoken else planned
        if self._live:
            self._say(event.response, heard)
        shown = self._shown.pop(event.response, "")
        self._planned.pop(event.response, None)
        unheard = planned[len(heard) :].strip() if planned.startswith(heard.rstrip()) else ""
        if event.status == "cancelled" and not heard:
            return
        if self._live and shown:
            if unheard and event.status != "completed":
                if self._line != event.response:
                    self._close()
                    self._put(Text("agent".rjust(_MARGIN) + "  … ", "bold green"), end="")
                self._put(Text(f" {_clean(unheard)}", "dim strike"), end="")
                self._line = event.response
            if self._line == event.response:
                self._close()
        elif heard or (unheard and event.status != "completed"):
            cut = f" [not heard: {unheard}]" if unheard and event.status != "completed" else ""
            self._speaker("agent", f"{heard.strip()}{cut}", "bold green")
        if event.status == "failed":
            self._note(f"the answer failed: {event.reason or 'see above'}", "red")

    # ------------------------------------------------------------------ lines

    def _speaker(self, who: str, text: str, style: str) -> None:
        self._close()
        self._put(Text.assemble((who.rjust(_MARGIN) + "  ", style), _clean(text)))

    def _tool(self, text: str, style: str = "") -> None:
        self._close()
        self._put(Text.assemble(("tool".rjust(_MARGIN) + "  ", "magenta"), (_clean(text), style)))

    def _note(self, text: str, style: str) -> None:
        self._close()
        self._put(Text(" " * (_MARGIN - 1) + "· " + _clean(text), style))

    def _measured(self, record: Mapping[str, Any]) -> None:
        total = record.get("voice_to_voice_ms")
        points: Mapping[str, float] = record.get("points_ms") or {}
        parts = [f"{_POINTS[name]} {at:.0f}" for name, at in points.items() if name in _POINTS]
        if (barge_in := record.get("barge_in_onset_ms")) is not None:
            parts.append(f"barge-in {barge_in:.0f}")
        parts += [f"dropped {count} {kind}" for kind, count in sorted((record.get("drops") or {}).items())]
        if total is not None:
            filled = round(min(max(total / _BAR_MS, 0.0), 1.0) * _BAR)
            bar = f"{'━' * filled}{'·' * (_BAR - filled)} {total:.0f} ms voice to voice"
            self.note(f"{bar}  ({' · '.join(parts)})" if parts else bar)

    def _close(self) -> None:
        """End the open line."""
        if self._line:
            self._line = ""
            self.console.print()

    def _put(self, text: Text, end: str = "\n") -> None:
        self.console.print(text, end=end)
        if end != "\n":
            self.console.file.flush()


def _clean(text: str) -> str:
    """`text` without what would steer a terminal, on one line."""
    return "".join(character if character.isprintable() else " " for character in text)


def _arguments(arguments: Mapping[str, Any]) -> str:
    return _short(", ".join(f"{name}={_json(value)}" for name, value in arguments.items()))


def _result(event: ToolFinished) -> str:
    took = f" ({event.duration_s:.1f} s)" if event.duration_s >= 0.05 else ""
    if event.status == "ok":
        return f"{event.name} → {_short(_json(event.output))}{took}"
    return f"{event.name}: {event.status}{f', {_short(event.error)}' if event.error else ''}{took}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
