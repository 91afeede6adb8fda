"""Deadlines: which connections are overdue. One sweep a second over all of them, so no request pays for a timer.

What lives here: what each deadline means. What must not: their lengths (``wsgi.server.limits``), how a connection ends.
"""

from __future__ import annotations

from wsgi.server.connection import Connection
from wsgi.server.refusal import HttpError
from wsgi.server.states import BODY, CLOSING, HEAD, IDLE


def sweep(connection: Connection, clock: float) -> None:
    """End ``connection`` if it is overdue at ``clock`` (monotonic seconds)."""
    transport = connection.transport
    if transport is None or _writes(connection, clock):
        return
    limits = connection.server.limits
    age = clock - connection.since
    if connection.state == IDLE:
        if age > (connection.server.keepalive_seconds if connection.answered else limits.head_seconds):
            transport.close()
    elif connection.state == HEAD:
        if age <= limits.head_seconds:
            return
        if connection.inbox.partial:
            connection.fail(HttpError(408, f"the head took over {limits.head_seconds} s"))
        else:  # Empty lines are no request: nothing is to be answered.
            transport.close()
    elif connection.state == BODY:
        _sweep_body(connection, clock, age)
    elif connection.state == CLOSING and (
        age > limits.linger_idle_seconds or clock - connection.started > limits.linger_seconds
    ):
        transport.abort()


def _writes(connection: Connection, clock: float) -> bool:
    """Return whether an answer is still with the transport; reset the connection if the client takes none of it."""
    pending = connection.transport.get_write_buffer_size()
    if pending:
        if pending != connection.pending:
            connection.wrote = clock
        elif clock - connection.wrote > connection.server.limits.write_seconds:
            connection.transport.abort()
        if connection.state == CLOSING:  # Lingering begins when the answer is out.
            connection.since = connection.started = clock
    connection.pending = pending
    return bool(pending)


def _sweep_body(connection: Connection, clock: float, age: float) -> None:
    """A body that the server itself does not read on is not late."""
    if not connection.reading:
        return
    limits = connection.server.limits
    elapsed, least = clock - connection.started, limits.body_bytes_per_second_min
    if age > limits.body_idle_seconds:
        connection.fail(HttpError(408, f"no byte of the body for {limits.body_idle_seconds} s"))
    elif elapsed > limits.body_grace_seconds and connection.received < elapsed * least:
        connection.fail(HttpError(408, f"the body came at under {least} bytes a second"))
