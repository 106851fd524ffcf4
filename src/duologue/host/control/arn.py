"""Names of runtimes: ``arn:aws:bedrock-agentcore:{region}:{account}:runtime/{name}-{10 characters}``.

The form is the managed service's (`bedrock-agentcore-control` 2023-06-05, shapes AgentRuntimeArn, AgentRuntimeName,
EndpointName and SessionType), so that its clients address our runtimes unchanged.
"""

from __future__ import annotations

import re
import secrets
import string

import msgspec

from ..types import HostError

_ALPHABET = string.ascii_letters + string.digits
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,47}\Z")
_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,47}-[a-zA-Z0-9]{10}\Z")
_ACCOUNT = re.compile(r"[0-9]{12}\Z")
_REGION = re.compile(r"[a-z]{2,8}(-[a-z0-9]+){0,4}\Z")
_SESSION = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{32,255}\Z")
_ARN = re.compile(
    r"arn:(?:aws|aws-cn|aws-us-gov):bedrock-agentcore:(?P<region>[^:/]+):(?P<account>[0-9]{12}):runtime/(?P<id>[^/]+)"
    r"(?:/runtime-endpoint/(?P<endpoint>[^/]+))?\Z"
)

#: the endpoint that every runtime has
DEFAULT = "DEFAULT"


class Arn(msgspec.Struct, frozen=True, kw_only=True):
    """Where a runtime lives and what it is called."""

    region: str
    account: str
    runtime: str
    endpoint: str = ""

    def __str__(self) -> str:
        base = f"arn:aws:bedrock-agentcore:{self.region}:{self.account}:runtime/{self.runtime}"
        return f"{base}/runtime-endpoint/{self.endpoint}" if self.endpoint else base

    @classmethod
    def parse(cls, text: str) -> Arn | None:
        """An ARN from its text; None for anything else."""
        found = _ARN.match(text)
        if found is None or not _ID.match(found["id"]):
            return None
        return cls(
            region=found["region"], account=found["account"], runtime=found["id"], endpoint=found["endpoint"] or ""
        )


def new_id(name: str) -> str:
    """A runtime id that nobody else has: the name and ten random characters."""
    return f"{name}-{''.join(secrets.choice(_ALPHABET) for _ in range(10))}"


def is_id(text: str) -> bool:
    """Whether `text` has the form of a runtime id, not of a bare name."""
    return _ID.match(text) is not None


def check_runtime_name(name: str) -> None:
    """Raise HostError 400 for a name that no runtime may have."""
    if not _NAME.match(name):
        raise invalid(f"{name[:60]!r} is no name for a runtime.", "Use a letter, then up to 47 letters, digits or '_'.")


def check_endpoint_name(name: str) -> None:
    """Raise HostError 400 for a name that no endpoint may have."""
    if not _NAME.match(name):
        raise invalid(
            f"{name[:60]!r} is no name for an endpoint.", "Use a letter, then up to 47 letters, digits or '_'."
        )


def check_account(account: str, region: str) -> None:
    """Raise HostError 400 unless both can stand in an ARN."""
    if not _ACCOUNT.match(account):
        raise invalid(f"{account[:40]!r} is no account.", "An account has twelve digits.")
    if not _REGION.match(region):
        raise invalid(f"{region[:40]!r} is no region.", "Use a name such as us-east-1.")


def check_session_id(session: str) -> None:
    """Raise HostError 400 for an id that no session may have: 33 to 256 of letters, digits, '-' and '_'."""
    if not _SESSION.match(session):
        raise invalid(
            f"The session id has {len(session)} characters, or others than it may have.",
            "Member must have length greater than or equal to 33 and at most 256, of letters, digits, '-' and '_', "
            "a letter or digit first.",
        )


def invalid(message: str, hint: str = "") -> HostError:
    """The error for what cannot be meant."""
    return HostError(400, "ValidationException", message, hint=hint)


def missing(what: str, hint: str = "") -> HostError:
    """The error for what is not there. The same words whether it never was or belongs to another tenant."""
    return HostError(404, "ResourceNotFoundException", what, hint=hint)


def conflict(message: str, hint: str = "", *, retry: bool = False) -> HostError:
    """The error for what cannot be done as things stand; `retry`: it can in a moment."""
    kind, headers = ("RetryableConflictException", (("Retry-After", "1"),)) if retry else ("ConflictException", ())
    return HostError(409, kind, message, hint=hint, headers=headers)
