"""Requests that Inlet refuses, and a mix of varied ones of which one in ten is such a request.

What lives here: what producers send by mistake or on purpose, each with the status it must get (docs/protocol.md).
What must not: sending (``bench.load``), measuring (``bench.memory``).
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from functools import cache

from bench.traffic import JSON_TYPE, NDJSON_TYPE, SEED, Traffic, headers, raw, singles, varied_records

REFUSED_EVERY = 10
"""One request in so many is refused."""
HEAVY_EVERY = 100
"""One refused request in so many is a heavy one: each costs as much as tens of ordinary ones."""
OVERSIZE_CHARACTERS = 140_000
"""Of a message: over the bound of 131,072."""
DECODED_BYTES = 9 << 20
"""Of a small compressed body, once it is decoded: over the bound of 8 MiB."""
DECLARED_BYTES = 1 << 30
"""The length of a body that is announced and never sent (Expect: 100-continue)."""
BULK_BAD = 20
PARTLY_EVERY = 50
"""One request in so many is a bulk of which one record is rejected; it is answered 202."""

Refused = tuple[str, int, bytes]
"""A name, the status it must get, the bytes of the request."""


def _post(rng: random.Random, body: bytes, media_type: str = JSON_TYPE, **more: str) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in more.items()}
    return raw(("POST", "/ingest", headers(rng, media_type, fields), body))


def _changed(line: bytes, **members: object) -> bytes:
    """Return a record with other members; None takes one out."""
    record = json.loads(line) | members
    return json.dumps({name: value for name, value in record.items() if value is not None}).encode()


def light(rng: random.Random, line: bytes) -> Iterator[Refused]:
    """Yield refused requests that cost about as much as a good one, made from a good record."""
    for name in ("event_id", "timestamp", "service", "message"):
        yield f"no {name}", 422, _post(rng, _changed(line, **{name: None}))
    yield "bad timestamp", 422, _post(rng, _changed(line, timestamp="yesterday"))
    yield "number as service", 422, _post(rng, _changed(line, service=7))
    yield "list as metadata", 422, _post(rng, _changed(line, metadata=["a"]))
    yield "number in metadata", 422, _post(rng, _changed(line, metadata={"a": 1}))
    yield "long event_id", 422, _post(rng, _changed(line, event_id="e" * 257))
    yield "lone surrogate", 422, _post(rng, _changed(line, message="\ud800"))
    yield "cut JSON", 400, _post(rng, line[:-9])
    yield "not JSON", 400, _post(rng, b"message=hello")
    yield "not UTF-8", 400, _post(rng, line.replace(b'"message":"', b'"message":"\xff'))
    yield "empty", 400, _post(rng, b"")
    yield "nested", 400, _post(rng, b"[" * 200 + b"]" * 200)
    yield "form", 415, _post(rng, line, "application/x-www-form-urlencoded")
    yield "xml", 415, _post(rng, b"<event/>", "application/xml")
    yield "brotli", 415, _post(rng, line, Content_Encoding="br")
    yield "broken gzip", 400, _post(rng, gzip.compress(line, 1)[:-7], Content_Encoding="gzip")
    yield "not gzip", 400, _post(rng, line, Content_Encoding="gzip")
    yield "unknown level", 400, _post(rng, line, Inlet_Durability="eternal")
    yield "all of a bulk", 422, _post(rng, b"\n".join([_changed(line, service=None)] * BULK_BAD), NDJSON_TYPE)
    yield "no such path", 404, raw(("POST", "/ingets", headers(rng, JSON_TYPE), line))
    yield "method", 405, raw(("PUT", "/ingest", headers(rng, JSON_TYPE), line))
    length = b"\r\nContent-Length: "
    yield "two lengths", 400, _post(rng, line).replace(length, length + b"9" + length)


def heavy(rng: random.Random, line: bytes) -> Iterator[Refused]:
    """Yield refused requests that cost much: over a bound."""
    yield "large message", 422, _post(rng, _changed(line, message="m" * OVERSIZE_CHARACTERS))
    yield "large once decoded", 413, _post(rng, _zeros(), Content_Encoding="gzip")
    head = _post(rng, b"", Expect="100-continue").replace(b"Content-Length: 0", b"Content-Length: %d" % DECLARED_BYTES)
    yield "large body announced", 413, head


@cache
def _zeros() -> bytes:
    return gzip.compress(bytes(DECODED_BYTES), 9, mtime=0)


def partly(rng: random.Random, line: bytes) -> bytes:
    """Return a bulk of two good records and a bad one."""
    return _post(rng, b"\n".join((line, _changed(line, service=None), line)), NDJSON_TYPE)


@cache
def mixed() -> Traffic:
    """Return the varied requests of one record, every REFUSED_EVERY-th replaced by one that is refused.

    Every PARTLY_EVERY-th is a bulk of which one record is rejected.
    """
    rng = random.Random(SEED + 4)
    requests = list(singles("varied").requests)
    lines = iter(varied_records())
    for at in range(0, len(requests), PARTLY_EVERY):
        requests[at] = partly(rng, next(lines))
    some: list[bytes] = []
    for number, at in enumerate(range(REFUSED_EVERY - 1, len(requests), REFUSED_EVERY)):
        if not some:
            some = [request for _, _, request in light(rng, next(lines))]
        if number % HEAVY_EVERY == HEAVY_EVERY - 1:
            of_all = list(heavy(rng, next(lines)))
            requests[at] = of_all[number // HEAVY_EVERY % len(of_all)][2]
        else:
            requests[at] = some.pop()
    return Traffic(tuple(requests))


def examples() -> list[Refused]:
    """Return each refused request once."""
    rng = random.Random(SEED + 5)
    line = next(line for line in varied_records() if b"\\" not in line and line.isascii())
    return [*light(rng, line), *heavy(rng, line)]
