"""The models under test, each with what it declares, and how a call with it is held: scripted in memory, or live."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

from duologue import Agent
from duologue.audio import Resampler
from duologue.models import Cascade, GeminiLive, NovaSonic, OpenAIRealtime
from duologue.models.base import Model
from duologue.session.session import Session
from duologue.testing.clock import run_virtual
from tests.conformance.caller import Call, Caller
from tests.conformance.parts import Marks, Talker, cascade
from tests.conformance.talk import INSTRUCTIONS, SENTENCES, number
from tests.models import gemini_pair, nova_pair, realtime_pair

type Case = Callable[[Call], Awaitable[None]]

#: seconds that a scripted caller takes for a sentence
_SENTENCE_S = 1.0


class Rig:
    """One model under test. `provider` is the served end, where there is one; `wires` its links."""

    live = False
    name = ""
    inputs: Iterable[str] = ("audio", "text")
    authority = "provider"
    can_truncate = False
    can_cancel = True
    can_update = True
    say = "instructed"
    other_voice: str | None = None
    #: whether a tool goes on when the caller speaks while it runs
    keeps_tools = True

    def __init__(self) -> None:
        self.provider: Any = None
        self.model: Model

    def speech(self, sentence: str) -> bytes:
        """PCM16 of a sentence at the model's input rate."""
        rate = self.model.capabilities.input_rate
        return struct.pack("<h", number(sentence)) * int(_SENTENCE_S * rate)

    def make(self) -> Model:
        """The model. Called on the loop of the call."""
        raise NotImplementedError

    def hold(self, case: Case, **agent: Any) -> Call:
        """Hold a call, led by `case`."""
        return run_virtual(self._hold(case, 60.0, agent))

    async def _hold(self, case: Case, patience_s: float, agent: dict[str, Any]) -> Call:
        self.model = self.make()
        given = {
            "apology": "",
            "idle_prompt": "",
            "farewell": "",
            "instructions": INSTRUCTIONS,
            "filler": None,
            **agent,
        }
        caller = Caller(self.model.capabilities.input_rate)
        runner: Any = "thread" if self.live else "inline"
        session: Session = Agent(model=self.model, **given).session(caller, tool_runner=runner)
        call = Call(session, caller, self.speech, patience_s)
        try:
            async with session:
                await case(call)
                caller.hang_up()
                await session.wait()
        finally:
            if self.provider is not None:
                await self.provider.close()
            await self.model.aclose()
        return call

    @property
    def wires(self) -> list[Any]:
        """The links that were opened, oldest first."""
        return self.provider.wires if self.provider is not None else []

    @property
    def talker(self) -> Talker:
        """What stands behind the protocol."""
        model: Talker = self.provider.model
        return model


class CascadeRig(Rig):
    name = "cascade"
    inputs = ("audio", "text", "sensor")
    authority = "engine"
    say = "native"
    other_voice = "other"

    def make(self) -> Model:
        return cascade()


class OpenAIRig(Rig):
    name = "openai"
    inputs = ("audio", "text", "image", "sensor")
    can_truncate = True
    other_voice = "cedar"
    options: ClassVar[dict[str, Any]] = {}

    def make(self) -> Model:
        self.provider = realtime_pair.Provider(model=Talker(24_000))
        return OpenAIRealtime(api_key="x", connector=self.provider.connect, **self.options)


class OpenAIEngineRig(OpenAIRig):
    """With the vendor's detection kept from answering: the engine decides, by our ears and the vendor's transcripts."""

    name = "openai-engine"
    authority = "engine"
    options: ClassVar[dict[str, Any]] = {
        "turn_detection": {"type": "server_vad", "create_response": False, "interrupt_response": False},
        "vad": lambda: Marks(24_000),
    }


class OpenAIManualRig(OpenAIEngineRig):
    """With the vendor's detection off: the client also says what is a message."""

    name = "openai-manual"
    options: ClassVar[dict[str, Any]] = {"turn_detection": None, "vad": lambda: Marks(24_000)}


class NovaRig(Rig):
    name = "nova"
    can_cancel = False
    can_update = False
    other_voice = "amy"

    def make(self) -> Model:
        self.provider = nova_pair.Provider(model=Talker(16_000))
        return NovaSonic(connector=self.provider.connect, limits=self.provider.limits)


