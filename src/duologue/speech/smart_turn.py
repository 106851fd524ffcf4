"""End of turn from the sound: Smart Turn v3 (BSD-2, weights pulled by name or given by path).

The network reads the last eight seconds of the turn as Whisper's log-mel features and gives the probability that the
speaker is done. It hears what text cannot say: a pitch that stays up, a vowel drawn out.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duologue.audio import check_pcm16
from duologue.compute import Compute, Handle, Priority, shared
from duologue.errors import MissingDependencyError
from duologue.speech.base import STT_RATE, EndOfTurn
from duologue.speech.endpoint import TextEndOfTurn
from duologue.speech.weights import find

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SECONDS = 8
_FFT = 400
_HOP = 160
_MELS = 80


class SmartTurn:
    """The detector. With `text`, what was said counts too: the odds of both are averaged.

    Args:
        model: path of the ONNX file; None: the pulled weights ``smart-turn-v3``.
        text: detector of the words to combine with; None: the sound alone decides.
        compute: where it runs; default: the shared compute of the process.
        declared_cost: seconds that the virtual compute charges for a decision.

    Raises:
        MissingDependencyError: the weights are not there.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        text: EndOfTurn | None = None,
        compute: Compute | None = None,
        declared_cost: float = 0.04,
    ) -> None:
        path = Path(model) if model is not None else find("smart-turn-v3", "smart-turn-v3.2-cpu.onnx")
        if path is None or not path.is_file():
            raise MissingDependencyError(
                f"There are no weights of Smart Turn{f' at {path}' if path else ''}.",
                hint="Get them with `duologue models pull smart-turn-v3`, or give the path of the ONNX file.",
            )
        self._path = path
        self._text = text
        self._fallback = text or TextEndOfTurn()
        self._compute = compute
        self._cost = declared_cost
        self._handle: Handle[_Network] | None = None
        self._opening = asyncio.Lock()

    async def probability(
        self, text: str, *, silence: float, question: str | None = None, audio: bytes | None = None
    ) -> float:
        """See :meth:`duologue.speech.base.EndOfTurn.probability`. Without `audio` the text alone decides."""
        if not audio:
            return await self._fallback.probability(text, silence=silence, question=question)
        check_pcm16(audio)
        async with self._opening:
            if self._handle is None:
                path = self._path
                self._handle = await (self._compute or shared()).acquire(
                    ("endpoint:smart-turn", str(path)), lambda: _Network(path)
                )
        tail = audio[-2 * _SECONDS * STT_RATE :]
        heard = await self._handle.run(lambda network: network.judge(tail), priority=Priority.URGENT, cost=self._cost)
        if self._text is None:
            return heard
        said = await self._text.probability(text, silence=silence, question=question)
        odds = (_odds(heard) * _odds(said)) ** 0.5
        return float(odds / (1.0 + odds))

    async def close(self) -> None:
        """Release the shared model."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await handle.release()


class _Network:
    """The loaded network; lives in its owner."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "Smart Turn needs the package onnxruntime.", hint="Install it with: pip install 'duologue[local]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name

    def judge(self, pcm: bytes) -> float:
        import numpy as np

        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
        # The end of the turn is at the end of the window; what is missing is silence before it.
        window = np.zeros(_SECONDS * STT_RATE, dtype=np.float32)
        if len(samples):
            window[-len(samples) :] = samples
        features = log_mel(normalise(window))[np.newaxis]
        return float(self._session.run(None, {self._input: features})[0].reshape(-1)[0])


def normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance over the window, as Whisper's feature extractor does on request."""
    import numpy as np

    out: NDArray[np.float32] = ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
    return out


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whisper's log-mel spectrogram of audio at 16 kHz: float32 of shape (80, len // 160).

    By its definition (Radford et al. 2022, ``whisper/audio.py``): a centred short-time Fourier transform of 400
    samples every 160 with a periodic Hann window and reflected ends, its last frame dropped; the power through 80
    triangular mel filters of unit area on Slaney's scale from 0 to 8 kHz; log10 of at least 1e-10; the range cut to 8
    below the maximum; (x + 4) / 4.
    """
    import numpy as np

    padded = np.pad(samples.astype(np.float64), _FFT // 2, mode="reflect")
    count = len(samples) // _HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:count]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_FFT) / _FFT)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    levels = np.log10(np.maximum(mel_filters() @ power.T, 1e-10))
    levels = np.maximum(levels, levels.max() - 8.0)
    out: NDArray[np.float32] = ((levels + 4.0) / 4.0).astype(np.float32)
    return out


@cache
def mel_filters() -> NDArray[np.float64]:
    """Slaney's mel filters: (80, 201) for a transform of 400 samples at 16 kHz; each triangle has unit area in Hz.

    The scale (Auditory Toolbox, 1998) is linear below 1 kHz (3 mels for 200 Hz) and logarithmic above (27 mels for a
    factor of 6.4).
    """
    import numpy as np

    step = np.log(6.4) / 27.0

    def to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = mel * 200.0 / 3.0
        return np.where(mel < 15.0, linear, 1000.0 * np.exp(step * (mel - 15.0)))

    top = 15.0 + np.log(8000.0 / 1000.0) / step
    edges = to_hz(np.linspace(0.0, top, _MELS + 2))
    bins = np.linspace(0.0, STT_RATE / 2, _FFT // 2 + 1)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    out: NDArray[np.float64] = triangles * 2.0 / (upper - lower)
    return out


def _odds(probability: float) -> float:
    probability = min(max(probability, 1e-4), 1.0 - 1e-4)
    return probability / (1.0 - probability)
