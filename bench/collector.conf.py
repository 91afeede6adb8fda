"""gunicorn.conf.py under another collector policy (COLLECTOR), for ``python -m bench.collector``."""

import gc
import os
import runpy
import time
from typing import Any

configured = {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
globals().update(configured)

POLICY = os.environ["COLLECTOR"]
_began = 0.0


def post_worker_init(worker: Any) -> None:
    """Install the policy, and what logs each collection."""

    def log(phase: str, info: dict[str, int]) -> None:
        global _began
        if phase == "start":
            _began = time.perf_counter()
        else:
            milliseconds = (time.perf_counter() - _began) * 1_000
            worker.log.info("collection %d took %.2f ms found %d", info["generation"], milliseconds, info["collected"])

    gc.callbacks.append(log)
    if POLICY == "configured":
        configured["post_worker_init"](worker)
    if POLICY == "automatic":
        gc.enable()
