"""Admission: what is decided about a request before its body is read: its origin, its key, and the key's quotas.

What lives here: the order of these steps, and what they leave for later: the key's stream, its services, its quota of
records. What must not: how a key is found, what a quota is, which origins are allowed (``wsgi.access``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wsgi.problems import Headers

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment


class Meter(Protocol):
    """The quotas of one key. Each raises Denied (``quota-exceeded``), and has charged nothing then."""

    def peek(self, size: int, /) -> None:
        """Charge nothing, and refuse what ``admit`` would refuse."""

    def admit(self, size: int, /) -> None:
        """Charge one request with a body of ``size`` bytes."""

    def body(self, size: int, /) -> None:
        """Charge the bytes of a body whose length was not known before."""

    def records(self, count: int, /) -> None:
        """Charge the records of a request."""


class Grant(Protocol):
    """What a key permits."""

    @property
    def services(self) -> frozenset[bytes] | None:
        """Services whose records it may send, as ``inlet.stream.record.service_token`` gives them; None for all."""

    @property
    def stream(self) -> bytes | None:
        """Where its records go; None for the default stream."""

    @property
    def meter(self) -> Meter | None:
        """Its quotas, if it has any."""


class Admission(NamedTuple):
    """Who may send. Each part raises Denied.

    ``origin``: returns the fields (CORS) of every answer to a request that has an Origin. ``preflight``: returns those
    of the answer to a preflight, None for any other request. ``key``: finds the key of a request for a receiver, by
    name, and what it permits; None where no keys are required.
    """

    origin: Callable[[WSGIEnvironment], Headers]
    preflight: Callable[[WSGIEnvironment], Headers | None]
    key: Callable[[WSGIEnvironment, str], Grant] | None


OPEN = Admission(origin=lambda environ: [], preflight=lambda environ: None, key=None)
"""Anyone may send, and so may pages of every origin, which cannot read the answers."""
