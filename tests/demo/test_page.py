from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from duologue.audio import to_stereo
from duologue.demo.page import page, sound
from duologue.demo.score import SPAN_S, row, text_width
from duologue.demo.story import Story, tell

from .journals import LENGTH, RATE, RUNS, records

WAV_RATE = 16_000


@pytest.fixture
def story() -> Story:
    return tell(records(), RUNS, RATE, LENGTH)


def tone(seconds: float, from_s: float, to_s: float) -> bytes:
    time = np.arange(int(seconds * WAV_RATE)) / WAV_RATE
    wave = np.where((time >= from_s) & (time < to_s), 8000 * np.sin(2 * np.pi * 300 * time), 0)
    return wave.astype("<i2").tobytes()


class Outline(HTMLParser):
    """Checks that what is opened is closed, and keeps texts and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rows += ("class", "row") in attrs
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_is_whole_and_escapes_what_was_said(story: Story) -> None:
    pcm = to_stereo(tone(LENGTH, 2, 3), tone(LENGTH, 3.5, 5))
    text = page(story, pcm, WAV_RATE, title="A <call>")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.rows == 2
    assert "<why>?" in outline.texts
    assert "<matcher>" in outline.texts
    assert "A <call>" in outline.texts
    assert "$" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL).replace(sound(pcm, WAV_RATE), "")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "right at the bridge." in outline.texts  # struck, in one piece
    assert "barge-in: silent after 200 ms" in outline.texts
    assert "backchannel: it goes on" in outline.texts
    assert any(shown.startswith("slow(it)") for shown in outline.texts)
    assert "500 ms" in outline.texts


def test_a_row_shows_its_own_seconds_only(story: Story) -> None:
    left, right = tone(LENGTH, 2, 3), tone(LENGTH, 3.5, 5)
    first, second = (row(story, left, right, WAV_RATE, start) for start in (0.0, SPAN_S))
    assert "First" in first
    assert "First" not in second
    assert "Done." in second
    # the slow tool spans both
    assert 'class="tool"' in first
    assert 'class="tool"' in second


def test_the_sound_is_the_recording(story: Story) -> None:
    av = pytest.importorskip("av")
    data = base64.b64decode(sound(to_stereo(tone(2.0, 0, 1), tone(2.0, 1, 2)), WAV_RATE).partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    channels = np.concatenate(frames, axis=1)
    assert channels.shape[0] == 2
    half = channels.shape[1] // 2
    level = np.sqrt((channels**2).mean())
    assert np.sqrt((channels[0, : half - 2000] ** 2).mean()) > level
    assert np.sqrt((channels[1, half + 2000 :] ** 2).mean()) > level
    assert np.sqrt((channels[1, : half - 4000] ** 2).mean()) < level / 10


def test_text_is_wider_in_wide_letters() -> None:
    assert text_width("mmm", 10) > text_width("aaa", 10) > text_width("iii", 10) > 0
