"""Nova Sonic with every step in your own hands: typed vendor events both ways, no session, each frame shown.

    python examples/native_sonic.py "What is the capital of Norway?"

Credentials and region are found as AWS's tools find them. `NovaSonic(endpoint_url=...)` talks to any server of the protocol,
such as ``serving_nova`` of this library; then ``SSL_CERT_FILE`` names the certificate to trust.
"""

import asyncio
import os
import sys

from duologue.audio import write_wav
from duologue.models import NovaSonic
from duologue.wire.nova_sonic import inputs, meaning
from duologue.wire.nova_sonic.meaning import Meanings


def show(direction: str, frame: str | bytes) -> None:
    """The JSON of each event as it is on the wire, cut to a line."""
    text = frame if isinstance(frame, str) else frame.decode()
    print(f"{'->' if direction == 'sent' else '<-'} {text[:110]}")


async def main(question: str) -> None:
    model = NovaSonic(endpoint_url=os.environ.get("NOVA_URL"))
    meanings, heard, said = Meanings(), bytearray(), []
    async with model.connect(on_wire=show) as stream:
        protocol = stream.protocol
        # 1. The session, the prompt and the instructions. Nothing is answered before these have been sent.
        await stream.send(inputs.SessionStart(inference_configuration=inputs.InferenceConfiguration(max_tokens=512)))
        await stream.send(
            inputs.PromptStart(
                prompt_name="prompt",
                text_output_configuration=inputs.MediaType(),
                audio_output_configuration=inputs.VoiceFormat(voice_id="tiffany", sample_rate_hertz=24000),
            )
        )
        system = {"prompt_name": "prompt", "content_name": "system"}
        await stream.send(
            inputs.ContentStart(
                **system,
                type="TEXT",
                role="SYSTEM",
                interactive=False,
                text_input_configuration=inputs.MediaType(),
            )
        )
        await stream.send(inputs.TextInput(**system, content="You answer in one short sentence."))
        await stream.send(inputs.ContentEnd(**system))

        # 2. One container for the audio of the whole session. Text is answered only once some audio has been sent.
        await stream.send_payloads([protocol.open_audio(16000), protocol.audio(bytes(16000 // 5 * 2))])

        # 3. A question in writing; what a microphone gives goes into `protocol.audio(...)` in frames of 32 ms.
        await stream.send_payloads(protocol.text(question))

        # 4. The answer: each sentence's text (its plan), then its audio; END_TURN of the audio ends the turn.
        over = False
        async for event in stream:
            for entry in meanings.read(event):
                match entry:
                    case meaning.Planned(text=text):
                        said.append(text)
                    case meaning.Chunk(pcm=pcm):
                        heard += pcm
                    case meaning.TurnOver():
                        over = True
            if over:
                break

        # 5. Close what is open, in the order that the service wants.
        await stream.send_payloads(protocol.end())
    print(" ".join(said))
    write_wav("answer.wav", bytes(heard), 24000)
    print(f"answer.wav: {len(heard) / 48000:.1f} s")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the capital of Norway?"))
