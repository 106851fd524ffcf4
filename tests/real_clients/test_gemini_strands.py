"""The bidirectional agent of strands-agents, unmodified, talks to our server as if it were Google's."""

from __future__ import annotations

from pathlib import Path

import pytest
from strands.bidi.models import GoogleGeminiLiveModel

from duologue import Agent
from duologue.serve import ServeOptions, serving
from duologue.wire.gemini_live import ServerLimits
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, session_of
from tests.real_clients.strands_call import StrandsCall

pytestmark = pytest.mark.anyio

RATE = 16_000


async def test_an_unmodified_strands_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the connection is renewed by the service between the barge-in and the tool."""
    served = Agent(model=Scripted(UTTERANCES, echo, rate=RATE), name="provider")
    options = ServeOptions(
        port=0,
        studio=False,
        as_model=True,
        tls=True,
        certificate_directory=str(tmp_path),
        gemini=ServerLimits(connection_s=9.0, notice_s=3.0),
    )
    async with serving(served, options) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        model = GoogleGeminiLiveModel(model_id="gemini-2.5-flash-native-audio", client_args={"api_key": "k"})
        call = StrandsCall(model, RATE, renewed=True)
        texts = await call.run(lambda: session_of(server).history)
    call.check()
    assert "bidi_connection_restart" in call.kinds
    assert texts[:3] == ["My name is Ada.", "Hello Ada.", "tell me a story"], "the state was resumed by its handle"