class GeminiRig(Rig):
    name = "gemini"
    inputs = ("audio", "text", "image", "sensor")
    can_cancel = False
    can_update = False
    other_voice = "Kore"
    options: ClassVar[dict[str, Any]] = {}

    def make(self) -> Model:
        self.provider = gemini_pair.Provider(model=Talker(16_000))
        return GeminiLive(api_key="x", connector=self.provider.connect, **self.options)


class GeminiEngineRig(GeminiRig):
    """With the vendor's detection off: the engine decides."""

    name = "gemini-engine"
    authority = "engine"
    can_cancel = True
    options: ClassVar[dict[str, Any]] = {"automatic_activity_detection": {"disabled": True}, "vad": Marks}


class GeminiBlockingRig(GeminiEngineRig):
    """As models are that wait for their functions: a call is withdrawn when the caller speaks."""

    name = "gemini-blocking"
    keeps_tools = False
    options: ClassVar[dict[str, Any]] = {**GeminiEngineRig.options, "function_behavior": "BLOCKING"}


SCRIPTED = (
    CascadeRig,
    OpenAIRig,
    OpenAIEngineRig,
    OpenAIManualRig,
    NovaRig,
    GeminiRig,
    GeminiEngineRig,
    GeminiBlockingRig,
)


# ---------------------------------------------------------------------- live


class NoKeyError(Exception):
    """There is no key for the provider that is to be tested live."""


class _Live:
    """A call in real time with real speech, synthesised here."""

    live = True
    _spoken: ClassVar[dict[str, bytes]] = {}

    async def _prepare(self) -> None:
        from duologue.speech.piper import PiperTTS

        tts = PiperTTS()
        try:
            for name, text in SENTENCES.items():
                pcm = b""
                async for chunk in tts.synthesize(text):
                    pcm += chunk.pcm
                self._spoken[name] = pcm
            self._rate = tts.rate
        finally:
            await tts.close()

    def speech(self, sentence: str) -> bytes:
        if not self._spoken:
            raise RuntimeError("speech is made before the call")
        resampler = Resampler(self._rate, self.model.capabilities.input_rate)  # type: ignore[attr-defined]
        return resampler.feed(self._spoken[sentence]) + resampler.flush()

    def hold(self, case: Case, **agent: Any) -> Call:
        async def run() -> Call:
            await self._prepare()
            return await self._hold(case, 45.0, agent)  # type: ignore[attr-defined, no-any-return]

        return asyncio.run(run())


class LiveOpenAI(_Live, OpenAIRig):
    def make(self) -> Model:
        if not os.environ.get("OPENAI_API_KEY"):
            raise NoKeyError("There is no OpenAI key. Set OPENAI_API_KEY (and OPENAI_BASE_URL for another server).")
        return OpenAIRealtime(**_chosen("model"))


class LiveNova(_Live, NovaRig):
    def make(self) -> Model:
        try:
            import botocore.session

            found = botocore.session.Session().get_credentials() is not None
        except Exception:
            found = False
        if not found:
            raise NoKeyError(
                "There are no AWS credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            )
        return NovaSonic(**_chosen("model_id"))


class LiveGemini(_Live, GeminiRig):
    def make(self) -> Model:
        if not (os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")):
            raise NoKeyError("There is no Gemini key. Set GOOGLE_API_KEY or GEMINI_API_KEY.")
        return GeminiLive(**_chosen("model"))


class LiveLocal(_Live, CascadeRig):
    """This machine: real recognition and synthesis, answers by the rules. Its voice is the only one."""

    other_voice = None

    def make(self) -> Model:
        from tests.conformance.parts import TalkLLM

        return Cascade.local(llm=TalkLLM())


def _chosen(option: str) -> dict[str, Any]:
    """`DUOLOGUE_LIVE_MODEL` names another model than the default."""
    name = os.environ.get("DUOLOGUE_LIVE_MODEL")
    return {option: name} if name else {}


LIVE: dict[str, type[Rig]] = {"openai": LiveOpenAI, "nova": LiveNova, "gemini": LiveGemini, "local": LiveLocal}
