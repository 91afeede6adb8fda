"""gunicorn.conf.py, with deadlines for clients that are short enough for a test."""

import dataclasses
import runpy

from wsgi.worker import PhasedWorker

globals().update({name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"})

# Polite clients beside the rude ones have to keep them too, on a busy machine.
PhasedWorker.configure(
    limits=dataclasses.replace(PhasedWorker.limits, head_seconds=5, body_idle_seconds=5, body_grace_seconds=5)
)
