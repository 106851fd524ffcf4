"""AWS Signature Version 4: keys, canonical requests, and the rolling signatures of event-stream chunks.

Source: the AWS General Reference, "Signature Version 4 signing process", and, for event streams, the form that the vendor's
SDK sends (`docs/models.md`). Pure: times come in as text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import msgspec

ALGORITHM = "AWS4-HMAC-SHA256"
#: hash of an empty payload
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
#: what stands in place of a payload hash when the body is a stream of signed events
STREAMING_EVENTS = "STREAMING-AWS4-HMAC-SHA256-EVENTS"
_SPACES = re.compile(r"[ \t]+")


class Scope(msgspec.Struct, frozen=True):
    """What a signature is good for: a day (``YYYYMMDD``), a region, a service."""

    date: str
    region: str
    service: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"

    @classmethod
    def parse(cls, text: str) -> Scope | None:
        """A scope from ``date/region/service/aws4_request``; None for anything else."""
        parts = text.split("/")
        if len(parts) != 4 or parts[3] != "aws4_request" or not all(parts):
            return None
        return cls(parts[0], parts[1], parts[2])


def signing_key(secret: str, scope: Scope) -> bytes:
    """The key derived from a secret access key for one scope."""
    key = f"AWS4{secret}".encode()
    for part in (scope.date, scope.region, scope.service, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str | bytes) -> bytes:
    return hmac.digest(key, text if isinstance(text, bytes) else text.encode(), "sha256")


def canonical_query(raw: str, *, without: Iterable[str] = ()) -> str:
    """The canonical form of a raw query string. ``+`` is a plus sign, as it is for AWS, not a space.

    Bytes are kept as they are, UTF-8 or not, so that no two different queries have one canonical form but by encoding.

    Args:
        without: names to leave out, in canonical form.
    """
    left_out = set(without)
    pairs = []
    for part in raw.split("&") if raw else ():
        name, _, value = part.partition("=")
        name, value = _canonical(name), _canonical(value)
        if name not in left_out:
            pairs.append((name, value))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _canonical(text: str) -> str:
    return quote_from_bytes(unquote_to_bytes(text), safe="-_.~")


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, str], signed: Sequence[str], payload_hash: str
) -> str:
    """The canonical request.

    Args:
        path: as it was sent, already percent-encoded; it is encoded once more, as every service but S3 wants it.
        query: in canonical form.
        headers: names in lower case.
        signed: names of the signed headers, in the order of the signature.
    """
    # spaces and tabs alone: what else Unicode calls white space (U+0085, U+00A0) is content to whoever reads the header
    lines = "".join(f"{name}:{_SPACES.sub(' ', headers.get(name, '')).strip(' ')}\n" for name in signed)
    return "\n".join((method, quote(path or "/", safe="/-_.~"), query, lines, ";".join(signed), payload_hash))


def request_signature(key: bytes, date: str, scope: Scope, canonical: str) -> str:
    """The signature of a canonical request; `date` is ``YYYYMMDDTHHMMSSZ``."""
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return _hmac(key, f"{ALGORITHM}\n{date}\n{scope}\n{digest}").hex()


def chunk_signature(key: bytes, date: str, scope: Scope, prior: str, headers: bytes, payload: bytes) -> str:
    """The signature of one event-stream chunk.

    Args:
        prior: signature of the chunk before, in hex; of the request for the first.
        headers: the encoded ``:date`` header of the outer frame.
        payload: the inner frame; empty for the end of the stream.
    """
    text = "\n".join(
        (
            f"{ALGORITHM}-PAYLOAD",
            date,
            str(scope),
            prior,
            hashlib.sha256(headers).hexdigest(),
            hashlib.sha256(payload).hexdigest(),
        )
    )
    return _hmac(key, text).hex()
