"""The vendor's own client, talking to an agent served by Duologue: `openai` unmodified, one changed address.

    duologue serve examples/delivery.py &
    python examples/openai_client.py "what's my next stop"

Needs ``pip install 'duologue[openai]'``. The answer is printed as it is said, and kept in answer.wav.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import wave

import openai

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")


async def main(question: str) -> None:
    """Ask `question`, and take the answer."""
    client = openai.AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "unused"), base_url=BASE_URL)
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]}
        )
        await connection.response.create(response={"metadata": {"question": "mine"}})
        audio, mine = b"", ""
        async for event in connection:
            if event.type == "response.created" and (event.response.metadata or {}).get("question"):
                mine, audio = event.response.id or "", b""
            elif event.type == "response.output_audio_transcript.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.output_audio.delta":
                audio += base64.b64decode(event.delta)
            elif event.type == "response.done":
                print()
                # What the agent greets with is a response too, and not ours.
                if event.response.id == mine:
                    break
            elif event.type == "error":
                sys.exit(f"{event.error.code}: {event.error.message}")
    with wave.open("answer.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(audio)
    print(f"{len(audio) / 48_000:.1f} s in answer.wav")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "what's my next stop"))
