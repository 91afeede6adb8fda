"""What the loads send: records, and the requests that carry them, made once from a fixed seed.

What lives here: content. Two kinds of it: fixed (``467b``, the article's record over and over) and varied (no two
requests alike). What must not: sending (``bench.load``, ``bench.openloop``), which peer takes what (``bench.plan``).

Every peer is sent the same bytes, in the same order. There are more distinct requests than any cache of heads can hold,
so that cycling through them is as good as never repeating one.
"""

from __future__ import annotations

import gzip
import json
import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import zstandard

PAYLOAD_BYTES = 467
"""The article's payload: one record with ten metadata pairs."""
BULK_RECORDS = 100
BIG_BULK_BYTES = 5_000_000
"""Bytes of the bulks of the mixed load, within a few percent."""
VARIED_RECORDS = 20_000
"""Distinct records, and as many distinct requests of one record: twice what the largest cache of a peer may hold."""
SEED = 11
MESSAGE_CHARACTERS = (20, 1_200)
PAIRS_MAX = 10
USER_AGENTS = 50
UNICODE_SHARE, ESCAPES_SHARE, ASCII_SHARE = 0.06, 0.12, 0.25
"""Of the messages: with words beyond ASCII; with quotes, backslashes or line breaks; of the records: sent by a client
that writes everything beyond ASCII as an escape, as Python's ``json`` does."""
GZIP_LEVEL = 6
ZSTD_LEVEL = 3
"""The defaults of gzip(1) and zstd(1), which log shippers keep."""

FIXED, VARIED, GZIP, ZSTD = "467b", "varied", "gzip", "zstd"
JSON_TYPE, NDJSON_TYPE = "application/json", "application/x-ndjson"

Request = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers, body."""


FRESH = b"fresh-digits"
"""Stands in a request of fresh traffic where the generator puts as many digits that it never uses twice."""


@dataclass(frozen=True)
class Traffic:
    """Requests, each as the bytes of HTTP/1.1, to be sent in turn and over again; ``records`` of each one.

    ``fresh``: each has FRESH in it once, to be replaced whenever it is sent.
    """

    requests: tuple[bytes, ...]
    records: int = 1
    fresh: bool = False


def raw(request: Request) -> bytes:
    """Return the bytes of a request (HTTP/1.1, kept alive)."""
    method, path, headers, body = request
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    host = "" if "Host" in headers else "Host: bench\r\n"
    return f"{method} {path} HTTP/1.1\r\n{host}{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def traffic_of(given: Request | Traffic) -> Traffic:
    """Return what is given as traffic; one request is sent over and over."""
    return given if isinstance(given, Traffic) else Traffic((raw(given),))


def write(requests: Iterable[bytes], path: Path) -> None:
    """Write the file that the generators read: for each request its length in decimal, a newline, and its bytes."""
    with path.open("wb") as file:
        for request in requests:
            file.write(b"%d\n" % len(request))
            file.write(request)


def payload() -> bytes:
    """Return the article's record, of exactly PAYLOAD_BYTES bytes."""
    metadata = {
        "region": "eu-central-1",
        "zone": "eu-central-1b",
        "host": "ip-10-0-42-17",
        "pod": "checkout-7d9f8c6b5-x2x9k",
        "version": "2025.11.3",
        "env": "production",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "user_id": "u-8812930",
        "tenant": "acme",
    }
    record = {
        "event_id": "0192f3c4-7b1e-7c3a-9d7e-2f6b8a4c1d05",
        "timestamp": "2025-11-03T14:07:31.482917Z",
        "service": "checkout",
        "message": "",
        "metadata": metadata,
    }
    text = "payment authorised for order 5591-20331 in 183 ms "
    missing = PAYLOAD_BYTES - len(json.dumps(record, separators=(",", ":")))
    record["message"] = (text * 9)[:missing]
    body = json.dumps(record, separators=(",", ":")).encode()
    assert len(body) == PAYLOAD_BYTES
    return body


