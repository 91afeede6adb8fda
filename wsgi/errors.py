"""The whole exception tree: every failure Inlet can name, with its reason slug, HTTP status and retryability.

What lives here: classes and their constants. What must not: HTTP rendering (``routes`` owns the one table from error
to response) and anything that imports another Inlet module.

Whose fault it is decides the branch: ``ClientError`` is the producer's to mend, ``SinkError`` the operator's or the
store's, ``SettingsError`` whoever wrote the environment, ``StoreError`` the machine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class InletError(Exception):
    """Root of the tree. ``detail`` is one plain sentence for a person; it never quotes untrusted bytes raw."""

    reason: ClassVar[str] = "internal"
    """Stable slug; the problem document, the log line and the metric label carry this same word."""
    status: ClassVar[int] = 500
    """HTTP status code (RFC 9110 section 15)."""
    retryable: ClassVar[bool] = False
    """Whether sending the same request again can help."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SettingsError(InletError):
    """The environment is wrong: one line that names the variable, its value and the mend. Start-up only."""

    reason = "settings"


class StoreError(InletError):
    """The embedded store cannot be started, or its data directory is in use. Start-up only."""

    reason = "store"


class ClientError(InletError):
    """The request is wrong; sending it again unchanged cannot help."""

    reason = "bad-request"
    status = 400


class MalformedPayload(ClientError):
    """The body is not JSON (RFC 8259) or not a body at all: empty, truncated, not UTF-8, nested too deep."""

    reason = "malformed-payload"


class PayloadTooLarge(ClientError):
    """Body bytes, decoded bytes or records of a bulk over their bound."""

    reason = "payload-too-large"
    status = 413


class UnsupportedMediaType(ClientError):
    """Content-Type that Inlet does not read."""

    reason = "unsupported-media-type"
    status = 415


class UnsupportedContentEncoding(ClientError):
    """Content-Encoding other than gzip, deflate, zstd or identity (RFC 9110 section 8.4)."""

    reason = "unsupported-content-encoding"
    status = 415


class LengthRequired(ClientError):
    """A body whose end cannot be known (RFC 9110 section 15.5.12)."""

    reason = "length-required"
    status = 411


class RequestTimeout(ClientError):
    """The body did not arrive in time (RFC 9110 section 15.5.9)."""

    reason = "request-timeout"
    status = 408
    retryable = True


class RecordInvalid(ClientError):
    """One record breaks the record contract (docs/protocol.md); the others of its bulk are not affected."""

    reason = "invalid-record"
    status = 422


class RecordTooLarge(RecordInvalid):
    """One record over ``INLET_RECORD_BYTES_MAX``, or one member over its bound."""

    reason = "record-too-large"


class NothingAccepted(ClientError):
    """A bulk in which no record is valid. ``rejections``: ``payload.Rejection``s, one a record, in order."""

    reason = "nothing-accepted"
    status = 422

    def __init__(self, detail: str, rejections: Sequence[object] = ()) -> None:
        super().__init__(detail)
        self.rejections = rejections


class SinkError(InletError):
    """The records may not be stored; nothing was answered 2xx."""

    reason = "sink"
    status = 503
    retryable = True

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        """Seconds after which sending again may help, at the earliest."""


class SinkUnavailable(SinkError):
    """The store is away or refuses for a passing cause (connection, LOADING, OOM, READONLY, MISCONF, ...)."""

    reason = "sink-unavailable"


class SinkOutcomeUnknown(SinkUnavailable):
    """The XADD left and no reply came: the records may be stored. Retry with the same ``event_id``s."""

    reason = "sink-outcome-unknown"


class SinkMisconfigured(SinkError):
    """The store refuses for a cause that only the operator can mend (NOAUTH, NOPERM, WRONGTYPE, unknown command)."""

    reason = "sink-misconfigured"


class DurabilityTimeout(SinkError):
    """The records are in the store, but not in time as safe as was promised. They may be stored twice by a retry."""

    reason = "durability-timeout"


class DurabilityUnavailable(SinkMisconfigured):
    """The store cannot reach the level at all: no append-only file, or older than WAITAOF (Redis 7.2)."""

    reason = "durability-unavailable"


class BacklogFull(SinkError):
    """Consumers are too far behind (``INLET_BACKLOG_MAX``). Nothing was stored."""

    reason = "backlog-full"
    status = 429


class StoreFull(SinkError):
    """The store's memory is nearly used up (``INLET_MEMORY_PERCENT_MAX``). Nothing was stored."""

    reason = "store-full"


class Overloaded(SinkError):
    """This worker has too much in hand. Nothing was stored."""

    reason = "overloaded"


class DurabilityUnknown(ClientError):
    """``Inlet-Durability`` names no level."""

    reason = "unknown-durability"
