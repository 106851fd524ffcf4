"""The call as a page to look at, complete in one file: the sound, and a timeline written like a score.

Each row is some seconds of the call. From top to bottom: the caller's words and voice, the floor (whose turn it is), the
agent's voice and words as they were heard, and the tools.
"""

from __future__ import annotations

import base64
import io
from html import escape
from importlib import resources
from string import Template

from ..audio import split_stereo
from .score import LEFT, SCALE, SPAN_S, row, text_width
from .story import Story, Utterance
from .terminal import median, stages

#: width of a waterfall's drawing, and the time that it shows, ms
_BAR, _BAR_MS = 520, 1400.0


def page(story: Story, pcm: bytes, rate: int, *, title: str) -> str:
    """The page of a call. `pcm` is its stereo recording at `rate`, caller left, agent right."""
    caller, agent = split_stereo(pcm)
    rows = max(1, -int(-story.length // SPAN_S))
    template = Template(resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(story.notice or f"{story.model} answers."),
        tiles=_tiles(story),
        rows="\n".join(row(story, caller, agent, rate, number * SPAN_S) for number in range(rows)),
        turns="".join(_turn(turn) for turn in story.utterances if turn.kind == "turn"),
        audio=sound(pcm, rate),
        left=LEFT,
        scale=SCALE,
        span=SPAN_S,
        length=round(story.length, 3),
    )


def sound(pcm: bytes, rate: int, *, bit_rate: int = 64_000) -> str:
    """A stereo recording as a `data:` address, MP3, which every browser plays; `call.wav` where it cannot be made."""
    import av

    if "libmp3lame" not in av.codecs_available:
        return "call.wav"
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="stereo")
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=rate, frame_size=1152)
        frame = av.AudioFrame(format="s16", layout="stereo", samples=len(pcm) // 4)
        frame.sample_rate = rate
        frame.planes[0].update(pcm)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _tiles(story: Story) -> str:
    turns = sum(utterance.kind == "turn" for utterance in story.utterances)
    tiles = [(f"{int(story.length // 60)}:{story.length % 60:04.1f}", "length"), (str(turns), "turns")]
    if story.latencies:
        tiles.append((f"{median(story.latencies):.0f} ms", "voice to voice, median"))
    if story.cuts:
        tiles.append((f"{median(story.cuts):.0f} ms", "barge-in to silence"))
    tiles.append((str(len(story.tools)), "tool runs"))
    return "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)


def _turn(turn: Utterance) -> str:
    minutes, seconds = divmod(turn.start, 60)
    parts = []
    scale = _BAR / _BAR_MS
    done = 0.0
    points = turn.points_ms
    if turn.waited_for_tool:
        points = {name: at for name, at in points.items() if at <= points.get("committed", 0.0)}
    for name, start, end, _ in stages(points):
        done = end
        parts.append(
            f'<rect class="s-{name}" x="{start * scale:.1f}" y="3" width="{max(1.0, (end - start) * scale):.1f}" height="12">'
            f"<title>{name}: {end - start:.0f} ms</title></rect>"
        )
        if (end - start) * scale > text_width(f"{name} {end - start:.0f}", 10) + 8:
            parts.append(
                f'<text x="{start * scale + 5:.1f}" y="12.5" font-size="10" fill="#fff">{name} {end - start:.0f}</text>'
            )
    latency = turn.latency_ms
    if latency is not None and turn.waited_for_tool and latency > done:
        width = min(_BAR - done * scale, (latency - done) * scale)
        parts.append(f'<rect class="s-tool" x="{done * scale:.1f}" y="3.5" width="{width:.1f}" height="11"/>')
        parts.append(f'<text class="tool-text" x="{done * scale + 5:.1f}" y="12.5">a slow tool runs</text>')
    shown = f"{latency:.0f} ms" if latency is not None else "–"
    return (
        f'<tr><td class="n">{int(minutes)}:{seconds:04.1f}</td><td>{escape(turn.text)}</td>'
        f'<td><svg viewBox="0 0 {_BAR} 18" preserveAspectRatio="xMinYMid meet">{"".join(parts)}</svg></td>'
        f'<td class="n">{shown}</td></tr>'
    )
