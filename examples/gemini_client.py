"""Google's own SDK, unmodified, talking to an agent of yours instead of the vendor's service.

In one terminal, an agent served over TLS with a certificate that was made on the spot (no key, no network):

    python examples/gemini_client.py serve

In another, the SDK (`pip install google-genai`), which is only told where to look:

    python examples/gemini_client.py "what's my next stop"
    python examples/gemini_client.py question.wav
"""

from __future__ import annotations

import asyncio
import os
import sys
import wave
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = os.environ.get("GOOGLE_GEMINI_BASE_URL", "https://localhost:8443")
TRUST = Path(__file__).with_name(".gemini-client-tls")


async def serve() -> None:
    """Serve the delivery agent as Gemini Live (and everything else) on port 8443."""
    sys.path.insert(0, str(Path(__file__).parent))
    from delivery import agent

    from duologue.serve import ServeOptions, serving

    port = urlsplit(ADDRESS).port or 443
    async with serving(agent, ServeOptions(port=port, tls=True, certificate_directory=str(TRUST))) as server:
        print(
            f"Gemini Live at {server.url}; clients trust it by SSL_CERT_FILE={server.ca_file}. Ctrl-C ends it.",
            flush=True,
        )
        await asyncio.Event().wait()


async def ask(question: str) -> None:
    """Ask by text or with a WAV file (PCM16 mono); print what both sides said, and keep the answer as answer.wav."""
    os.environ["SSL_CERT_FILE"] = str(TRUST / "ca.pem")
    from google import genai
    from google.genai import types

    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=ADDRESS))
    config = types.LiveConnectConfig(
        response_modalities=[types.Modality.AUDIO],
        input_audio_transcription=types.AudioTranscriptionConfig(),
        output_audio_transcription=types.AudioTranscriptionConfig(),
    )
    async with client.aio.live.connect(model="gemini-2.5-flash-native-audio-preview-12-2025", config=config) as session:
        async for _ in session.receive():
            pass  # the agent's greeting
        if question.endswith(".wav"):
            with wave.open(question) as recording:
                rate, pcm = recording.getframerate(), recording.readframes(recording.getnframes())
            for at in range(0, len(pcm), 3200):
                audio = types.Blob(data=pcm[at : at + 3200], mime_type=f"audio/pcm;rate={rate}")
                await session.send_realtime_input(audio=audio)
            await session.send_realtime_input(audio_stream_end=True)
        else:
            await session.send_realtime_input(text=question)
            print(f"You: {question}")
        answer = bytearray()
        async for message in session.receive():
            answer += message.data or b""
            content = message.server_content
            if content is not None and content.input_transcription is not None:
                print(f"You: {content.input_transcription.text}")
            if content is not None and content.output_transcription is not None:
                print(content.output_transcription.text, end="", flush=True)
    print()
    with wave.open("answer.wav", "wb") as out:
        out.setparams((1, 2, 24_000, 0, "NONE", ""))
        out.writeframes(bytes(answer))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    asyncio.run(serve() if sys.argv[1] == "serve" else ask(sys.argv[1]))
