"""Voice activity detection on recordings of people, on scripted sound, and on odd chunkings."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import AudioFormatError, ConfigurationError, MissingDependencyError
from duologue.speech import vad as vad_module
from duologue.speech.base import VAD
from duologue.speech.vad import EnergyVAD, SileroVAD
from tests.speech.recordings import BECKETT, beckett


def test_silero_hears_the_words_and_the_pauses_of_a_recording() -> None:
    decisions = SileroVAD().feed(beckett())
    assert [end for end, _ in decisions] == [512 * (n + 1) for n in range(len(beckett()) // 1024)]
    for _, start, end in BECKETT:
        inside = [p for at, p in decisions if start + 0.15 < at / 16_000 < end - 0.1]
        assert np.mean(inside) > 0.8
    pauses = [(a[2], b[1]) for a, b in pairwise(BECKETT)]
    for start, end in pauses:
        between = [p for at, p in decisions if start + 0.15 < at / 16_000 < end]
        assert not between or min(between) < 0.35


def test_silero_says_no_to_silence_noise_and_tones() -> None:
    noise = (np.random.default_rng(1).normal(0, 300, 32_000)).astype("<i2").tobytes()
    tone = (8_000 * np.sin(np.arange(32_000) * 2 * np.pi * 440 / 16_000)).astype("<i2").tobytes()
    for pcm in (bytes(64_000), noise, tone):
        assert np.mean([p for _, p in SileroVAD().feed(pcm)]) < 0.25


@pytest.mark.parametrize("detector", [SileroVAD, EnergyVAD])
def test_chunking_changes_nothing_and_streams_are_independent(detector: type[SileroVAD | EnergyVAD]) -> None:
    pcm = beckett()[:64_000]
    whole = detector().feed(pcm)
    vad, other = detector(), detector()
    pieces: list[tuple[int, float]] = []
    cut = 0
    for size in [2, 1022, 640, 640, 6_400, 10, 3_000] * 10:
        pieces += vad.feed(pcm[cut : cut + size])
        other.feed(bytes(size))
        cut += size
    assert pieces == whole[: len(pieces)]
    assert len(pieces) > 30


@pytest.mark.parametrize("detector", [SileroVAD, EnergyVAD])
def test_reset_forgets_and_moves_the_position(detector: type[SileroVAD | EnergyVAD]) -> None:
    vad: VAD = detector()
    first = vad.feed(beckett()[:20_480])
    vad.feed(b"\1\2\3\4")
    vad.reset(100_000)
    assert vad.feed(beckett()[:20_480]) == [(at + 100_000, p) for at, p in first]
    with pytest.raises(AudioFormatError):
        vad.feed(b"\1")


@given(st.integers(-90, 0))
def test_energy_is_monotonic_in_level(level: int) -> None:
    def probability(db: float) -> float:
        amplitude = 32_767 * 10 ** (db / 20)
        pcm = np.full(512, amplitude).astype("<i2").tobytes()
        return EnergyVAD().feed(pcm)[0][1]

    assert 0.0 <= probability(level - 3) <= probability(level) <= 1.0
    assert probability(-20) > 0.99
    assert probability(-70) < 0.01


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match="no Silero VAD model"):
        SileroVAD("/nowhere/model.onnx")
    vad_module._network.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        SileroVAD()
    with pytest.raises(ConfigurationError):
        EnergyVAD(slope_db=0)
