"""WSGI applications for the worker's tests: one that tells what it got, and one for every way to answer, well or badly.

What lives here: applications that any WSGI server runs. ``events`` is this process's record of what was called when.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

events: list[str] = []
PLAIN = ("Content-Type", "text/plain")
PIECE = b"x" * 50_000
"""Bytes of one piece of a streamed response."""


class Lazy:
    """Calls start_response at the first iteration, as PEP 3333 allows; notes each step in ``events``."""

    def __init__(self, start: StartResponse, name: str) -> None:
        self.start, self.name, self.left = start, name, 1
        events.append(f"call {name}")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        self.left -= 1
        events.append(f"iterate {self.name}")
        if self.name == "bad":
            raise RuntimeError("this one fails in the second phase")
        body = self.name.encode()
        self.start("200 OK", [PLAIN, ("Content-Length", str(len(body)))])
        return body

    def close(self) -> None:
        events.append(f"close {self.name}")


class Closing:
    """An iterable whose close() is noted, and may fail."""

    def __init__(self, pieces: Iterable[bytes], *, fails: bool = False) -> None:
        self.pieces, self.fails = iter(pieces), fails

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        events.append("close")
        if self.fails:
            raise RuntimeError("close failed")


def echo(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """The environ, and the body, as JSON."""
    body = environ["wsgi.input"].read()
    shown = {key: value for key, value in environ.items() if isinstance(value, str | bool)}
    document = {"environ": shown, "bytes": len(body), "body": body[:1000].decode("latin-1"), "pid": os.getpid()}
    answer = json.dumps(document).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def lazy(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    return Lazy(start, environ["QUERY_STRING"] or str(environ["CONTENT_LENGTH"]))


def told(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """What happened so far in this process."""
    answer = json.dumps(events).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def slow(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    time.sleep(float(environ["QUERY_STRING"]))
    return echo(environ, start)


def raises_in_call(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("raised in the call")


def raises_late(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield PIECE
        raise RuntimeError("raised after the head was sent")

    return Closing(pieces())


def list_of_two(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    return [b"one ", b"two"]


def generator(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    yield b""
    yield b"one "
    yield b"two"


def stream(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """QUERY_STRING pieces without a length."""
    start("200 OK", [PLAIN])
    return Closing(PIECE for _ in range(int(environ["QUERY_STRING"])))


def stream_with_length(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    count = int(environ["QUERY_STRING"])
    start("200 OK", [PLAIN, ("Content-Length", str(count * len(PIECE)))])
    return Closing(PIECE for _ in range(count))


def writes(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    write = start("200 OK", [PLAIN])
    write(b"written ")
    return [b"and returned"]


def starts_twice(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    start("200 OK", [PLAIN])
    return [b""]


def starts_again_with_exc_info(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    import sys

    start("200 OK", [PLAIN])
    try:
        raise RuntimeError("found out late")
    except RuntimeError:
        start("418 I am a teapot", [PLAIN], sys.exc_info())
    return [b"short and stout"]


def never_starts(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    return [b"no status"]


def hop_by_hop(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN, ("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Content-Length", "2")])
    return [b"ok"]


def splits_the_response(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN, ("X-Name", "a\r\nSet-Cookie: stolen=1")])
    return [b"ok"]


def too_short(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN, ("Content-Length", "10")])
    return [b"four"]


def too_long(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN, ("Content-Length", "4")])
    return [b"fourteen"]


def status_only(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """204 or 304, with a body that must not be sent."""
    start(environ["QUERY_STRING"] + " Whatever", [PLAIN])
    return [b"not for the wire"]


def closes_badly(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    return Closing([b"ok"], fails=True)


def validated(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]


def _validated(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """PEP 3333's referee: its AssertionError becomes a 500."""
    # Its iterator insists on being iterated to the end and closed, so it also checks what follows the last piece.
    return validator(validated)(environ, start)


def garbage(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """Collect: QUERY_STRING "start" forgets what is there; else the types of what only a collector can free."""
    import gc

    if environ["QUERY_STRING"] == "start":
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
    found: list[Any] = []
    if environ["QUERY_STRING"] != "start":
        found = [gc.isenabled(), gc.collect(), *(repr(type(each)) for each in gc.garbage)]
    answer = json.dumps(found).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


ROUTES: dict[str, Callable[[Any, Any], Iterable[bytes]]] = {
    "lazy": lazy, "told": told, "slow": slow, "raises-in-call": raises_in_call, "raises-late": raises_late,
    "list": list_of_two, "generator": generator, "stream": stream, "stream-with-length": stream_with_length,
    "writes": writes, "starts-twice": starts_twice, "exc-info": starts_again_with_exc_info,
    "never-starts": never_starts, "hop": hop_by_hop, "splits": splits_the_response, "short": too_short,
    "long": too_long, "status": status_only, "closes-badly": closes_badly, "validated": _validated,
    "garbage": garbage,
}  # fmt: skip


def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """By the path's first part; ``echo`` where there is no such route."""
    return ROUTES.get(environ["PATH_INFO"].strip("/"), echo)(environ, start)
