"""Voices, languages and models, as the vendor lists them (`docs/models.md`)."""

from __future__ import annotations

import msgspec


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """A voice: its id, its language (BCP 47), whether it is a feminine one, and whether it speaks all languages."""

    id: str
    languages: tuple[str, ...]
    feminine: bool
    polyglot: bool = False


VOICES = (
    Voice(id="tiffany", languages=("en-US",), feminine=True, polyglot=True),
    Voice(id="matthew", languages=("en-US",), feminine=False, polyglot=True),
    Voice(id="amy", languages=("en-GB",), feminine=True),
    Voice(id="olivia", languages=("en-AU",), feminine=True),
    Voice(id="kiara", languages=("en-IN", "hi-IN"), feminine=True),
    Voice(id="arjun", languages=("en-IN", "hi-IN"), feminine=False),
    Voice(id="tina", languages=("de-DE",), feminine=True),
    Voice(id="lennart", languages=("de-DE",), feminine=False),
    Voice(id="lupe", languages=("es-US",), feminine=True),
    Voice(id="carlos", languages=("es-US",), feminine=False),
    Voice(id="ambre", languages=("fr-FR",), feminine=True),
    Voice(id="florian", languages=("fr-FR",), feminine=False),
    Voice(id="beatrice", languages=("it-IT",), feminine=True),
    Voice(id="lorenzo", languages=("it-IT",), feminine=False),
    Voice(id="carolina", languages=("pt-BR",), feminine=True),
    Voice(id="leo", languages=("pt-BR",), feminine=False),
)
VOICE_IDS = tuple(voice.id for voice in VOICES)
LANGUAGES = tuple(dict.fromkeys(language for voice in VOICES for language in voice.languages))

NOVA_2 = "amazon.nova-2-sonic-v1:0"
NOVA_2_5 = "amazon.nova-2-5-sonic"
#: the first generation, which the vendor has withdrawn; its clients are still served
NOVA_1 = "amazon.nova-sonic-v1:0"
MODELS = (NOVA_2, NOVA_2_5)
#: regions in which the models were offered when this was written
REGIONS = ("us-east-1", "us-west-2", "ap-northeast-1", "eu-north-1")
RATES = (8000, 16000, 24000)


def voice_for(language: str | None, voice: str | None) -> str:
    """The voice to use: the one asked for, else one of the language, else matthew."""
    if voice:
        return voice
    if language:
        wanted = language.lower()
        for exact in (True, False):
            for entry in VOICES:
                for spoken in entry.languages:
                    if spoken.lower() == wanted or (not exact and spoken[:2].lower() == wanted[:2]):
                        return entry.id
    return "matthew"
