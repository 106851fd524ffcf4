"""Chance after a fork: what draws from it must not draw the same in every child."""

from __future__ import annotations

import os
import random
import sys
from typing import Any


def reseed() -> None:
    """Give this process randomness of its own, in every library that was imported and keeps state.

    `random` (its module-level generator), numpy's global generator, OpenSSL's pool, the node and clock of `uuid1`. Generators
    that an app made for itself at import are its own matter: make them in a session, or use `secrets`.
    """
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        numpy.random.seed(list(memoryview(os.urandom(32)).cast("I")))
    ssl: Any = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(48), 48.0)
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None
        uuid._node = None
