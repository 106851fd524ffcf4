"""What is open at a time, and how often: by address, by principal, by agent. Plain counts in one process."""

from __future__ import annotations

from collections import Counter, OrderedDict

from ..types import HostError, Identity, Route
from .limits import GatewayLimits

#: principals whose rate is remembered
_MOST = 10_000


class Addresses:
    """Connections that are not authenticated yet."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._by: Counter[str] = Counter()
        self.total = 0

    def enter(self, address: str) -> str:
        """Count one more; the reason if it may not be."""
        if self.total >= self._limits.unauthenticated:
            return "global"
        if self._by[address] >= self._limits.per_address:
            return "address"
        self._by[address] += 1
        self.total += 1
        return ""

    def leave(self, address: str) -> None:
        """One is authenticated, or gone."""
        self.total -= 1
        self._by[address] -= 1
        if not self._by[address]:
            del self._by[address]


class Spool:
    """Bytes of unverified bodies held in memory."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._by: Counter[str] = Counter()
        self.total = 0

    def take(self, address: str, amount: int) -> None:
        """Raises HostError 429 if there is no room."""
        room = self._limits.spool_bytes
        if self.total + amount > room or self._by[address] + amount > room // 4:
            raise HostError(
                429, "ThrottlingException", "Too many bodies wait for verification.", headers=(("Retry-After", "1"),)
            )
        self.total += amount
        self._by[address] += amount

    def give(self, address: str, amount: int) -> None:
        """Room again."""
        self.total -= amount
        self._by[address] -= amount
        if not self._by[address]:
            del self._by[address]


class Admitted:
    """Sockets and requests of those who may, by principal and by agent."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._open: Counter[tuple[str, str]] = Counter()
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def enter(self, identity: Identity, route: Route, now: float) -> tuple[tuple[str, str], ...]:
        """Count one more. Returns what `leave` takes. Raises HostError 429."""
        limits = self._limits
        principal = identity.principal.id
        self._rate(principal, now)
        keys = (("principal", principal), ("agent", f"{route.tenant}/{route.runtime}"))
        for key, most in zip(keys, (limits.per_principal, limits.per_agent), strict=True):
            if most and self._open[key] >= most:
                raise _throttled(f"Too many connections of this {key[0]}.")
        for key in keys:
            self._open[key] += 1
        return keys

    def leave(self, keys: tuple[tuple[str, str], ...]) -> None:
        """It ended."""
        for key in keys:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def _rate(self, principal: str, now: float) -> None:
        rate = self._limits.requests_per_s
        if not rate:
            return
        left, since = self._rates.pop(principal, (max(rate, 1.0), now))
        left = min(max(rate, 1.0), left + (now - since) * rate)
        self._rates[principal] = (left - 1 if left >= 1 else left, now)
        if len(self._rates) > _MOST:
            self._rates.popitem(last=False)
        if left < 1:
            raise _throttled("Rate exceeded.")


def _throttled(message: str) -> HostError:
    return HostError(429, "ThrottlingException", message, headers=(("Retry-After", "1"),))
