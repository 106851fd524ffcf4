"""``duologue demo``: a scripted caller phones an agent."""

from __future__ import annotations

from pathlib import Path


def demo(*, seed: int | None = None, out: Path = Path("demo")) -> int:
    """Hear an agent hold a conversation: a scripted caller phones it, on this machine alone.

    Parameters
    ----------
    seed
        Another seed, another call: other sentences, another voice, other times.
    out
        Directory for call.wav, call.jsonl and call.html.
    """
    from ..demo import main

    return main(out=out) if seed is None else main(seed=seed, out=out)
