"""A turn's latency as a picture for the terminal: a bar a stage, on one time axis that begins where speech ends."""

from __future__ import annotations

from duologue.telemetry.record import TurnRecord

#: stage, style, where it begins (the first of these that is known) and where it ends
_STAGES = (
    ("endpoint", "cyan", ("speech_end",), "endpoint"),
    ("stt", "blue", ("speech_end",), "stt_final"),
    ("llm", "magenta", ("llm_start", "endpoint", "stt_final", "speech_end"), "llm_first_token"),
    ("tts", "yellow", ("llm_first_token", "llm_start", "endpoint"), "tts_first_audio"),
    ("send", "green", ("tts_first_audio", "llm_first_token", "endpoint"), "first_sent"),
    ("play", "bright_green", ("first_sent",), "first_played"),
)
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def stages(record: TurnRecord) -> list[tuple[str, float, float]]:
    """The stages of a turn as (name, start, end), seconds since the session began; those that are not known are left
    out.

    `endpoint` and `stt` run from the end of speech, `llm` to its first token, `tts` to its first audio, `send` until
    the first sample left, `play` until it was heard. They overlap where the work did.
    """
    found = []
    for name, _, starts, end in _STAGES:
        ended: float | None = getattr(record.times, end)
        began = next((at for start in starts if (at := getattr(record.times, start)) is not None), None)
        if ended is not None and began is not None:
            # work on speculation may begin, and even end, before what it is usually counted from
            found.append((name, min(began, ended), ended))
    return found


def waterfall(record: TurnRecord, *, width: int = 48) -> str:
    """The waterfall of a turn, in rich markup; `width` is that of the bars, in characters.

    The axis begins where the user's speech ends (or with the first stage, if nobody spoke); what was done before that,
    on speculation, is cut off there and marked ``‹``. Nothing that anybody said is in it.
    """
    found = stages(record)
    title = [f"[bold]{_plain(record.turn)}[/bold]"]
    if record.voice_to_voice_ms is not None:
        sent = " (to sent)" if record.voice_to_voice_to == "sent" else ""
        title.append(f"voice to voice [bold]{record.voice_to_voice_ms:.0f} ms[/bold]{sent}")
    title += [
        f"barge-in {_plain(barge_in.reason) or 'heard'}" + _took(barge_in.onset_to_silence_ms)
        for barge_in in record.barge_ins
        if not barge_in.false
    ]
    title += [f"{_plain(tool.name)} {_plain(tool.status) or 'runs on'}" for tool in record.tools]
    if record.underruns:
        title.append(f"[red]{record.underruns} underruns[/red]")
    title += [f"[red]{count} {_plain(kind)}[/red]" for kind, count in sorted(record.drops.items())]
    lines = [" · ".join(title)]
    if found:
        origin = record.times.speech_end
        if origin is None:
            origin = min(start for _, start, _ in found)
        scale = max(max(end for _, _, end in found) - origin, 1e-3) / width
        styles = {name: style for name, style, _, _ in _STAGES}
        for name, start, end in found:
            early = "‹" if start < origin - 1e-9 else " "
            bar = _bar((start - origin) / scale, (end - origin) / scale, width)
            lines.append(f"  {name:<9}{early}[{styles[name]}]{bar}[/] {(end - start) * 1e3:5.0f} ms")
    return "\n".join(lines)


def _bar(start: float, end: float, width: int) -> str:
    """A bar from `start` to `end` in cells, to an eighth of a cell at its end, padded to `width`."""
    first = min(int(max(start, 0.0) + 1 / 16), width - 1)
    eighths = max(round((min(end, width) - first) * 8), 1)
    full, part = divmod(eighths, 8)
    return (" " * first + "█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def _took(ms: float | None) -> str:
    return "" if ms is None else f" {ms:.0f} ms"


def _plain(text: str) -> str:
    """`text` with nothing in it that rich would take for markup."""
    return text.replace("\\", "\\\\").replace("[", "\\[")
