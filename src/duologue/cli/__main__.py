"""``python -m duologue.cli``."""

import sys

from . import main

sys.exit(main())
