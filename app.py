"""Composition root: settings -> sink -> ``application``. Opens no socket; run it with any WSGI server.

gunicorn app:application
"""

from __future__ import annotations

import os
from dataclasses import fields

from wsgi import settings as env
from wsgi.payload import PayloadLimits, parser
from wsgi.record import RecordLimits
from wsgi.routes import create_app
from wsgi.sink import Sink

settings = env.load(os.environ)

application = create_app(
    Sink(
        env.store_url(settings),
        settings.stream,
        entry_bytes_max=settings.entry_bytes_max,
        connect_timeout_ms=settings.connect_timeout_ms,
        commit_timeout_ms=settings.commit_timeout_ms,
    ),
    parser(
        PayloadLimits(**{field.name: getattr(settings, field.name) for field in fields(PayloadLimits)}),
        RecordLimits(**{field.name: getattr(settings, field.name) for field in fields(RecordLimits)}),
    ),
    payload_bytes_max=settings.payload_bytes_max,
)
