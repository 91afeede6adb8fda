"""Composition root: settings -> sink and receivers -> ``application``. Opens no socket; run it with any WSGI server.

gunicorn app:application
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from inlet.stream.limits import RecordLimits
from wsgi import metrics
from wsgi import settings as env
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.routes import INGEST, create_app
from wsgi.sink.backpressure import Backpressure
from wsgi.sink.batches import Batches
from wsgi.sink.circuit import Circuit
from wsgi.sink.driver import Driver
from wsgi.sink.durability import LEVELS
from wsgi.sink.link import Link
from wsgi.sink.probe import Probe
from wsgi.sink.waits import Waits
from wsgi.sink.watcher import Watcher
from wsgi.store.disk import Reserve

settings = env.load(os.environ)
level = LEVELS[settings.durability]


def driver() -> Driver:
    """Return a connection to the store, not yet opened: one for each level's commits, one for the watcher."""
    return Driver(
        settings.store_url,
        connect_timeout_ms=settings.connect_timeout_ms,
        commit_timeout_ms=settings.commit_timeout_ms,
    )


def chosen(limits: type[Any]) -> dict[str, int]:
    """Return the settings that a dataclass of limits has fields for."""
    return {field.name: getattr(settings, field.name) for field in fields(limits)}


waits = Waits(replicas=settings.replicas, commit_timeout_ms=settings.commit_timeout_ms)
circuit = Circuit()
watcher = Watcher(
    Probe(driver(), waits, settings.stream, backlog=settings.backlog_max > 0, retention=settings.retention is not None),
    circuit,
    Backpressure(backlog_max=settings.backlog_max, memory_percent_max=settings.memory_percent_max),
    level=level,
    refill=None if settings.redis_url else Reserve(settings.data_dir, ahead=settings.fsync != "always").refill,
)
watcher.after_look(metrics.LATE.flush)
batches = Batches(
    lambda level: Link(driver(), waits, level),
    circuit,
    watcher,
    settings.stream,
    level=level,
    entry_bytes_max=settings.entry_bytes_max,
    inflight_bytes_max=settings.inflight_bytes_max,
    inflight_requests_max=settings.inflight_requests_max,
)
application = create_app(
    receivers={INGEST: Native(PayloadLimits(**chosen(PayloadLimits)), RecordLimits(**chosen(RecordLimits)))},
    append=batches.append,
    readiness=watcher.readiness,
    start=watcher.start,
    payload_bytes_max=settings.payload_bytes_max,
    drops_unread=settings.retention is not None and settings.retention_unread == "drop",
)
