"""A served model for the AWS SDK: our own server of Nova Sonic over TLS and HTTP/2, with keys of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from duologue import Agent
from duologue.serve.nova_sonic import NovaOptions, RunningNova, serving_nova
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo

KEY, SECRET = "AKIDEXAMPLE", "SECRETEXAMPLEKEY"
RATE = 16_000


def use_credentials(patch: pytest.MonkeyPatch, home: Path, key: str = KEY, secret: str = SECRET) -> None:
    """An environment with these credentials and no others; "" for none at all."""
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
    ):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("AWS_CONFIG_FILE", str(home / "config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)):
        if value:
            patch.setenv(name, value)
        else:
            patch.delenv(name, raising=False)


@contextlib.asynccontextmanager
async def nova(
    patch: pytest.MonkeyPatch,
    home: Path,
    *,
    answer: Any = echo,
    as_model: bool = True,
    agent: Any = None,
    **options: Any,
) -> AsyncIterator[RunningNova]:
    """A server whose certificate and keys this process trusts and has."""
    use_credentials(patch, home)
    served = agent or Agent(model=Scripted(UTTERANCES, answer, rate=RATE), name="provider")
    given = {"port": 0, "keys": {KEY: SECRET}, "certificate_directory": str(home / "tls"), "as_model": as_model}
    async with serving_nova(served, NovaOptions(**{**given, **options})) as server:
        patch.setenv("SSL_CERT_FILE", str(server.ca_file))
        yield server
