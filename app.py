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
from wsgi.access.cors import Cors
from wsgi.access.keys import Keys
from wsgi.access.quotas import Quotas
from wsgi.receivers.admission import Admission
from wsgi.receivers.catalog import mount
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.sink.backpressure import Backpressure
from wsgi.sink.batches import Batches
from wsgi.sink.circuit import Circuit
from wsgi.sink.dedup import Dedup
from wsgi.sink.driver import Driver
from wsgi.sink.durability import LEVELS
from wsgi.sink.link import Link
from wsgi.sink.probe import Probe
from wsgi.sink.rejected import RejectedKeeper
from wsgi.sink.waits import Waits
from wsgi.sink.watcher import Watcher
from wsgi.store import keeper
from wsgi.store.disk import Reserve

settings = env.load(os.environ)
level = LEVELS[settings.durability]
quotas = Quotas()
keys = None if settings.keys_file is None else Keys(settings.keys_file, quotas.meter)
cors = Cors(settings.cors_origins)


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


def streams() -> list[str]:
    """Return every stream that records may go to now, the default one first."""
    return list(dict.fromkeys((settings.stream, *(keys.streams() if keys is not None else ()))))


def start(slot: int) -> None:
    """Start what runs beside the requests of a worker; ``slot``: a number that no other living worker has."""
    quotas.start(slot)
    if keys is not None:
        keys.look()  # What the master read may be older than a key that was revoked.
    watcher.start()
    if settings.keep is not None:
        keeper.start(settings.store_url, streams, settings.keep)


waits = Waits(replicas=settings.replicas, commit_timeout_ms=settings.commit_timeout_ms)
dedup = Dedup(settings.dedup_seconds) if settings.dedup_seconds else None
circuit = Circuit()
watcher = Watcher(
    Probe(
        driver(), waits, settings.stream, streams=streams, dedup=dedup,
        backlog=settings.backlog_max > 0, retention=settings.retention is not None,
    ),
    circuit,
    Backpressure(backlog_max=settings.backlog_max, memory_percent_max=settings.memory_percent_max),
    level=level,
    refill=None if settings.redis_url else Reserve(settings.data_dir, ahead=settings.fsync != "always").refill,
)
watcher.after_look(metrics.LATE.flush)
if keys is not None:
    watcher.after_look(keys.look)
batches = Batches(
    lambda level: Link(driver(), waits, level, dedup),
    circuit,
    watcher,
    settings.stream,
    level=level,
    entry_bytes_max=settings.entry_bytes_max,
    inflight_bytes_max=settings.inflight_bytes_max,
    inflight_requests_max=settings.inflight_requests_max,
    streams=streams,
)
keeps_rejected = settings.keep_rejected == "1"
open_receivers = mount(
    settings.open_receivers,
    Bounds(PayloadLimits(**chosen(PayloadLimits)), RecordLimits(**chosen(RecordLimits)), keeps_rejected),
)
application = create_app(
    receivers=open_receivers.receivers,
    pages=open_receivers.pages,
    append=batches.append,
    admission=Admission(cors.headers, cors.preflight, None if keys is None else keys.admit),
    operator=Operator(
        watcher.readiness,
        grant=None if keys is None else keys.grant,
        keys_broken=lambda: None if keys is None else keys.broken,
        refused=watcher.refused_streams,
        drops_unread=settings.retention is not None and settings.retention_unread == "drop",
    ),
    keep_rejected=RejectedKeeper(settings.store_url, settings.stream).keep if keeps_rejected else None,
    start=start,
)
