"""What every test of the host holds it to: a line of its log that concerns a tenant names it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

#: an account id, or the tenant of those tests that need none
_TENANT = re.compile(r"\b\d{12}\b|\bt/")
#: lines about the host itself, a connection that nobody has claimed, or keys that several tenants may take
_OF_THE_HOST = (
    "a connection could not be accepted",
    "a connection ended before its first request",
    "a key of a JWKS cannot be read",
    "inference service: ",
    "looking after the sessions failed",
    "rpc: ",
    "the audit log cannot be written",
    "the keys of ",
)


@pytest.fixture(autouse=True)
def _log_names_the_tenant(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "duologue.host")
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if record.name.startswith("duologue.host")]
    assert not [line for line in said if not _TENANT.search(line) and not line.startswith(_OF_THE_HOST)]
