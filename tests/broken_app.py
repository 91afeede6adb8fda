"""Inlet's app over a sink with a bug, for the one status that nothing else can bring about."""

from __future__ import annotations

from wsgi.payload import PayloadLimits, parser
from wsgi.record import RecordLimits
from wsgi.resources import Ticket
from wsgi.routes import create_app


class BrokenSink:
    """Raises what no sink may raise."""

    def append(self, lines: list[bytes], level: int) -> Ticket:
        """Fail."""
        raise RuntimeError("a bug of the test")

    def check(self) -> None:
        """Fail."""
        raise RuntimeError("a bug of the test")


application = create_app(BrokenSink(), parser(PayloadLimits(), RecordLimits()), payload_bytes_max=1_000_000)
