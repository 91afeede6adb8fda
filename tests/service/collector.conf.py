"""gunicorn.conf.py with a collection each second, each of which logs whether it ran inside a turn or a request."""

import dataclasses
import gc
import runpy
import sys
from types import FrameType
from typing import Any

from wsgi.worker import PhasedWorker

REQUEST_MODULES = ("wsgi.server.turn", "wsgi.server.connection", "wsgi.receivers", "wsgi.sink")
"""Modules (and packages) whose code runs for a request."""

configured = {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
globals().update(configured)
PhasedWorker.configure(limits=dataclasses.replace(PhasedWorker.limits, collect_every_seconds=1))


def post_worker_init(worker: Any) -> None:
    """As configured, and log each collection."""
    configured["post_worker_init"](worker)

    def log(phase: str, info: dict[str, int]) -> None:
        frame: FrameType | None = sys._getframe()
        inside = False
        while frame is not None:
            inside = inside or str(frame.f_globals.get("__name__")).startswith(REQUEST_MODULES)
            frame = frame.f_back
        if phase == "start":
            worker.log.info("a collection %s", "INSIDE a turn" if inside else "between turns")

    gc.callbacks.append(log)
