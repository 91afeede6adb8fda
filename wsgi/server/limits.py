"""The server's limits: one frozen dataclass.

What lives here: every bound on time, memory and numbers that the server enforces, with its unit, its reason and what
happens past it. What must not: limits of the application, or gunicorn's own settings, which apply as gunicorn documents
them (``limit_request_line``, ``limit_request_fields``, ``limit_request_field_size``, ``keepalive``,
``graceful_timeout``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hold the limits of one worker process. Raises ValueError for one that is out of bounds or contradicts another."""

    payload_bytes_max: int = 8_388_608
    """Bytes of one body. Bodies are kept in memory until the application has read them. Over it: 413."""
    big_bytes: int = 16_384
    """Bytes of a body that still shares a turn. Larger bodies may cost the others milliseconds: they are slow work."""
    head_bytes_max: int = 65_536
    """Bytes of the request line and headers together. A head is parsed as a whole, so it is kept. Over it: 431."""
    unread_bytes_max: int = 65_536
    """Bytes buffered behind the current request (pipelining). Over it reading stops; one read may overshoot."""
    held_bytes_max: int = 268_435_456
    """Bytes of unfinished bodies in one worker. Over it they wait unread; if none can finish, the largest gets 503.
    One owner (``phased.owner``) may take half of it, but at least one body: over that only its own wait."""
    gather_bytes_max: int = 262_144
    """Bytes of a response gathered before its first write, and written per turn. The rest waits for the next turn."""
    connections_max: int = 16_384
    """Connections of one worker; each costs a descriptor and about 2 KiB. Over it they wait in the listen backlog."""
    accepts_per_poll: int = 4
    """Connections accepted between two reads. A small number leaves idle sibling processes their share of a burst."""
    balance_seconds: float = 0.002
    """Seconds for which a worker leaves a new connection to a sibling that has fewer, give or take a millisecond.
    Longer: more even where all cores are busy, but a longer wait where a sibling is stuck. 0: never."""
    head_seconds: float = 10
    """Seconds from accept to the first byte (over it: closed), and from there to the end of the head (over it: 408).
    With TLS the handshake may take as many before them (over it: reset)."""
    body_idle_seconds: float = 30
    """Seconds between two reads of a body. A phone's network may stall this long. Over it: 408."""
    body_grace_seconds: float = 10
    """Seconds a body may take at any rate, since a start may be slow. After it the rate below applies."""
    body_bytes_per_second_min: int = 1_024
    """Bytes per second of a body on average, about a modem's rate. Under it (after the grace): 408."""
    write_seconds: float = 30
    """Seconds in which the client takes no byte of its answer, which stays in memory. Over it: reset."""
    linger_seconds: float = 30
    """Seconds for which a closing connection drops what arrives, so that a client that sends on can read its answer
    instead of a reset. Over it the connection is reset."""
    linger_idle_seconds: float = 5
    """Seconds without a byte after which a closing connection is reset: the client has had time to read its answer."""
    collect_every_seconds: float = 10
    """Seconds between two garbage collections, which run between turns and only after requests. Longer: more memory."""
    drain_idle_seconds: float = 0.5
    """Seconds since its last answer for which a worker that ends keeps an idle connection open: a client that sends one
    request after the other gets an answer and a Connection: close. Later ones find it closed."""
    drain_margin_seconds: float = 1
    """Seconds by which a drain ends before gunicorn's graceful_timeout, at which the master kills the worker."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_ZERO else 1
            whole = isinstance(field.default, int) and not field.name.endswith("_seconds")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ValueError(f"{field.name}={value!r}: it must be {'an integer' if whole else 'a number'}")
            if not (math.isfinite(value) and least <= value <= LIMIT_MAX):
                raise ValueError(f"{field.name}={value!r}: it must be between {least} and {LIMIT_MAX}")
        if self.held_bytes_max < self.payload_bytes_max:
            raise ValueError(
                f"held_bytes_max={self.held_bytes_max}: it must be at least payload_bytes_max="
                f"{self.payload_bytes_max}, or a body of that size could never be received"
            )


LIMIT_MAX = 2**40
"""No limit may be larger (1 TiB; 34,000 years): a larger number is a typing error."""
_MAY_BE_ZERO = frozenset(
    ("balance_seconds", "big_bytes", "body_grace_seconds", "drain_idle_seconds", "drain_margin_seconds")
)
