"""What Strands clients send, in both generations, as typed inputs of ours."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from duologue.errors import AudioFormatError, DuologueError, ProtocolError, UnsupportedInputError
from duologue.events import ImageInput, TextInput


class Audio(NamedTuple):
    """PCM16 mono; `rate` is None where the message names none."""

    pcm: bytes
    rate: int | None


class _Message(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class _Text(_Message, frozen=True, tag="bidi_text_input"):
    text: str
    role: Literal["user", "assistant"] = "user"


class _Audio(_Message, frozen=True, tag="bidi_audio_input"):
    audio: bytes
    format: str
    sample_rate: int
    channels: int


class _Image(_Message, frozen=True, tag="bidi_image_input"):
    image: bytes
    mime_type: str


class _Source(msgspec.Struct, frozen=True):
    data: bytes = msgspec.field(name="bytes")


class _Media(msgspec.Struct, frozen=True):
    format: str
    source: _Source


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key each, as ``strands.bidi`` takes them; unset ones are absent."""

    text: str | None = None
    image: _Media | None = None
    audio_delta: _Media | None = None


type Parsed = Audio | TextInput | ImageInput

_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_experimental: msgspec.json.Decoder[_Text | _Audio | _Image] = msgspec.json.Decoder(_Text | _Audio | _Image)
_stable: msgspec.json.Decoder[_Block | list[_Block | str] | str] = msgspec.json.Decoder(
    _Block | list[_Block | str] | str
)


def is_experimental(text: str) -> bool:
    """Whether a message belongs to the older generation: it has a `type`."""
    try:
        message = _any.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return True
    return isinstance(message, dict) and "type" in message


def parse(text: str, *, experimental: bool) -> list[Parsed]:
    """The inputs in a message. Raises a typed DuologueError for what cannot be taken."""
    try:
        return _old(_experimental.decode(text)) if experimental else _new(_stable.decode(text))
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise ProtocolError(
            f"The message cannot be taken: {str(error)[:200]}.",
            hint=(
                "Send bidi_text_input, bidi_audio_input or bidi_image_input."
                if experimental
                else "Send an object with one of the keys text, audio_delta, image, or a list of them."
            ),
            code="malformed",
        ) from error


def _old(message: _Text | _Audio | _Image) -> list[Parsed]:
    match message:
        case _Text(text=text, role=role):
            if role != "user":
                raise UnsupportedInputError(
                    "Text of the assistant cannot be put in from outside.", hint="Send text with the role user."
                )
            return [TextInput(text=text)]
        case _Audio(audio=pcm, format=encoding, sample_rate=rate, channels=channels):
            if channels != 1:
                raise AudioFormatError(f"{channels} channels of audio came.", hint="Mix down to mono before sending.")
            return [_pcm(pcm, encoding, rate)]
        case _Image(image=data, mime_type=mime):
            return [ImageInput(data=data, mime=mime)]


def _new(message: _Block | list[_Block | str] | str) -> list[Parsed]:
    blocks = message if isinstance(message, list) else [message]
    texts: list[str] = []
    parsed: list[Parsed] = []
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
            continue
        if sum(part is not None for part in (block.text, block.image, block.audio_delta)) != 1:
            raise _shape("A block must have exactly one of the keys text, audio_delta and image.")
        if block.text is not None:
            texts.append(block.text)
        elif block.image is not None:
            parsed.append(ImageInput(data=block.image.source.data, mime=f"image/{block.image.format}"))
        elif block.audio_delta is not None:
            if isinstance(message, list):
                raise _shape("Audio deltas are sent one by one, not in a list.")
            parsed.append(_pcm(block.audio_delta.source.data, block.audio_delta.format, None))
    if texts:
        parsed.append(TextInput(text="\n".join(texts)))
    if not parsed:
        raise _shape("The message holds nothing.")
    return parsed


def _pcm(pcm: bytes, encoding: str, rate: int | None) -> Audio:
    if encoding != "pcm":
        raise AudioFormatError(f"Audio as {encoding[:16]!r} came.", hint="Send pcm, 16 bit, mono.")
    if not pcm or len(pcm) & 1:
        raise AudioFormatError(f"PCM16 has two bytes a sample, not {len(pcm)} in all.", hint="Send whole samples.")
    if rate is not None and not 8_000 <= rate <= 48_000:
        raise AudioFormatError(f"A sample rate of {rate} Hz came.", hint="Use 8000 to 48000, for example 16000.")
    return Audio(pcm, rate)


def _shape(what: str) -> DuologueError:
    return ProtocolError(what, hint="See docs/protocol.md, section 11.", code="malformed")
