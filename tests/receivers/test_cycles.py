"""Nothing on a request's path makes a reference cycle: memory is free once the answer is out, collector or not.

What lives here: every kind of answer of every receiver, with the collector off. What must not: how much memory that is.
"""

from __future__ import annotations

import gc
import gzip
import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard

from inlet.stream.limits import RecordLimits
from tests.receivers.support import LIMITS, NDJSON, ONE, MemorySink, Told, application, ask, body_of, environ, record
from wsgi.problems import PROBLEMS, Denied, SinkError
from wsgi.receivers import arrays, ndjson
from wsgi.receivers.native import Native

Env = dict[str, Any]
NUMBER = b"9" * 5_000
BULK = b"\n".join([ONE, b"{", b"{}", b"[1]", b'{"x":NaN}', b"\xff", b"", ONE[:-1] + b',"x":1}'])
ARRAY = b"[" + b",".join([ONE, b"{}", b"null", ONE[:-1] + b',"x":' + NUMBER + b"}"]) + b"]"
ZWINDOW = zstandard.ZstdCompressionParameters(window_log=24, chain_log=6, hash_log=6)


def wide() -> bytes:
    """A zstd frame with too large a window."""
    stream = zstandard.ZstdCompressor(compression_params=ZWINDOW).compressobj()
    return stream.compress(ONE) + stream.flush()


BODIES: dict[str, bytes] = {
    "one": ONE, "array": ARRAY, "unknown member": ONE[:-1] + b',"x":[1]}',
    "long integer": ONE[:-1] + b',"x":' + NUMBER + b"}",
    "empty": b"", "cut": b"{", "nan": b'{"x":NaN}', "latin-1": ONE.replace(b'"m"', b'"\xe9"'), "nul": b'"\0"',
    "surrogate": ONE.replace(b'"m"', b'"\\ud800"'), "two": ONE + b"\n" + ONE, "deep": b"[" * 50,
    "gzip": gzip.compress(ONE),
    "utf-16": ONE.decode().encode("utf-16"), "no record": b"[]", "bad array": b"[{},1]", "faults": b'{"metadata":1}',
    "large": body_of(record("x" * 300)), "time": body_of(record(timestamp="now")),
    "many": b"[" + b"0," * 60_000 + b"0]",
    "mark": b"\xef\xbb\xbf" + ONE, "number": b"1", "long line": body_of(record(message="\0" * 60_000)),
    "deeper": b"[" * 9_000, "bulk": b"\n".join([ONE, b"{", b"0", b"{}", NUMBER] * 600),
    "array of many": b"[" + b",".join([ONE, b"{}", b"0", ONE[:-1] + b',"x":1}'] * 1_000) + b"]",
    "cut array of many": b"[" + b",".join([ONE] * 2_000), "long": ONE[:-1] + b',"x":"' + b"a" * 200_000 + b'"}',
    "long bad": ONE[:-1] + b',"message":1,"x":"' + b"a" * 200_000 + b'"}', "long cut": ONE[:-1] + b"," + b" " * 200_000,
    "values": ONE[:-1] + b',"x":[' + b"0," * 110_000 + b"0]}", "numbers": b"[" + (NUMBER + b",") * 50 + b"1]",
}  # fmt: skip
CODED: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(ONE)), "deflate": ("deflate", zlib.compress(ONE)),
    "zstd": ("zstd", zstandard.compress(ONE)),
    "text as gzip": ("gzip", ONE), "text as deflate": ("deflate", ONE), "text as zstd": ("zstd", ONE),
    "cut gzip": ("gzip", gzip.compress(ONE)[:-9]), "cut zstd": ("zstd", zstandard.compress(ONE)[:-3]),
    "bad deflate": ("deflate", b"\x78\x9cxx"), "wide": ("zstd", wide()), "br": ("br", ONE), "two": ("gzip, zstd", ONE),
    "members": ("gzip", gzip.compress(b"") * 1_100), "bomb": ("gzip", gzip.compress(bytes(9_000_000))),
}  # fmt: skip


def stores(error: Exception | None = None, stage: str = "append") -> MemorySink:
    """A sink, or one that fails at ``stage`` with the same error each time."""
    if error is None:
        return MemorySink()

    def fail() -> Exception:
        return error

    return MemorySink(append_error=fail) if stage == "append" else MemorySink(commit_error=fail)


def made(body: bytes = b"", path: str = "/ingest", method: str = "POST", **more: Any) -> Callable[[], Env]:
    """A function that makes this environ anew."""
    return lambda: environ(body, path, method, **more)


