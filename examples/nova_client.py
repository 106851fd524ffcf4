"""The AWS SDK, as its users write it, against an agent of yours served as Nova Sonic.

    python examples/nova_client.py "Where do I go next?"

Starts a server of the protocol with a local agent on this machine, and talks to it with the vendor's own client. Needs
``duologue[local,nova-sonic,host]``; no key and no network. Frameworks that have an option for the endpoint are pointed at
`server.url` in the same way, with ``SSL_CERT_FILE`` set to `server.ca_file`.
"""

import asyncio
import base64
import json
import os
import sys
from typing import Any

from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
from aws_sdk_bedrock_runtime.models import (
    BidirectionalInputPayloadPart,
    InvokeModelWithBidirectionalStreamInputChunk,
    InvokeModelWithBidirectionalStreamOperationInput,
)
from smithy_http.aio.crt import AWSCRTHTTPClient

from duologue import Agent, tool
from duologue.audio import write_wav
from duologue.serve.nova_sonic import NovaOptions, serving_nova


@tool(examples=["where do I go next", "what is my next stop"])
async def next_stop() -> str:
    """The driver's next delivery address."""
    return "12 Harbour Street, Oslo"


def content(name: str, **fields: Any) -> dict[str, Any]:
    """Opens a block."""
    return {"contentStart": {"promptName": "p", "contentName": name, **fields}}


def text(name: str, role: str, words: str, *, interactive: bool) -> list[dict[str, Any]]:
    """A whole block of text."""
    ids = {"promptName": "p", "contentName": name}
    plain = {"mediaType": "text/plain"}
    return [
        content(name, type="TEXT", role=role, interactive=interactive, textInputConfiguration=plain),
        {"textInput": {**ids, "content": words}},
        {"contentEnd": ids},
    ]


async def main(question: str) -> None:
    agent = Agent(tools=[next_stop], instructions="You help a delivery driver. Be brief.")
    options = NovaOptions(port=0, keys={"local": "secret"})
    async with serving_nova(agent, options) as server:
        os.environ["SSL_CERT_FILE"] = str(server.ca_file)
        config = await AsyncBedrockRuntimeConfig.resolve(
            endpoint_uri=server.url,
            region="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="secret",
            transport=AWSCRTHTTPClient(),  # the SDK's default carries no duplex streams
        )
        client = AsyncBedrockRuntimeClient(config=config)
        stream = await client.invoke_model_with_bidirectional_stream(
            InvokeModelWithBidirectionalStreamOperationInput(model_id="amazon.nova-2-sonic-v1:0")
        )

        async def send(*events: dict[str, Any]) -> None:
            for event in events:
                part = BidirectionalInputPayloadPart(bytes_=json.dumps({"event": event}).encode())
                await stream.input_stream.send(InvokeModelWithBidirectionalStreamInputChunk(value=part))

        lpcm = {"mediaType": "audio/lpcm", "sampleSizeBits": 16, "channelCount": 1, "encoding": "base64"}
        spoken = {**lpcm, "sampleRateHertz": 24000, "voiceId": "matthew", "audioType": "SPEECH"}
        heard = {**lpcm, "sampleRateHertz": 16000, "audioType": "SPEECH"}
        silence = base64.b64encode(bytes(6400)).decode()
        await send(
            {"sessionStart": {"inferenceConfiguration": {"maxTokens": 1024}}},
            {"promptStart": {"promptName": "p", "audioOutputConfiguration": spoken}},
            content("mic", type="AUDIO", role="USER", interactive=True, audioInputConfiguration=heard),
            {"audioInput": {"promptName": "p", "contentName": "mic", "content": silence}},
            *text("question", "USER", question, interactive=True),
        )
        answer = bytearray()
        _, output = await stream.await_output()
        while (chunk := await output.receive()) is not None:
            name, body = next(iter(json.loads(chunk.value.bytes_)["event"].items()))
            if name == "textOutput":
                print(f"{body['role'].lower()}: {body['content']}")
            elif name == "audioOutput":
                answer += base64.b64decode(body["content"])
            elif name == "contentEnd" and body.get("type") == "AUDIO" and body["stopReason"] == "END_TURN":
                break
        await send({"contentEnd": {"promptName": "p", "contentName": "mic"}}, {"promptEnd": {"promptName": "p"}})
        await send({"sessionEnd": {}})
        await stream.close()
    write_wav("answer.wav", bytes(answer), 24000)
    print(f"answer.wav: {len(answer) / 48000:.1f} s")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Where do I go next?"))
