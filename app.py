"""Composition root: settings -> sink -> ``application``. Opens no socket; run it with any WSGI server.

gunicorn app:application
"""

from __future__ import annotations

import os
from dataclasses import fields

from wsgi import settings as env
from wsgi.backpressure import Backpressure
from wsgi.durability import LEVELS
from wsgi.link import Link
from wsgi.payload import PayloadLimits, parser
from wsgi.record import RecordLimits
from wsgi.routes import create_app
from wsgi.sink import Sink

settings = env.load(os.environ)


def link() -> Link:
    """A connection to the store, not yet opened."""
    return Link(
        env.store_url(settings),
        settings.stream,
        connect_timeout_ms=settings.connect_timeout_ms,
        commit_timeout_ms=settings.commit_timeout_ms,
        replicas=settings.replicas,
    )


application = create_app(
    Sink(
        link(),
        link(),
        Backpressure(backlog_max=settings.backlog_max, memory_percent_max=settings.memory_percent_max),
        level=LEVELS[settings.durability],
        entry_bytes_max=settings.entry_bytes_max,
        inflight_bytes_max=settings.inflight_bytes_max,
        inflight_requests_max=settings.inflight_requests_max,
        sample_backlog=settings.backlog_max > 0,
        sample_retention=settings.retention is not None,
    ),
    parser(
        PayloadLimits(**{field.name: getattr(settings, field.name) for field in fields(PayloadLimits)}),
        RecordLimits(**{field.name: getattr(settings, field.name) for field in fields(RecordLimits)}),
    ),
    payload_bytes_max=settings.payload_bytes_max,
    drops_unread=settings.retention is not None and settings.retention_unread == "drop",
)
