"""Limits of a call on the monotonic clock: its length, and what happens when nobody says anything."""

from __future__ import annotations

from typing import Literal

import msgspec

Fired = Literal["going_away", "length", "idle_prompt", "idle_end"]


class LimitOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a session.

    Attributes:
        max_call_s: the call ends after this long; `notice_s` before that it says so.
        idle_s: silence of both after which the agent asks whether anybody is there; 0 never.
        idle_prompts: how often it asks before it hangs up.
        max_response_s: longest response, in seconds of audio; what exceeds it ends the response.
        queued_s: seconds of audio made ahead of playout at which generation is held back.
        queued_responses: responses waiting to be spoken; one more is refused.
        grace_s: how long a listener may be away before the call ends.
        upstream_s: seconds of user audio accepted ahead of real time before more is dropped (and counted).
        goodbye_s: longest time that a farewell may take to play out.
        untold_s: how long a session that everybody has left waits for somebody to tell of its long tool runs, once they are done.
        snapshot_turns: after so many turns the history is written into the journal anew, so that whoever takes the session
            over need not read all of it; 0 never. `snapshot_bytes` bounds it: what is older is summed up.
    """

    max_call_s: float = 8 * 3600.0
    notice_s: float = 60.0
    idle_s: float = 20.0
    idle_prompts: int = 2
    max_response_s: float = 180.0
    queued_s: float = 20.0
    queued_responses: int = 16
    grace_s: float = 30.0
    upstream_s: float = 30.0
    goodbye_s: float = 15.0
    untold_s: float = 900.0
    snapshot_turns: int = 20
    snapshot_bytes: int = 256 * 1024


class Limits:
    """Deadlines of one call. `now` is monotonic seconds."""

    def __init__(self, options: LimitOptions, now: float) -> None:
        self.options = options
        self._end = now + options.max_call_s
        self._notice = self._end - min(options.notice_s, options.max_call_s)
        self._noticed = False
        self._idle_since: float | None = now
        self._prompts = 0

    def busy(self) -> None:
        """Somebody speaks, or something is owed."""
        self._idle_since = None

    def active(self) -> None:
        """The user said something: patience begins anew."""
        self._idle_since = None
        self._prompts = 0

    def idle(self, now: float) -> None:
        """Nobody speaks and nothing is owed, since `now`."""
        if self._idle_since is None:
            self._idle_since = now

    def next_deadline(self) -> float:
        """When :meth:`wake` is due."""
        due = self._end if self._noticed else self._notice
        if self._idle_since is not None and self.options.idle_s > 0:
            due = min(due, self._idle_since + self.options.idle_s)
        return due

    def wake(self, now: float) -> list[Fired]:
        """What has come due at `now`."""
        fired: list[Fired] = []
        if not self._noticed and now >= self._notice:
            self._noticed = True
            fired.append("going_away")
        if now >= self._end:
            self._end = float("inf")
            fired.append("length")
        if self._idle_since is not None and self.options.idle_s > 0 and now >= self._idle_since + self.options.idle_s:
            self._idle_since = now
            self._prompts += 1
            fired.append("idle_prompt" if self._prompts <= self.options.idle_prompts else "idle_end")
        return fired
