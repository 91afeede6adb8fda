"""gunicorn.conf.py; but a worker that is forked while the file ``hold`` exists stops itself at once.

So it still has everything that it shares with its master, the lock of the data directory among it.
"""

import os
import runpy
import signal
from pathlib import Path
from typing import Any

configured = {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
globals().update(configured)


def post_fork(server: Any, worker: Any) -> None:
    """Stop where the test wants it, until it sends CONT."""
    if Path(os.environ["INLET_DATA_DIR"], "hold").exists():
        os.kill(os.getpid(), signal.SIGSTOP)
    configured["post_fork"](server, worker)
