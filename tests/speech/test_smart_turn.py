"""Smart Turn: its features against their published definition, and the detector around a network of the same shape."""

from __future__ import annotations

import asyncio
import cmath
import math
from pathlib import Path

import numpy as np
import pytest

from duologue.compute import VirtualCompute
from duologue.errors import AudioFormatError, MissingDependencyError
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.smart_turn import SmartTurn, log_mel, mel_filters, normalise
from duologue.testing.clock import run_virtual
from tests.speech.tiny_onnx import mean_of_last_frames


def reference(samples: list[float], frame: int, mel: int) -> float:
    """Power in one mel band of one frame, term by term from the definition, without NumPy."""

    def at(index: int) -> float:
        index = abs(index)
        return samples[2 * (len(samples) - 1) - index if index >= len(samples) else index]

    def hz(value: float) -> float:
        return value * 200 / 3 if value < 15 else 1000 * math.exp((value - 15) * math.log(6.4) / 27)

    top = 15 + math.log(8) / (math.log(6.4) / 27)
    low, centre, high = (hz(top * (mel + k) / 81) for k in range(3))
    windowed = [at(frame * 160 - 200 + n) * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n in range(400)]
    total = 0.0
    for k in range(201):
        frequency = k * 40.0
        weight = min((frequency - low) / (centre - low), (high - frequency) / (high - centre))
        if weight > 0:
            line = sum(x * cmath.exp(-2j * math.pi * k * n / 400) for n, x in enumerate(windowed))
            total += weight * 2 / (high - low) * abs(line) ** 2
    return total


def test_log_mel_is_what_the_definition_says() -> None:
    rng = np.random.default_rng(3)
    samples = (rng.normal(0, 0.1, 1_600) + 0.3 * np.sin(np.arange(1_600) * 0.3)).astype(np.float32)
    got = log_mel(samples)
    assert got.shape == (80, 10)
    assert got.dtype == np.float32
    for frame, mel in [(0, 0), (0, 40), (3, 7), (5, 79), (9, 20), (9, 63)]:
        expected = (math.log10(max(reference([float(x) for x in samples], frame, mel), 1e-10)) + 4) / 4
        assert got[mel, frame] == pytest.approx(expected, abs=1e-4)


def test_the_range_is_cut_below_the_maximum() -> None:
    samples = np.zeros(16_000, dtype=np.float32)
    samples[8_000:8_400] = 0.5
    features = log_mel(samples)
    assert features.min() == pytest.approx(features.max() - 2.0, abs=1e-5)


def test_filters_have_unit_area_and_cover_the_band() -> None:
    filters = mel_filters()
    assert filters.shape == (80, 201)
    areas = filters.sum(axis=1) * 40.0
    assert areas[20:] == pytest.approx(np.ones(60), rel=0.1)
    assert (filters[:, 1:-1].sum(axis=0) > 0).all()


def test_normalisation() -> None:
    samples = np.random.default_rng(0).normal(0.2, 0.01, 8_000).astype(np.float32)
    assert normalise(samples).mean() == pytest.approx(0.0, abs=1e-3)
    assert normalise(samples).std() == pytest.approx(1.0, abs=1e-2)
    assert not normalise(np.zeros(100, dtype=np.float32)).any()


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network with the shape of Smart Turn's: the sigmoid of the mean of its last ten frames."""
    path = tmp_path / "turn.onnx"
    path.write_bytes(mean_of_last_frames(80, 800, 10))
    return path


def test_the_end_of_the_turn_is_at_the_end_of_the_window(network: Path) -> None:
    async def main() -> None:
        compute = VirtualCompute()
        turn = SmartTurn(network, compute=compute, declared_cost=0.04)
        noise = np.random.default_rng(0).normal(0, 3_000, 16_000).astype("<i2").tobytes()
        loud = await turn.probability("", silence=0.2, audio=noise)
        quiet = await turn.probability("", silence=0.2, audio=noise + bytes(32_000))
        same = await turn.probability("", silence=0.2, audio=bytes(640_000) + noise)
        assert 0.0 < quiet < loud < 1.0
        assert same == pytest.approx(loud)
        assert asyncio.get_running_loop().time() == pytest.approx(0.12)
        with pytest.raises(AudioFormatError):
            await turn.probability("", silence=0.2, audio=b"123")
        await turn.close()
        await compute.close()

    run_virtual(main())


def test_words_and_sound_are_combined(network: Path) -> None:
    async def main() -> None:
        compute = VirtualCompute()
        sound = SmartTurn(network, compute=compute)
        both = SmartTurn(network, text=TextEndOfTurn(), compute=compute)
        audio = np.random.default_rng(0).normal(0, 3_000, 16_000).astype("<i2").tobytes()
        heard = await sound.probability("Mark the", silence=0.2, audio=audio)
        said = TextEndOfTurn().judge("Mark the")
        combined = await both.probability("Mark the", silence=0.2, audio=audio)
        assert min(heard, said) < combined < max(heard, said)
        assert await sound.probability("Mark the", silence=0.2) == said  # nothing to hear
        assert len(compute.stats()) == 1
        await compute.close()

    run_virtual(main())


def test_missing_weights_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DUOLOGUE_CACHE", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="models pull smart-turn-v3"):
        SmartTurn()
    with pytest.raises(MissingDependencyError, match="nowhere"):
        SmartTurn("/nowhere/turn.onnx")
