"""What the pipeline asks of a receiver and of the sink.

What lives here: these interfaces, and the ticket of a request that holds nothing to store. What must not: code that
uses them (``wsgi.receivers.pipeline``).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from inlet.stream.errors import InletError
from inlet.stream.rejected import Rejected
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.refusals import Response
from wsgi.sink.durability import RECEIVED

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment


class Ticket(Protocol):
    """A request's place in the sink's batch."""

    level: int
    """What its 202 will promise (``wsgi.sink.durability``)."""

    def future(self, watch: Any) -> Any:
        """Return a future to wait for, of all requests that will share a commit. Waiting for it begins the commit."""

    def begin(self, watch: Any) -> Any:
        """Begin the commit, or go on with it, without waiting; ``watch`` is the server's ``phased.watch``.

        Returns a future to wait for; or None once the outcome is known, so that ``commit`` returns at once.
        """

    def commit(self) -> None:
        """Return once the records are as safe as that; raise SinkError where they may not be."""

    def addresses(self) -> Addresses:
        """Return the address of each record."""


class Address(Protocol):
    """Where a record is stored."""

    @property
    def entry_id(self) -> str:
        """ID of its entry; empty at the level ``received``."""

    @property
    def line(self) -> int:
        """Its line there, from 0."""

    @property
    def duplicate(self) -> bool:
        """Whether it was stored before, and so not again."""


Addresses = Sequence[Address]


class Append(Protocol):
    """The sink's: lines and level to a ticket. Never waits; raises SinkError with nothing kept."""

    def __call__(self, lines: list[bytes], level: int, destination: bytes | None = None, /) -> Ticket:
        """``destination``: the store key of a stream; None for the default."""


class Receiver(Protocol):
    """One wire protocol: a request to lines, and an outcome to that protocol's own answer.

    A receiver may also have ``codings``, a frozenset of lower-case names: its ``read`` and ``slices`` get a body with
    one of these as Content-Encoding as it came.
    """

    name: str
    """Label of its metrics, and its name in keys and in INLET_RECEIVERS."""
    methods: tuple[str, ...]
    """Methods that send records."""
    bytes_max: int
    """Bytes of a body, before and after decoding."""
    probed: bool
    """Whether GET and HEAD of its paths get a 200, for clients that look before they send."""
    receipts: bool
    """Whether a request may ask for a receipt (``wsgi.receivers.receipt``)."""
    addressed: bool
    """Whether ``accepted`` needs the addresses always."""
    partial: bool
    """Whether a request without a valid record is answered by ``accepted`` too: then ``Parsed`` may have no line."""

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a request, whose ``body`` is whole and not encoded, into lines; return None if that may take long.

        Raises InletError with a reason of ``wsgi.problems``; NothingAccepted for a bulk without a valid record.
        Keeps nothing, and leaves nothing that can fail to the answer.
        """

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work. Raises as ``read``."""

    def accepted(
        self, parsed: Parsed, level: int, addresses: Addresses | None
    ) -> Response | Generator[None, None, Response]:
        """Return the answer once the records are stored, in slices if it is long; ``addresses`` for a receipt."""

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the answer where nothing was stored, or nobody knows; ``error.reason`` is one of PROBLEMS.

        ``content_type``: the request's; empty if it has none, or nobody knows.
        """


class Keep(Protocol):
    """Keeps rejected records, and never waits."""

    def __call__(self, stream: bytes | None, receiver: str, rows: Sequence[Rejected], more: int = 0, /) -> None:
        """``stream``: the one that they were for; None for the default. ``more``: how many others there were."""


class _Nothing:
    """The Ticket of a request that holds no record to store."""

    level = RECEIVED

    def future(self, watch: Any) -> Any:
        raise NotImplementedError("there is nothing to wait for")

    def begin(self, watch: Any) -> Any:
        return None

    def commit(self) -> None:
        """Nothing to do."""

    def addresses(self) -> Addresses:
        return ()


NOTHING = _Nothing()