SERVICES = (
    "checkout", "cart", "search", "payments", "inventory", "gateway", "auth", "mailer", "recommendations", "ledger",
    "shipping", "catalog", "sessions", "notifications", "exports", "fraud-scoring", "pricing", "geo", "media", "admin",
)  # fmt: skip
_TEXT = (
    "payment authorised for order retrying upstream timeout after ms connection reset by peer cache miss user logged "
    "in session expired GET /v2/items/ 200 504 warning slow query rows scanned lock wait deadlock detected rolled back "
    "job scheduled worker started stopped shard rebalanced token refreshed invalid signature quota exceeded batch"
)
_WORDS = _TEXT.split()
_BEYOND_ASCII = ("Zürich", "naïve", "überprüft", "São Paulo", "café", "東京", "заказ", "→", "✓", "🚚", "Ελλάδα")
_ESCAPED = (
    '"quoted"',
    "C:\\temp\\a.log",
    "line\nbreak",
    "tab\tstop",
    '{"nested":true}',
    "\n\tat Main.run(Main.java:42)",
)
_KEYS = (
    "region", "zone", "host", "pod", "version", "env", "trace_id", "span_id", "user_id", "tenant", "http.method",
    "http.status_code", "http.route", "duration_ms", "thread", "logger", "level", "build", "customer", "order_id",
)  # fmt: skip
_FEW = {
    "env": ("production", "staging", "canary"),
    "level": ("debug", "info", "info", "info", "warn", "error"),
    "region": ("eu-central-1", "eu-west-3", "us-east-1", "ap-southeast-2"),
    "zone": ("eu-central-1a", "eu-central-1b", "us-east-1c", "ap-southeast-2a"),
    "http.method": ("GET", "GET", "POST", "PUT", "DELETE"),
    "http.status_code": ("200", "201", "204", "301", "404", "429", "500", "503"),
}


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def _uuid(rng: random.Random) -> str:
    return "-".join(_hex(rng, digits) for digits in (8, 4, 4, 4, 12))


def _value(rng: random.Random, key: str) -> str:
    if key == "trace_id":
        return _hex(rng, 32)
    if key == "span_id":
        return _hex(rng, 16)
    if key in ("user_id", "order_id", "customer"):
        return f"{key[0]}-{rng.randrange(10**7)}"
    if key in ("duration_ms", "thread"):
        return str(rng.randrange(1, 2000))
    if key in _FEW:
        return rng.choice(_FEW[key])
    return "".join(rng.choices(string.ascii_lowercase + "-", k=rng.randrange(2, 28)))


