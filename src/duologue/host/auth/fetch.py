"""Fetching a small JSON document over https from a host that a configuration names.

Whoever may deploy may name any URL; the host must not become their way into its own network. So: https only, no
redirects, no proxies, every address that the name resolves to must be public and the connection goes to an address that
was checked (the name is not resolved a second time), a byte limit, and a deadline over all of it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from ...errors import DuologueError

MAX_BYTES = 262_144
DEADLINE_S = 5.0


class FetchError(DuologueError):
    """A document could not be had. The message is for the host's log, not for callers."""

    code = "fetch"
    retryable = True


class Fetcher:
    """Fetches JSON objects.

    Args:
        tls: the context that checks certificates; the system's authorities if not given.
        private_addresses: whether loopback and private networks may be asked (an identity provider in one's own network).
        deadline_s: seconds for one document, name resolution and handshake included.
        max_bytes: longest body.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        private_addresses: bool = False,
        deadline_s: float = DEADLINE_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._tls = tls or ssl.create_default_context()
        self._private = private_addresses
        self._deadline_s = deadline_s
        self._max_bytes = max_bytes

    async def json(self, url: str) -> dict[str, Any]:
        """The JSON object at `url`.

        Raises:
            FetchError: whatever went wrong.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await self._get(url)
        except (TimeoutError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise FetchError(f"{url} could not be fetched: {type(error).__name__} {error}.") from error
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise FetchError(f"{url} is no JSON.") from error
        if not isinstance(found, dict):
            raise FetchError(f"{url} is no JSON object.")
        return found

    async def _get(self, url: str) -> bytes:
        host, port, target = split_https(url)
        addresses = await self._addresses(host, port)
        timeout = httpx.Timeout(self._deadline_s, connect=self._deadline_s / len(addresses))
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout
        ) as http:
            for address in addresses[:-1]:
                try:
                    return await self._ask(http, url, host, port, target, address)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
            return await self._ask(http, url, host, port, target, addresses[-1])

    async def _ask(self, http: httpx.AsyncClient, url: str, host: str, port: int, target: str, address: str) -> bytes:
        name = f"[{host}]" if ":" in host else host
        headers = {"host": name if port == 443 else f"{name}:{port}", "accept": "application/json"}
        at = f"https://[{address}]:{port}{target}" if ":" in address else f"https://{address}:{port}{target}"
        # the connection goes to the address that was checked; certificate and SNI are the name's
        async with http.stream("GET", at, headers=headers, extensions={"sni_hostname": host}) as answer:
            if answer.status_code != 200:
                raise FetchError(f"{url} answered {answer.status_code}.", hint="Redirects are not followed.")
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > self._max_bytes:
                    raise FetchError(f"{url} is longer than {self._max_bytes} bytes.")
            return bytes(body)

    async def _addresses(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:4]
        if not addresses:
            raise FetchError(f"{host} has no address.")
        for address in addresses:
            if not self._private and not public(address):
                raise FetchError(f"{host} resolves to {address}, which is not public.")
        return addresses


def public(address: str) -> bool:
    """Whether an address is on the public internet; those that carry another inside are judged by it."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def split_https(url: str) -> tuple[str, int, str]:
    """Host, port and target of an https URL.

    Raises:
        FetchError: it is another scheme, has no host, or carries a user or fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise FetchError("The URL cannot be read.") from None
    if (
        parts.scheme != "https"
        or not parts.hostname
        or parts.username is not None
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise FetchError("The URL must be https, with a host, without user and fragment.")
    return parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
