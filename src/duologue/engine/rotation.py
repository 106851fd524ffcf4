"""When a session changes its connection to a model, and to which: planned rotation, recovery from loss, failover.

Make before break: the next connection is opened early, beside the one in use, and takes over at a quiet point. Providers
limit how long a connection lives; a planned rotation opens its successor `early_s` before that and is forced `force_s`
before it if nobody ever pauses. Opening times are spread by jitter, so that sessions which began together do not double a
provider's connection count together.

A lost connection is replaced at once, then with growing delays, within a budget; a provider whose attempts keep failing is
passed over for the next candidate, and so is one that takes connections only to drop them. What is not worth retrying
(credentials, a request refused as invalid) passes over at once. When all candidates have failed too often the session is told
that it is over. A successor that cannot be opened costs nothing while the connection in use lives.

===========  =============================================================================
STEADY       one connection, in use
OPENING      one in use, its successor is being opened
READY        one in use, its successor is open and waits for a quiet point
LOST         none in use; the next attempt is under way or waits for its time
OVER         given up, or closed
===========  =============================================================================
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

_FOREVER = float("inf")


class Phase(StrEnum):
    """See the module's table."""

    STEADY = "steady"
    OPENING = "opening"
    READY = "ready"
    LOST = "lost"
    OVER = "over"


class RotationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of rotation and recovery, in seconds.

    Attributes:
        early_s: how long before the end of a connection its successor is opened; `force_s`: when it takes over at the latest.
        jitter: share of `early_s` by which openings are spread.
        first_retry_s, most_retry_s: delay after the first failed attempt, doubled up to the other.
        attempts: failed attempts in a row at one candidate before the next one's turn, at the beginning of a session;
            `attempts_in_call`: the same when a connection was lost and there is another candidate; `budget` over all of
            them within `budget_s`.
        patience_s: longest wait for an attempt in mid-call while there is another candidate.
        cooldown_s: how long a candidate that was passed over is left alone (the circuit breaker).
        stable_s: a connection that lived for less counts as a failed attempt.
    """

    early_s: float = 60.0
    force_s: float = 12.0
    jitter: float = 0.25
    first_retry_s: float = 0.25
    most_retry_s: float = 4.0
    attempts: int = 3
    attempts_in_call: int = 1
    patience_s: float = 1.0
    budget: int = 12
    budget_s: float = 60.0
    cooldown_s: float = 30.0
    stable_s: float = 1.0


class Order(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """Base of what the rotation orders. `reason` is told to the application."""

    reason: str = ""


class Open(Order, frozen=True, kw_only=True, tag="open"):
    """Open a connection to candidate number `candidate`; give up after `patience_s`."""

    candidate: int
    patience_s: float = _FOREVER


class CutOver(Order, frozen=True, kw_only=True, tag="cut_over"):
    """The successor is the connection from now on: replay to it what the other did not answer, close the other."""

    forced: bool = False


class GiveUp(Order, frozen=True, kw_only=True, tag="give_up"):
    """No candidate can be reached: the session must end."""


AnyOrder = Open | CutOver | GiveUp


class Rotation:
    """The connection changes of one session. Pure: `now` is monotonic seconds, `dice` a number in [0, 1) for jitter."""

    def __init__(self, options: RotationOptions, candidates: int, dice: float = 0.5) -> None:
        self.options = options
        self.phase = Phase.LOST
        self.candidate = 0  # that the present or next attempt is for
        self.active = 0  # of the connection in use
        self.preferred = 0
        self._candidates = candidates
        self._dice = dice
        self._quiet = True
        self._owing = False
        self._in_call = False  # whether there was a connection already
        self._end = _FOREVER  # when the connection in use ends
        self._open_at = _FOREVER  # when its successor is opened
        self._force_at = _FOREVER  # when that takes over though the user speaks
        self._last_at = _FOREVER  # when it does though an answer is being made
        self._retry_at = _FOREVER
        self._attempts = 0  # failed ones in a row at `candidate`, while there is no connection
        self._standby_failures = 0  # failed openings of a successor in a row
        self._since = 0.0  # when the connection in use came into use
        self._failures: list[float] = []
        self._cooling: dict[int, float] = {}
        self._in_flight = False
        self._reason = "start"
        self._next_end = _FOREVER

    # ------------------------------------------------------------------ facts

    def start(self, now: float) -> list[Order]:
        """The session begins."""
        return self._attempt(now, "start")

    def opened(self, life_s: float | None, now: float) -> list[Order]:
        """The attempt under way has succeeded; the connection lives `life_s` (None: no limit known)."""
        if self.phase is Phase.OVER:
            return []
        self._in_flight = False
        self._next_end = _FOREVER if life_s is None else now + life_s
        if self.phase is Phase.LOST:
            return self._cut(now, forced=False)
        self.phase = Phase.READY
        return self._cut(now, forced=False) if self._quiet else []

    def failed(self, error: str, retryable: bool, now: float, *, elsewhere: bool = False) -> list[Order]:
        """The attempt under way has failed, or the successor that it opened is gone. `elsewhere`: it is no use trying again."""
        if self.phase is Phase.OVER:
            return []
        self._in_flight = False
        if self.phase in (Phase.OPENING, Phase.READY):
            return self._successor_failed(retryable, now)
        return self._setback(error, retryable, now, elsewhere=elsewhere)

    def lost(self, error: str, now: float, *, elsewhere: bool = False) -> list[Order]:
        """The connection in use is gone. `elsewhere`: its provider has stalled, and is passed over if there is another."""
        if self.phase is Phase.OVER:
            return []
        if self.phase is Phase.READY:
            self._count_failure(now)
            return self._cut(now, forced=True, reason=f"lost: {error}")
        opening = self.phase is Phase.OPENING
        self.phase = Phase.LOST
        self._reason = f"lost: {error}"
        self._end = self._open_at = _FOREVER
        if opening and self._in_flight:
            self._count_failure(now)
            return []  # its successor is on the way already
        self.candidate = self.active
        if now - self._since < self.options.stable_s:
            return self._setback(error, True, now, elsewhere=elsewhere)
        self._attempts = 0
        if elsewhere and self._others(now):
            return self._setback(error, True, now, elsewhere=True)
        self._count_failure(now)
        if self._over_budget:
            return self._give_up(self._budget_reason(error))
        return self._attempt(now, self._reason)

    def ending(self, in_s: float, now: float) -> list[Order]:
        """The provider says that the connection in use ends in `in_s` seconds."""
        self._end = min(self._end, now + in_s)
        self._force_before(min(self.options.force_s, in_s / 4))
        if self.phase is Phase.STEADY:
            self._reason = "going away"
            return self._open_successor(now)
        return []

    def renew(self, reason: str, now: float) -> list[Order]:
        """Rotate now, for a reason of the application's: changed tools or voice, or the return to another candidate."""
        if self.phase in (Phase.STEADY, Phase.OPENING, Phase.READY):
            # A successor that is opened or being opened does not know of it: another is opened in its place.
            self._reason = reason
            return self._open_successor(now)
        return []

    def prefer(self, candidate: int, now: float) -> list[Order]:
        """Go (back) to this candidate by a planned rotation."""
        self.preferred = candidate
        self._cooling.pop(candidate, None)
        if self.candidate == candidate and (self.active == candidate or self._in_flight):
            return []
        self.candidate = candidate
        return self.renew(f"to candidate {candidate}", now)

    def quiet(self, quiet: bool, now: float, *, owing: bool = False) -> list[Order]:
        """Whether this is a point at which a change would not be noticed, and whether an answer is being made."""
        self._quiet, self._owing = quiet, owing
        if self.phase is Phase.READY:
            if quiet:
                return self._cut(now, forced=False)
            if now >= self._due():
                return self._cut(now, forced=True)
        return []

    def wake(self, now: float) -> list[Order]:
        """The deadline of :meth:`next_deadline` has come."""
        if self.phase is Phase.LOST and not self._in_flight and now >= self._retry_at:
            return self._attempt(now, self._reason)
        if self.phase is Phase.STEADY and now >= self._open_at:
            self._reason = "planned"
            return self._open_successor(now)
        if self.phase is Phase.READY and now >= self._due():
            return self._cut(now, forced=True)
        return []

    def close(self) -> None:
        """The session is over."""
        self.phase = Phase.OVER

    def next_deadline(self) -> float:
        """When :meth:`wake` is due."""
        if self.phase is Phase.LOST:
            return _FOREVER if self._in_flight else self._retry_at
        if self.phase is Phase.STEADY:
            return self._open_at
        if self.phase is Phase.READY:
            return self._due()
        return _FOREVER

    # ------------------------------------------------------------------ steps

    def _successor_failed(self, retryable: bool, now: float) -> list[Order]:
        """The connection in use still works: try again before it ends, without hurry, elsewhere if that is better."""
        self.phase = Phase.STEADY
        self._standby_failures += 1
        if not retryable or self._standby_failures >= self.options.attempts:
            self._cooling[self.candidate] = now + (self.options.cooldown_s if retryable else _FOREVER)
            following = self._available(now)
            self.candidate = self.active if following is None else following
            if self._end == _FOREVER:
                # Nothing forces a change: what was wished for cannot be had, and what there is stays.
                self.candidate = self.active
                self._standby_failures = 0
                self._open_at = _FOREVER
                return []
        left = self._end - now
        self._open_at = now + max(self.options.first_retry_s, min(self.options.most_retry_s, left / 4))
        return []

    def _due(self) -> float:
        """When the successor takes over at the latest. What the user says is replayed to it; what is answered is cut off."""
        return self._last_at if self._owing else self._force_at

    def _force_before(self, margin: float) -> None:
        self._force_at = self._end - margin
        self._last_at = self._end - margin / 4

    def _setback(self, error: str, retryable: bool, now: float, *, elsewhere: bool = False) -> list[Order]:
        """There is no connection, and an attempt has failed."""
        self._attempts += 1
        self._count_failure(now)
        if self._over_budget:
            return self._give_up(self._budget_reason(error))
        delay = min(self.options.most_retry_s, self.options.first_retry_s * 2 ** (self._attempts - 1))
        others = self._others(now)
        most = self.options.attempts_in_call if self._in_call and others else self.options.attempts
        if not retryable or self._attempts >= most or (elsewhere and others):
            self._cooling[self.candidate] = now + (self.options.cooldown_s if retryable else _FOREVER)
            self._attempts = 0
            following = self._available(now)
            if following is not None:
                self.candidate = following
                return self._attempt(now, f"failover: {error}")
            hopeful = [(self._cooling.get(one, 0.0), one) for one in range(self._candidates)]
            until, self.candidate = min(hopeful)
            if until == _FOREVER:
                return self._give_up(error)
            delay = self.options.most_retry_s  # all are to be left alone, but somebody is on the line
        self._retry_at = now + delay * (0.75 + 0.5 * self._dice)
        return []

    def _count_failure(self, now: float) -> None:
        self._failures = [at for at in self._failures if now - at < self.options.budget_s] + [now]

    @property
    def _over_budget(self) -> bool:
        return len(self._failures) >= self.options.budget

    def _budget_reason(self, error: str) -> str:
        return f"{len(self._failures)} failures within {self.options.budget_s:g} s: {error}"

    def _attempt(self, now: float, reason: str) -> list[Order]:
        self._in_flight = True
        self._reason = reason
        self._retry_at = _FOREVER
        hurry = self._in_call and self._others(now)
        return [
            Open(candidate=self.candidate, reason=reason, patience_s=self.options.patience_s if hurry else _FOREVER)
        ]

    def _others(self, now: float) -> bool:
        """Whether there is another candidate that may be tried."""
        return any(self._cooling.get(one, 0.0) <= now for one in range(self._candidates) if one != self.candidate)

    def _open_successor(self, now: float) -> list[Order]:
        self.phase = Phase.OPENING
        self._in_flight = True
        self._open_at = _FOREVER
        return [Open(candidate=self.candidate, reason=self._reason)]

    def _cut(self, now: float, *, forced: bool, reason: str = "") -> list[Order]:
        self.phase = Phase.STEADY
        self.active = self.candidate
        self._in_call = True
        self._since = now
        self._standby_failures = 0
        self._end = self._next_end
        early = self.options.early_s * (1.0 + self.options.jitter * self._dice)
        # A short life (tests, strict providers) leaves at least half of it to be used.
        life = self._end - now
        self._open_at = self._end - min(early, life / 2) if self._end < _FOREVER else _FOREVER
        self._force_before(min(self.options.force_s, life / 8))
        return [CutOver(forced=forced, reason=reason or self._reason)]

    def _available(self, now: float) -> int | None:
        for step in range(1, self._candidates + 1):
            candidate = (self.candidate + step) % self._candidates
            if self._cooling.get(candidate, 0.0) <= now:
                return candidate
        return None

    def _give_up(self, error: str) -> list[Order]:
        self.phase = Phase.OVER
        return [GiveUp(reason=error)]
