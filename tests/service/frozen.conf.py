"""gunicorn.conf.py; and each worker logs how much is frozen, and whether the collector runs by itself."""

import gc
import runpy
from typing import Any

configured = {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
globals().update(configured)


def post_worker_init(worker: Any) -> None:
    """As configured, and log it."""
    configured["post_worker_init"](worker)
    worker.log.info("worker %d frozen %d", worker.pid, gc.get_freeze_count())
    if gc.isenabled():
        worker.log.info("collector enabled")
