"""``python -m consumer``: see ``consumer.command.main``."""

from __future__ import annotations

import sys

from consumer.command.main import main

sys.exit(main(sys.argv[1:]))
