"""The bidirectional agent of strands-agents, unmodified, against our server. Run in a mount and network namespace of its own.

Strands has no option for the endpoint: the vendor's name leads to this machine by the namespace's hosts file, and our server
has a certificate for that name. Prints what happened as one JSON object. See `test_nova_strands.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from strands import tool
from strands.bidi import BidiAgent
from strands.bidi.models import BedrockNovaSonicModel
from strands.bidi.types import AudioDelta

from duologue import Agent
from duologue.serve.nova_sonic import NovaOptions, serving_nova
from tests.real_clients.nova_server import KEY, SECRET
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, speech

RATE = 16_000


@tool
def get_weather(city: str) -> str:
    """The weather.

    Args:
        city: Where.
    """
    return f"rain in {city}"


async def main(home: Path, name: str) -> None:
    served = Agent(model=Scripted(UTTERANCES, echo, rate=RATE), name="provider")
    options = NovaOptions(
        port=443, keys={KEY: SECRET}, as_model=True, certificate_directory=str(home / "tls"), names=(name,)
    )
    async with serving_nova(served, options) as server:
        os.environ["SSL_CERT_FILE"] = str(server.ca_file)
        model = BedrockNovaSonicModel(model_id="amazon.nova-2-sonic-v1:0", region="us-east-1")
        history: Any = [
            {"role": "user", "content": [{"text": "My name is Ada."}]},
            {"role": "assistant", "content": [{"text": "Hello Ada."}]},
        ]
        agent = BidiAgent(model=model, tools=[get_weather], messages=history)
        seen: dict[str, Any] = {"types": [], "transcripts": [], "audio": 0}
        await agent.start()
        try:
            microphone: list[bytes] = []

            async def speak() -> None:
                loop = asyncio.get_running_loop()
                due = loop.time()
                while True:
                    pcm = microphone.pop(0) if microphone else bytes(640)
                    await agent.send(AudioDelta(format="pcm", source={"bytes": pcm}))
                    due += 0.02
                    await asyncio.sleep(max(0.0, due - loop.time()))

            def say(utterance: int) -> None:
                pcm = speech(utterance, 0.8, RATE)
                microphone.extend(pcm[at : at + 640] for at in range(0, len(pcm), 640))

            async def listen() -> None:
                script = [2, 4, 3]  # a story, a barge-in into it, and a tool
                async for event in agent.receive():
                    kind = event.get("type") if isinstance(event, dict) else type(event).__name__
                    seen["types"].append(kind)
                    if kind == "bidi_audio_delta":
                        seen["audio"] += 1
                    if kind == "bidi_connection_start" or (kind == "bidi_response_stop" and script):
                        if kind == "bidi_response_stop" and script and script[0] == 2:
                            continue
                        if script:
                            say(script.pop(0))
                    if kind == "bidi_transcript_block":
                        text = event["transcript"].strip()
                        seen["transcripts"].append([event["role"], text])
                        if event["role"] == "assistant" and "rain in Oslo" in text:
                            return

            sending = asyncio.ensure_future(speak())
            async with asyncio.timeout(60):
                await listen()
            sending.cancel()
            (call,) = server.server.sessions._calls.values()
            seen["history"] = [item.text for item in call.session.history]
        finally:
            await asyncio.wait_for(agent.stop(), 10)
        print("RESULT " + json.dumps(seen))


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
