"""Inlet's application over a sink with a bug, for the one status that nothing else can bring about."""

from __future__ import annotations

from typing import NoReturn

from inlet.stream.limits import RecordLimits
from wsgi.receivers.admission import OPEN
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import INGEST, create_app


def broken(*arguments: object) -> NoReturn:
    """Raise what no sink may raise."""
    raise RuntimeError("a bug of the test")


application = create_app(
    receivers={INGEST: Native(PayloadLimits(), RecordLimits())},
    append=broken,
    admission=OPEN,
    operator=Operator(broken),
)
