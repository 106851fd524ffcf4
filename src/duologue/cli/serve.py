"""``duologue serve``: an agent, a model or a script, for browsers, phones, programs and the vendors' own clients."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..agent import Agent, AgentFactory
from ..errors import ConfigurationError
from ..serve import ServeOptions, serving
from ..testing.faults import Faults
from ..wire.nova_sonic import StreamLimits
from .load import load, source_of
from .provided import NovaPlan, announcement, model_agent
from .reload import supervise
from .terminal import run, say

_Key = Annotated[str, Parameter(env_var="DUOLOGUE_KEY")]
_Many = Annotated[tuple[str, ...], Parameter(negative=())]
_Flag = Annotated[bool, Parameter(negative=())]


def serve(
    app: str = "",
    /,
    *,
    model: str = "",
    script: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    key: _Key = "",
    no_auth: _Flag = False,
    origin: _Many = (),
    host_name: _Many = (),
    journal: str = "",
    max_sessions: int = 64,
    page: Annotated[bool, Parameter(negative="--no-page")] = True,
    tls: _Flag = False,
    certificate: str = "",
    certificate_key: str = "",
    certificate_directory: str = "",
    nova: Annotated[bool, Parameter(negative="--no-nova")] = True,
    nova_port: int | None = None,
    nova_key: _Many = (),
    limit: float | None = None,
    silence_limit: float | None = None,
    fault: _Many = (),
    reload: _Flag = False,
) -> int:
    """Serve an agent, a model (--model) or a script (--script): our protocol, the providers' protocols, the talk page.

    Parameters
    ----------
    app
        app.py, app.py:name or package.module:name.
    model
        Serve a model alone: local, nova-sonic, openai-realtime or gemini-live. Instructions, tools and voice are the client's.
    script
        Serve a model that says exactly what this YAML file says (see docs/serving.md).
    host
        Address to listen on. Any but loopback wants --key or --no-auth.
    port
        Port to listen on; 0 takes a free one.
    key
        Clients must present it as a bearer token. Better in the environment than on the command line.
    no_auth
        Serve everybody who can reach the address.
    origin
        Web origin that may connect beside the server's own; may be repeated.
    host_name
        Name that the server answers to beside its address; may be repeated.
    journal
        SQLite file for the journals of all calls.
    max_sessions
        Calls at a time.
    page
        Serve the talk page.
    tls
        Encrypt, with a certificate for development if none is given. Google's SDK connects in no other way.
    certificate
        File of a certificate chain (PEM).
    certificate_key
        File of its key (PEM).
    certificate_directory
        Where the certificate for development is kept.
    nova
        Serve Nova Sonic, which has a port of its own.
    nova_port
        That port: by default 8443 or a free one.
    nova_key
        ID=SECRET that requests to it must be signed with; may be repeated. By default any, or duologue=KEY where there is --key.
    limit
        Seconds that a connection of a provider's protocol lives, to see what clients do then.
    silence_limit
        Seconds that Nova Sonic waits for audio.
    fault
        KIND[*LINKS][=VALUE][@WHEN], such as drop@3, latency=200ms, exception*1=throttled@2 (docs/serving.md); may be repeated.
    reload
        Start anew when a Python file beside the app changes.
    """
    if sum(map(bool, (app, model, script))) != 1:
        raise ConfigurationError("One thing is served.", hint="Name an app.py, or give --model or --script.")
    faults = Faults(fault)
    options = ServeOptions(
        host=host,
        port=port,
        key=key,
        no_auth=no_auth,
        origins=origin,
        hosts=host_name,
        journal=journal,
        max_sessions=max_sessions,
        studio=page,
        tls=tls,
        certificate=certificate,
        certificate_key=certificate_key,
        certificate_directory=certificate_directory,
        as_model=not app,
    )
    seconds = faults.limit_s if limit is None else limit
    streams = StreamLimits()
    if seconds is not None:
        options = options.limited(seconds)
        streams = StreamLimits(connection_s=seconds)
    if silence_limit is not None:
        streams = StreamLimits(connection_s=streams.connection_s, audio_gap_s=silence_limit)
    plan = NovaPlan(wanted=nova, port=nova_port, keys=nova_key, limits=streams)
    if reload:
        if not app:
            raise ConfigurationError("--reload watches an app.", hint="Name an app.py, or leave it out.")
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        return supervise(source_of(app), arguments)
    return run(_serve(app, model, script, options, plan, faults))


async def _serve(
    app: str, model: str, script: Path | None, options: ServeOptions, plan: NovaPlan, faults: Faults
) -> int:
    agent: Agent | AgentFactory
    if script is not None:
        from ..testing.script import Script, script_agent

        agent = script_agent(Script.load(script))
    elif model:
        agent = await model_agent(model)
    else:
        agent = load(app)
    if isinstance(agent, Agent) and agent.model.notice:
        say(agent.model.notice, "yellow")
    async with serving(agent, options) as server, contextlib.AsyncExitStack() as stack:
        nova = await plan.open(stack, server, options)
        faults.install(server, nova if not isinstance(nova, str) else None)
        for line in announcement(server, nova, options):
            say(line)
        await asyncio.Event().wait()
    return 0
