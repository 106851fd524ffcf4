"""A call that the bidirectional agent of strands-agents makes: a story, a barge-in into it, and a tool that it runs itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from strands import tool
from strands.bidi import BidiAgent
from strands.bidi.types import AudioDelta

from tests.real_clients.scripted_server import speech

HISTORY: Any = [
    {"role": "user", "content": [{"text": "My name is Ada."}]},
    {"role": "assistant", "content": [{"text": "Hello Ada."}]},
]
_FRAME_S = 0.02
_STORY, _WEATHER, _STOP = 2, 3, 4


@tool
def get_weather(city: str) -> str:
    """The weather.

    Args:
        city: Where.
    """
    return f"rain in {city}"


class StrandsCall:
    """One call, in real time. What the agent of strands told its user is in `kinds`, `said` and `audio`.

    Args:
        model: one of strands' own, unmodified.
        rate: Hz of the microphone.
        renewed: ask for the weather only once strands has renewed its connection.
        voice: PCM16 that the server hears as an utterance.
    """

    def __init__(
        self, model: Any, rate: int, *, renewed: bool = False, voice: Callable[[int, float, int], bytes] = speech
    ) -> None:
        self.agent = BidiAgent(model=model, tools=[get_weather], messages=HISTORY)
        self.kinds: list[str] = []
        self.said: dict[str, list[str]] = {"user": [], "assistant": []}
        self.audio = 0
        self._rate = rate
        self._renewed = renewed
        self._voice = voice
        self._microphone: list[bytes] = []
        self._script = [_STORY, _STOP, _WEATHER]

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        silence = bytes(2 * int(self._rate * _FRAME_S))
        while True:
            pcm = self._microphone.pop(0) if self._microphone else silence
            await self.agent.send(AudioDelta(format="pcm", source={"bytes": pcm}))
            due += _FRAME_S
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _next(self, utterance: int) -> None:
        """Say this, if it is its turn."""
        if self._script[:1] == [utterance]:
            del self._script[0]
            pcm, step = self._voice(utterance, 0.8, self._rate), 2 * int(self._rate * _FRAME_S)
            self._microphone.extend(pcm[at : at + step] for at in range(0, len(pcm), step))

    async def _listen(self) -> None:
        async for event in self.agent.receive():
            kind = str(event.get("type"))
            self.kinds.append(kind)
            if kind == "bidi_audio_delta":
                self.audio += 1
            elif kind == "bidi_connection_start":
                self._next(_WEATHER if "bidi_connection_restart" in self.kinds else _STORY)
            elif kind == "bidi_response_start":
                self._next(_STOP)
            elif kind == "bidi_transcript_block":
                text = event["transcript"].strip()
                self.said[event["role"]].append(text)
                if text == "You said stop please." and not self._renewed:
                    self._next(_WEATHER)
                elif event["role"] == "assistant" and "rain in Oslo" in text:
                    return

    async def run(self, history: Any) -> list[str]:
        """Make the call. Returns the texts of `history()`, the server's conversation, at its end."""
        await self.agent.start()
        sending = asyncio.ensure_future(self._speak())
        try:
            async with asyncio.timeout(60):
                await self._listen()
            return [item.text for item in history()]
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            await asyncio.wait_for(self.agent.stop(), 10)

    def check(self) -> None:
        """What every such call must have been."""
        assert self.said["user"] == ["tell me a story", "stop please", "what is the weather"]
        assert self.said["assistant"][0].startswith("This is sentence number 1")
        assert "You said stop please." in self.said["assistant"]
        assert "rain in Oslo" in self.said["assistant"][-1]
        assert "bidi_barge_in" in self.kinds
        assert "bidi_tool_use_blocks" in self.kinds
        assert self.audio > 10