def requests() -> Iterator[tuple[str, MemorySink, Callable[[], Env]]]:
    """Every kind of request: a name, a sink, and how to make its environ."""
    for name, body in BODIES.items():
        yield f"json {name}", stores(), made(body)
        yield f"ndjson {name}", stores(), made(body, CONTENT_TYPE=NDJSON)
    for name, (coding, body) in CODED.items():
        yield f"coded {name}", stores(), made(body, HTTP_CONTENT_ENCODING=coding)
    yield "bulk", stores(), made(BULK, CONTENT_TYPE=NDJSON)
    yield "receipt", stores(), made(BULK, CONTENT_TYPE=NDJSON, QUERY_STRING="receipt=1")
    long = b"\n".join([ONE, b"0"] * 2_000)
    yield "long receipt", stores(), made(long, CONTENT_TYPE=NDJSON, QUERY_STRING="receipt=1")
    yield "coded bulk", stores(), made(gzip.compress(long), CONTENT_TYPE=NDJSON, HTTP_CONTENT_ENCODING="gzip")
    yield "422 receipt", stores(), made(b"{}\n[]", CONTENT_TYPE=NDJSON, HTTP_PREFER="return=representation")
    for length in (None, "x", "9" * 9, "5000"):
        yield f"length {length}", stores(), made(ONE, CONTENT_LENGTH=length)
    yield "level", stores(), made(ONE, HTTP_INLET_DURABILITY="none")
    yield "type", stores(), made(ONE, CONTENT_TYPE="a/b")
    for stage in ("append", "commit"):
        for reason in (reason for reason, row in PROBLEMS.items() if row.status in (429, 503)):
            yield f"{stage} {reason}", stores(SinkError(reason, "d"), stage), made(BULK, CONTENT_TYPE=NDJSON)
        for reason in ("unauthorized", "forbidden", "origin-not-allowed"):
            yield f"{stage} {reason}", stores(Denied(reason, "d", [("vary", "origin")]), stage), made(ONE)
        yield f"{stage} bug", stores(RuntimeError("a bug of the test"), stage), made(ONE)
    for path, method in (
        ("/nothing", "GET"), ("/ingest", "GET"), ("/ingest", "OPTIONS"), ("", "OPTIONS"), ("/ingest", "BREW"),
        ("/healthz", "GET"), ("/readyz", "GET"), ("/readyz", "HEAD"),
    ):  # fmt: skip
        yield f"{method} {path}", stores(), made(path=path, method=method)
    unready = MemorySink(not_ready=SinkError("sink-unavailable", "d"))
    yield "503 /readyz", unready, made(path="/readyz", method="GET")


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """The collector off, and no handler that keeps what is logged."""
    logger = logging.getLogger("inlet")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    gc.collect()
    gc.freeze()  # what the other tests left need not be walked again
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.unfreeze()
    gc.enable()
    logger.handlers, logger.propagate = handlers, propagate


def found() -> list[str]:
    """What only the collector can free, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = [f"{type(each).__name__}: {each!r:.80}" for each in gc.garbage]
    gc.garbage.clear()
    gc.collect()
    return kinds


CASES = {name: (sink, make) for name, sink, make in requests()}


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through Falcon"])
@pytest.mark.parametrize("name", CASES)
def test_no_answer_leaves_anything_for_the_collector(name: str, direct: bool) -> None:
    # Found from outside: a bulk with one rejected record leaked until the collector ran.
    sink, make = CASES[name]
    app = application(sink, direct=direct)
    ask(app, make())  # whatever is made once
    gc.collect()
    ask(app, make())
    assert found() == []


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("body", [ONE, BULK])
def test_an_answer_whose_client_left_leaves_nothing_either(body: bytes) -> None:
    app = application(MemorySink())
    for _ in range(2):
        gc.collect()
        answer: Any = app(environ(body, CONTENT_TYPE=NDJSON), Told())
        answer.close()
        del answer
    assert found() == []


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_work_that_is_given_up_between_two_slices_leaves_nothing_either(
    content_type: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (arrays, ndjson):
        monkeypatch.setattr(module, "SLICE_SECONDS", 0)
    native = Native(LIMITS, RecordLimits())
    body = BODIES["bulk" if content_type else "array of many"]
    for steps in (1, 3, 10):
        gc.collect()
        work = native.slices(environ(body, CONTENT_TYPE=content_type), body)
        for _ in range(steps):
            next(work)
        del work
    assert found() == []


def test_every_reason_that_an_application_gives_is_among_the_requests() -> None:
    servers = {"bad-request", "request-timeout", "uri-too-long", "expectation-failed", "headers-too-large",
               "version-not-supported"}  # fmt: skip
    seen = set()
    for sink, make in CASES.values():
        answer = ask(application(sink), make())
        if answer.status >= 400 and answer.body:
            seen.add(answer.json["reason"])
    assert seen == set(PROBLEMS) - servers
