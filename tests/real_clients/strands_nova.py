"""The bidirectional agent of strands-agents, unmodified, against our server. Run in a mount and network namespace of its own.

Strands has no option for the endpoint: the vendor's name leads to this machine by the namespace's hosts file, and our server
has a certificate for that name. Prints what happened as one JSON object. See `test_nova_strands.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from strands.bidi.models import BedrockNovaSonicModel

from duologue import Agent
from duologue.serve.nova_sonic import NovaOptions, serving_nova
from tests.real_clients.nova_server import KEY, RATE, SECRET
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo
from tests.real_clients.strands_call import StrandsCall


async def main(home: Path, name: str) -> None:
    served = Agent(model=Scripted(UTTERANCES, echo, rate=RATE), name="provider")
    options = NovaOptions(
        port=443, keys={KEY: SECRET}, as_model=True, certificate_directory=str(home / "tls"), names=(name,)
    )
    async with serving_nova(served, options) as server:
        os.environ["SSL_CERT_FILE"] = str(server.ca_file)
        call = StrandsCall(BedrockNovaSonicModel(model_id="amazon.nova-2-sonic-v1:0", region="us-east-1"), RATE)
        texts = await call.run(lambda: next(iter(server.server.sessions._calls.values())).session.history)
    call.check()
    print("RESULT " + json.dumps(texts))


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
