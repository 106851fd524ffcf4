"""Counts of what the gateway did and refused; names are stable, values only grow."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Counts by name.

    Names: ``accepted``, ``requests.KIND``, ``sockets``, ``refused.STATUS.TYPE`` (answers before anything reached an agent),
    ``dropped.REASON`` (connections cut without an answer), ``closed.CODE`` (sockets closed by the gateway),
    ``failed.424`` (after bytes had reached an agent), ``failed.link.REASON`` (links to workers that broke, with the codes of
    `duologue.wire.hostlink.LinkError`; ``told``: the worker gave it up; ``lost``: it ended without a word).
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Count."""
        self._counts[name] += amount

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def snapshot(self) -> dict[str, int]:
        """All counts by name."""
        return dict(sorted(self._counts.items()))
