"""The server's side of a Strands client's link, without I/O."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec

from duologue.errors import AudioFormatError, DuologueError, ProtocolError
from duologue.events import AudioInput, Event, ImageInput, Interruption, ResponseAudio, TextInput
from duologue.wire.duologue.link import Refused
from duologue.wire.duologue.options import ServerOptions, TokenBucket
from duologue.wire.strands.inputs import Audio, is_experimental, parse
from duologue.wire.strands.outputs import ExperimentalWriter, Json, StableWriter, Writer, is_barge_in

type Generation = Literal["experimental", "stable"]
type FromStrands = AudioInput | TextInput | ImageInput | Refused

_encoder = msgspec.json.Encoder()


class StrandsServer:
    """Translates one client's messages to inputs, and a session's events to messages.

    What must be answered (an error) waits in :meth:`next_frame`, before anything else that the driver sends. Inputs
    carry `rate` and, for audio, a capture position counted here.

    Args:
        now: when the link opened.
        input_rate: Hz of audio whose messages name no rate (the newer generation).
        output_rate: Hz of the audio that :meth:`audio` is given.

    Attributes:
        generation: the client's vocabulary, known from its first message on (`experimental` before).
        input_rate: Hz of the user's track; fixed by the first audio message.
        close_code: set once the link must end.
    """

    def __init__(
        self, *, now: float, input_rate: int = 16_000, output_rate: int = 16_000, options: ServerOptions | None = None
    ) -> None:
        self.options = options or ServerOptions()
        self.generation: Generation = "experimental"
        self.input_rate = input_rate
        self.output_rate = output_rate
        self.close_code: int | None = None
        self.errors = 0
        self._bucket = TokenBucket(self.options.messages_per_s, self.options.burst, now)
        self._writer: Writer | None = None
        self._rate_fixed = False
        self._position = 0
        self._answers: list[str] = []
        self._cut = ""

    def receive_bytes(self, data: bytes, now: float) -> list[FromStrands]:
        """Binary messages have no place in this dialect."""
        return self._refuse(
            ProtocolError(f"{len(data)} bytes came in binary.", hint="This dialect is JSON only.", code="unknown_frame")
        )

    def receive_text(self, text: str, now: float) -> list[FromStrands]:
        """The inputs in a message; what cannot be taken is answered, and returned as Refused.

        Raises ProtocolError with `close_code` if the link must end.
        """
        if self.close_code is not None:
            return []
        if self._writer is None:
            self.generation = "experimental" if is_experimental(text) else "stable"
            self._writer = ExperimentalWriter() if self.generation == "experimental" else StableWriter()
        try:
            if len(text) > self.options.text_bytes:
                raise ProtocolError(
                    f"A message of {len(text)} bytes came; the limit is {self.options.text_bytes}.",
                    hint="Send shorter messages.",
                    code="too_big",
                    close_code=1009,
                )
            if not self._bucket.take(now):
                raise ProtocolError(
                    f"More than {self.options.messages_per_s:g} messages a second came.",
                    hint="Send audio in chunks of 20 ms or more.",
                    code="rate",
                    close_code=4008,
                )
            return [
                self._audio(item) if isinstance(item, Audio) else item
                for item in parse(text, experimental=self.generation == "experimental")
            ]
        except DuologueError as error:
            return self._refuse(error)

    def event(self, event: Event) -> list[str]:
        """The messages for `event`, as JSON text; none for what this vocabulary cannot say.

        ResponseAudio is taken as well; see :meth:`audio`.
        """
        if isinstance(event, ResponseAudio):
            return self.audio(event.response, event.pcm, rate=event.rate)
        if isinstance(event, Interruption):
            return self.clear(event.response) if is_barge_in(event) and self._cut != event.response else []
        return _texts(self._writing().event(event))

    def audio(self, response: str, pcm: bytes, *, rate: int | None = None) -> list[str]:
        """The messages for audio of `response` (PCM16 mono, at `rate` or else the output rate)."""
        if response == self._cut:
            self._cut = ""
        encoded = base64.b64encode(pcm).decode("ascii")
        return _texts(self._writing().audio(response, encoded, rate or self.output_rate))

    def clear(self, response: str) -> list[str]:
        """Tell the client to drop the audio that it holds."""
        self._cut = response
        return _texts([self._writing().barge_in()])

    def error(self, code: str, message: str) -> list[str]:
        """The message for an error that the client can act on."""
        return _texts([self._writing().error(code, message)])

    def next_frame(self) -> str | None:
        """An answer that waits to be written."""
        return self._answers.pop(0) if self._answers else None

    def _audio(self, audio: Audio) -> AudioInput:
        rate = audio.rate or self.input_rate
        if self._rate_fixed and rate != self.input_rate:
            raise AudioFormatError(
                f"Audio at {rate} Hz came where {self.input_rate} Hz began.", hint="Keep one rate for the whole call."
            )
        self.input_rate = rate
        self._rate_fixed = True
        position = self._position
        self._position += len(audio.pcm) >> 1
        return AudioInput(pcm=audio.pcm, rate=rate, position=position)

    def _refuse(self, error: DuologueError) -> list[FromStrands]:
        if self.close_code is not None:
            return []
        broken = error if isinstance(error, ProtocolError) else ProtocolError(str(error), code=error.code)
        self.errors += 1
        if broken.close_code is None and self.errors > self.options.max_errors:
            broken = ProtocolError(
                f"{self.errors} errors on one link; the last: {error}",
                hint="Mend this client.",
                code="too_many_errors",
                close_code=4002,
            )
        self._answers += self.error(broken.code, str(broken))
        if broken.close_code is not None:
            self.close_code = broken.close_code
            raise broken
        return [Refused(broken)]

    def _writing(self) -> Writer:
        if self._writer is None:
            self._writer = ExperimentalWriter()
        return self._writer


def _texts(messages: list[Json]) -> list[str]:
    return [_encoder.encode(message).decode() for message in messages]
