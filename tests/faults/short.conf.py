"""gunicorn.conf.py, with deadlines for clients that are short enough for a test."""

import runpy

from wsgi.worker import PhasedWorker

globals().update({name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"})

PhasedWorker.configure(head_seconds=1, body_idle_seconds=1, body_grace_seconds=2)
worker_class = "wsgi.worker.PhasedWorker"
