"""``python -m inlet``: see ``inlet.command.main``."""

from __future__ import annotations

import sys

from inlet.command.main import main

sys.exit(main())
