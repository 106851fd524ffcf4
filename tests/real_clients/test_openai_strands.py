"""The bidirectional agent of strands-agents, unmodified, talks to our server as if it were OpenAI's."""

from __future__ import annotations

import pytest
from strands.bidi.models import OpenAIRealtimeModel
from strands.bidi.models.openai import realtime

from duologue.serve import ServeOptions
from duologue.testing.script import Script, script_server
from duologue.testing.script_model import tone
from tests.real_clients.scripted_server import session_of
from tests.real_clients.strands_call import StrandsCall

pytestmark = pytest.mark.anyio

RATE = 24_000
#: Strands drops what it has of an answer only where the answer was still being made: so it is made slowly.
SCRIPT = """
turns: [tell me a story, stop please, what is the weather]
speed: 3
replies:
  - when: "*story"
    say: This is sentence number 1 of the story. This is sentence number 2 of the story. This is sentence number 3 of the story.
  - when: "*weather"
    call: {get_weather: {city: Oslo}}
  - when: "result:get_weather"
    say: It is {result}.
  - say: You said stop please.
"""


async def test_an_unmodified_strands_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(studio=False, key="sesame")
    async with script_server(Script.parse(SCRIPT), options=options) as server:
        # Strands has no option for the endpoint, only this name.
        monkeypatch.setattr(realtime, "OPENAI_REALTIME_URL", f"ws://127.0.0.1:{server.port}/v1/realtime")
        model = OpenAIRealtimeModel(
            model_id="gpt-realtime", transcription_model_id="gpt-4o-mini-transcribe", api_key="sesame"
        )
        call = StrandsCall(model, RATE, voice=lambda utterance, seconds, rate: tone(seconds, rate))
        texts = await call.run(lambda: session_of(server).history)
    call.check()
    assert texts[:3] == ["My name is Ada.", "Hello Ada.", "tell me a story"]
