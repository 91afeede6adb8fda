"""gunicorn.conf.py with a collection each second, each of which tells whether it ran inside a turn or a request."""

import gc
import runpy
import sys
from types import FrameType
from typing import Any

from wsgi.worker import PhasedWorker

configured = {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
globals().update(configured)
PhasedWorker.configure(collect_every_seconds=1)


def post_worker_init(worker: Any) -> None:
    """As configured, and tell."""
    configured["post_worker_init"](worker)

    def tell(phase: str, info: dict[str, int]) -> None:
        frame: FrameType | None = sys._getframe()
        inside = False
        while frame is not None:
            inside = inside or frame.f_code.co_name in ("turn", "on_post", "answer")
            frame = frame.f_back
        if phase == "start":
            worker.log.info("a collection %s", "INSIDE a turn" if inside else "between turns")

    gc.callbacks.append(tell)