def message(rng: random.Random) -> str:
    """Return a message of a service, of MESSAGE_CHARACTERS."""
    length = rng.randint(*MESSAGE_CHARACTERS)
    words = [rng.choice(_WORDS) for _ in range(length // 5 + 2)]
    kind = rng.random()
    extra = _BEYOND_ASCII if kind < UNICODE_SHARE else _ESCAPED if kind < UNICODE_SHARE + ESCAPES_SHARE else ()
    for _ in range(min(3, len(words)) if extra else 0):
        words[rng.randrange(min(len(words), length // 12 + 1))] = rng.choice(extra)
    text = " ".join(words)
    while len(text) < length:
        text += " " + rng.choice(_WORDS)
    return text[:length]


def _timestamp(rng: random.Random) -> str:
    digits = rng.choice((0, 3, 3, 6, 6, 9))
    fraction = "." + "".join(rng.choices(string.digits, k=digits)) if digits else ""
    day, seconds = rng.randrange(1, 29), rng.randrange(86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"2026-11-{day:02}T{clock}{fraction}{rng.choice(('Z', 'Z', 'Z', '+01:00', '-05:00'))}"


def record(rng: random.Random) -> bytes:
    """Return one record as JSON, such as a service might send it."""
    keys = rng.sample(_KEYS, rng.randint(0, PAIRS_MAX))
    members = {
        "event_id": _uuid(rng),
        "timestamp": _timestamp(rng),
        "service": rng.choice(SERVICES),
        "message": message(rng),
        "metadata": {key: _value(rng, key) for key in keys},
    }
    ascii_only = rng.random() < ASCII_SHARE
    return json.dumps(members, separators=(",", ":"), ensure_ascii=ascii_only).encode()


@cache
def varied_records() -> tuple[bytes, ...]:
    """Return VARIED_RECORDS records, all different, always the same ones."""
    rng = random.Random(SEED)
    return tuple(record(rng) for _ in range(VARIED_RECORDS))


_LIBRARIES = (
    "python-requests", "Go-http-client", "okhttp", "axios", "curl", "Vector", "fluent-bit", "Java-http-client",
)  # fmt: skip
AGENTS = tuple(f"{_LIBRARIES[n % len(_LIBRARIES)]}/{n % 5 + 1}.{n}.{n % 7} (inlet bench)" for n in range(USER_AGENTS))
"""User agents."""


def headers(rng: random.Random, media_type: str, more: dict[str, str] | None = None) -> dict[str, str]:
    """Return nine fields; with Content-Length ten. ``traceparent`` and ``x-request-id`` differ each time."""
    return {
        "Host": "logs.example.com",
        "User-Agent": rng.choice(AGENTS),
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Content-Type": media_type,
        **(more or {}),
        "X-Forwarded-For": "10.20.3.151",
        "X-Forwarded-Proto": "https",
        "traceparent": f"00-{_hex(rng, 32)}-{_hex(rng, 16)}-01",
        "x-request-id": _uuid(rng),
    }


def _bodies(coding: str, bodies: Iterable[bytes]) -> Iterable[bytes]:
    if coding == GZIP:
        return (gzip.compress(body, GZIP_LEVEL, mtime=0) for body in bodies)
    if coding == ZSTD:
        return map(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress, bodies)
    return bodies


def _lines(records: Sequence[bytes], size: int) -> list[bytes]:
    """Return whole bulks of ``size`` records each, as NDJSON."""
    return [b"\n".join(records[at : at + size]) for at in range(0, len(records) - size + 1, size)]


@cache
def singles(content: str) -> Traffic:
    """Return requests of one record each."""
    if content == FIXED:
        return Traffic((raw(("POST", "/ingest", {"Content-Type": JSON_TYPE}, payload())),))
    rng = random.Random(SEED + 1)
    return Traffic(tuple(raw(("POST", "/ingest", headers(rng, JSON_TYPE), body)) for body in varied_records()))


@cache
def fresh_singles(more: tuple[tuple[str, str], ...] = ()) -> Traffic:
    """Return varied requests of one record each, with these header fields besides, and no event ID ever sent twice."""
    rng = random.Random(SEED + 4)
    # The end of a UUID, which comes first in the record.
    bodies = (
        body[: len(b'{"event_id":"') + 24] + FRESH + body[len(b'{"event_id":"') + 36 :] for body in varied_records()
    )
    requests = (raw(("POST", "/ingest", headers(rng, JSON_TYPE, dict(more)), body)) for body in bodies)
    return Traffic(tuple(requests), fresh=True)


@cache
def bulks(content: str) -> Traffic:
    """Return requests of BULK_RECORDS records each, as NDJSON; compressed if the content says so."""
    if content == FIXED:
        body = b"\n".join([payload()] * BULK_RECORDS)
        return Traffic((raw(("POST", "/ingest", {"Content-Type": NDJSON_TYPE}, body)),), BULK_RECORDS)
    rng = random.Random(SEED + 2)
    coding = {"Content-Encoding": content} if content in (GZIP, ZSTD) else None
    bodies = _bodies(content, _lines(varied_records(), BULK_RECORDS))
    requests = (raw(("POST", "/ingest", headers(rng, NDJSON_TYPE, coding), body)) for body in bodies)
    return Traffic(tuple(requests), BULK_RECORDS)


@cache
def big_bulks() -> Traffic:
    """Return varied bulks of about BIG_BULK_BYTES, all with the same number of records."""
    records = varied_records()
    size = BIG_BULK_BYTES * len(records) // sum(len(line) + 1 for line in records)
    rng = random.Random(SEED + 3)
    requests = (raw(("POST", "/ingest", headers(rng, NDJSON_TYPE), body)) for body in _lines(records, size))
    return Traffic(tuple(requests), size)
