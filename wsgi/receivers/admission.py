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

ADMITTED = "inlet.admitted"
"""Environ key: the Answer of a request that was admitted before its body arrived."""
OWNER, UNFINISHED = "phased.owner", "phased.unfinished"
"""Environ keys for the server: whom a body belongs to, and what is called if it is never complete (docs/design.md)."""


class Meter(Protocol):
    """The quotas of one key. Each but ``spent`` raises Denied (``quota-exceeded``)."""

    def admit_one(self, size: int, /) -> None:
        """Charge one request of one record with a body of ``size`` bytes, or nothing if it raises."""

    def body(self, size: int, /) -> None:
        """Charge the bytes of a body whose length was not known before, also if it raises."""

    def spent(self, size: int, /) -> None:
        """Charge the bytes of such a body that nothing became of. Never raises."""

    def rest(self, count: int, /) -> None:
        """Charge a request's ``count`` records, of which ``admit_one`` has charged one; none of them if it raises."""


class Grant(Protocol):
    """What a key permits."""

    @property
    def key(self) -> str:
        """Its id, to which memory is accounted."""

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
