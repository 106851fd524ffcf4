"""`python -m benchmarks.soak`"""

from __future__ import annotations

from benchmarks.soak import main

if __name__ == "__main__":
    raise SystemExit(main())
