"""Issuers: their discovery documents and keys, cached, fetched rarely.

* one fetch at a time for each issuer; whoever needs it meanwhile waits for that one,
* keys older than `fresh_s` are fetched anew before the next use,
* an unknown key id fetches at most every `refetch_s`, however many tokens name one,
* if a fetch fails the old keys go on for `stale_s`, and the next attempt waits `backoff_s`, doubled each time up to ten
  minutes.

Keys that only a shared secret could verify (``oct``), that are marked for encryption, or RSA keys under 2,048 bits are
left out, so that no token can choose them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from .errors import keys_unavailable
from .fetch import Fetcher, FetchError, split_https

_log = logging.getLogger("duologue.host")

VerificationKey = RSAKey | ECKey | OKPKey

_MIN_RSA_BITS = 2048
_MAX_KEYS = 100
_MAX_BACKOFF_S = 600.0


class JwksTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; see the module."""

    fresh_s: float = 600.0
    refetch_s: float = 30.0
    stale_s: float = 86_400.0
    backoff_s: float = 5.0


class Keyring(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer's name and keys. `keys` has them by id; several may share one, for different key types."""

    issuer: str
    keys: tuple[tuple[str, VerificationKey], ...]
    fetched: float

    def find(self, kid: str, key_type: str) -> list[VerificationKey]:
        """The keys with an id, or, for "", the only key of the type."""
        found = [key for name, key in self.keys if key.key_type == key_type and kid in ("", name)]
        return found if kid or len(found) == 1 else []


class _Issuer:
    def __init__(self) -> None:
        self.ring: Keyring | None = None
        self.tried = float("-inf")
        self.failures = 0
        self.task: asyncio.Task[Keyring] | None = None


class Issuers:
    """The issuers that configurations name, by discovery URL; the least recently used is forgotten past `size`.

    Args:
        clock: a monotonic clock, seconds.

    Attributes:
        fetches: how many times documents were fetched.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        times: JwksTimes | None = None,
        size: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._times = times or JwksTimes()
        self._size = size
        self._clock = clock
        self._issuers: OrderedDict[str, _Issuer] = OrderedDict()
        self.fetches = 0

    async def ring(self, discovery: str) -> Keyring:
        """The issuer's keys, fresh if they can be had.

        Raises:
            HostError: 503, there are none yet, or they are too old.
        """
        issuer, now = self._issuer(discovery), self._clock()
        if issuer.ring is not None and now - issuer.ring.fetched < self._times.fresh_s:
            return issuer.ring
        return await self._renew(discovery, issuer, self._pause(issuer))

    async def again(self, discovery: str, ring: Keyring) -> Keyring:
        """The keys after `ring`, which lacked one: newer ones, or the same if it is too early to ask again."""
        issuer = self._issuer(discovery)
        if issuer.ring is not None and issuer.ring is not ring:
            return issuer.ring
        return await self._renew(discovery, issuer, max(self._times.refetch_s, self._pause(issuer)))

    async def aclose(self) -> None:
        """End the fetches under way."""
        tasks = [issuer.task for issuer in self._issuers.values() if issuer.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _issuer(self, discovery: str) -> _Issuer:
        issuer = self._issuers.setdefault(discovery, _Issuer())
        self._issuers.move_to_end(discovery)
        while len(self._issuers) > self._size:
            self._issuers.popitem(last=False)
        return issuer

    def _pause(self, issuer: _Issuer) -> float:
        return min(self._times.backoff_s * 2 ** (issuer.failures - 1), _MAX_BACKOFF_S) if issuer.failures else 0.0

    async def _renew(self, discovery: str, issuer: _Issuer, pause: float) -> Keyring:
        if issuer.task is None and self._clock() - issuer.tried >= pause:
            issuer.tried = self._clock()
            issuer.task = asyncio.create_task(self._fetch(discovery))
            issuer.task.add_done_callback(lambda task: self._done(discovery, issuer, task))
        if issuer.task is not None:
            # `wait` leaves the task alone when a caller goes away: the fetch is everybody's
            await asyncio.wait([issuer.task])
        if issuer.ring is not None and self._clock() - issuer.ring.fetched < self._times.stale_s:
            return issuer.ring
        raise keys_unavailable()

    def _done(self, discovery: str, issuer: _Issuer, task: asyncio.Task[Keyring]) -> None:
        issuer.task = None
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            issuer.ring, issuer.failures = task.result(), 0
            return
        issuer.failures = min(issuer.failures + 1, 20)
        _log.warning("the keys of %s could not be fetched: %s", discovery, error)

    async def _fetch(self, discovery: str) -> Keyring:
        self.fetches += 1
        document = await self._fetcher.json(discovery)
        issuer, jwks_uri = document.get("issuer"), document.get("jwks_uri")
        if not isinstance(issuer, str) or not isinstance(jwks_uri, str):
            raise FetchError(f"{discovery} names no issuer or no jwks_uri.")
        split_https(issuer)
        found = (await self._fetcher.json(jwks_uri)).get("keys")
        keys = usable_keys(found) if isinstance(found, list) else ()
        if not keys:
            raise FetchError(f"{jwks_uri} holds no key that can verify a token.")
        return Keyring(issuer=issuer, keys=keys, fetched=self._clock())


def usable_keys(found: list[Any]) -> tuple[tuple[str, VerificationKey], ...]:
    """The keys of a JWKS that may verify tokens; what cannot be read is left out."""
    keys = []
    for entry in found[:_MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        operations = entry.get("key_ops", ["verify"])
        if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
            continue
        kid = entry.get("kid", "")
        try:
            # only what makes the public key: a private part, or a certificate, has no say
            public = {k: v for k, v in entry.items() if k in ("kty", "n", "e", "crv", "x", "y", "kid", "use", "alg")}
            key = JWKRegistry.import_key(public)
            if not isinstance(key, RSAKey | ECKey | OKPKey) or not isinstance(kid, str):
                continue
            if isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS:
                continue
            key.public_key  # noqa: B018 - reads the numbers: what is no key fails here, not at a token
        except (JoseError, ValueError, TypeError, KeyError, OverflowError) as error:
            _log.warning("a key of a JWKS cannot be read: %s", type(error).__name__)
            continue
        keys.append((kid, key))
    return tuple(keys)
