"""The bidirectional agent of strands-agents, unmodified, with a model on this machine instead of a vendor's.

    python examples/strands_client.py openai "What is my next stop?"
    python examples/strands_client.py gemini "What is my next stop?"
    python examples/strands_client.py nova "What is my next stop?"

Serves the local model over the protocol, speaks the question, and lets strands run its own tool; answer.wav has what is said.
Needs ``duologue[local,wires]`` and ``strands-agents`` with its extra bidi-openai, bidi-google or bidi; no key and no network.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from strands import tool
from strands.bidi import BidiAgent
from strands.bidi.types import AudioDelta

from duologue import Agent
from duologue.audio import Resampler, write_wav
from duologue.models import Cascade
from duologue.serve import ServeOptions, serving
from duologue.serve.nova_sonic import NovaOptions, serving_nova
from duologue.speech.piper import PiperTTS

STOP = "12 Harbour Street, Oslo"


@tool
def next_stop() -> str:
    """What is my next stop, where do I go next."""
    return STOP


@contextlib.asynccontextmanager
async def openai_model() -> AsyncIterator[Any]:
    """Strands has no option for OpenAI's address: it is one name in its module."""
    from strands.bidi.models import OpenAIRealtimeModel
    from strands.bidi.models.openai import realtime

    async with serving(Agent(model=Cascade.local()), ServeOptions(port=0, as_model=True)) as server:
        realtime.OPENAI_REALTIME_URL = f"ws://127.0.0.1:{server.port}/v1/realtime"
        yield OpenAIRealtimeModel(
            model_id="gpt-realtime", transcription_model_id="gpt-4o-mini-transcribe", api_key="any"
        )


@contextlib.asynccontextmanager
async def gemini_model() -> AsyncIterator[Any]:
    """Google's SDK, which strands uses, finds the address in the environment. It takes TLS only."""
    from strands.bidi.models import GoogleGeminiLiveModel

    async with serving(Agent(model=Cascade.local()), ServeOptions(port=0, as_model=True, tls=True)) as server:
        os.environ |= {"GOOGLE_GEMINI_BASE_URL": server.url, "SSL_CERT_FILE": str(server.ca_file)}
        yield GoogleGeminiLiveModel(model_id="gemini-2.5-flash-native-audio", client_args={"api_key": "any"})


@contextlib.asynccontextmanager
async def nova_model() -> AsyncIterator[Any]:
    """Strands has no option for Amazon's address: it is replaced where strands configures the SDK."""
    from strands.bidi.models import BedrockNovaSonicModel, bedrock

    async with serving_nova(Agent(model=Cascade.local()), NovaOptions(port=0, as_model=True)) as server:
        os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "SSL_CERT_FILE": str(server.ca_file)}
        config = bedrock.AsyncBedrockRuntimeConfig

        class Here(config):  # type: ignore[misc, valid-type]
            @classmethod
            async def resolve(cls, **options: Any) -> Any:
                return await config.resolve(**{**options, "endpoint_uri": server.url})

        bedrock.AsyncBedrockRuntimeConfig = Here
        yield BedrockNovaSonicModel(model_id="amazon.nova-2-sonic-v1:0", region="us-east-1")


async def spoken(text: str, rate: int) -> bytes:
    """PCM16 of the question at the model's rate."""
    tts = PiperTTS()
    resampler = Resampler(tts.rate, rate)
    pcm = b"".join([resampler.feed(chunk.pcm) async for chunk in tts.synthesize(text)]) + resampler.flush()
    await tts.close()
    return pcm


async def main(wire: str, question: str) -> None:
    """One question by voice, and its answer."""
    provider = {"openai": openai_model, "gemini": gemini_model, "nova": nova_model}[wire]
    async with provider() as model:
        rates = model.get_audio_config()
        rate, out = rates["input"]["sample_rate"], rates["output"]["sample_rate"]
        pcm = await spoken(question, rate)
        agent = BidiAgent(model=model, tools=[next_stop], system_prompt="You help a delivery driver. Be brief.")
        await agent.start()

        async def microphone() -> None:
            """20 ms each 20 ms: the question, then silence."""
            step, at = rate // 50 * 2, 0
            while True:
                frame = pcm[at : at + step].ljust(step, b"\0")
                await agent.send(AudioDelta(format="pcm", source={"bytes": frame}))
                at += step
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(microphone())
        answer = bytearray()
        try:
            async for event in agent.receive():
                match event.get("type"):
                    case "bidi_audio_delta":
                        answer += base64.b64decode(event["audio"])
                    case "bidi_transcript_block":
                        print(f"{event['role']}: {event['transcript'].strip()}")
                        if event["role"] == "assistant" and STOP in event["transcript"]:
                            break
        finally:
            sending.cancel()
            await agent.stop()
    write_wav("answer.wav", bytes(answer), out)
    print(f"answer.wav: {len(answer) / 2 / out:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("openai", "gemini", "nova"):
        raise SystemExit(__doc__)
    asyncio.run(main(sys.argv[1], " ".join(sys.argv[2:])))
