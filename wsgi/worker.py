"""The published import path of the phased worker: ``gunicorn -k wsgi.worker.PhasedWorker``. Nothing else lives here."""

from __future__ import annotations

from wsgi.server.worker import PhasedWorker

__all__ = ["PhasedWorker"]
