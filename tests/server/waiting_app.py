"""A WSGI application that waits: with ``phased.wait`` and ``phased.watch`` where the server offers them, else blocking.

What lives here: one way to wait a path. It has nothing to do with any other application of this project.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

PLAIN = ("Content-Type", "text/plain")
notes: list[str] = []
"""What happened in this process."""
gates: dict[str, concurrent.futures.Future[str]] = {}
"""Futures by name; ``/open`` finishes one."""
ticks = [0]


def _gate(name: str) -> concurrent.futures.Future[str]:
    return gates.setdefault(name, concurrent.futures.Future())


def _rest_until(environ: WSGIEnvironment, future: concurrent.futures.Future[str]) -> Iterator[bytes]:
    """Wait for ``future``: iterated again once it is done, or blocking."""
    wait = environ.get("phased.wait")
    if wait is None:
        future.result()
        return
    wait(future)
    yield b""
    assert future.done(), "iterated too early"


def gate(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait for the gate that the query names; the status is known only then."""
    name = environ["QUERY_STRING"]
    notes.append(f"waits {name}")
    yield from _rest_until(environ, _gate(name))
    notes.append(f"passed {name}")
    start("200 OK", [PLAIN])
    yield f"passed {name}".encode()


class Started:
    """A future that starts when the server asks to be told of its end; it ends a moment later."""

    def __init__(self) -> None:
        self.calls = 0
        self.callbacks: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self.callbacks.append(callback)
        notes.append(f"started after {self.calls} calls")
        threading.Timer(0.1, callback, [self]).start()


shared: list[Started] = []


def in_call(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait within the call: for a gate (query), or for a future that all requests of a turn share."""
    if environ["QUERY_STRING"]:
        future: Any = _gate(environ["QUERY_STRING"])
    else:
        if not shared or shared[-1].callbacks:
            shared.append(Started())
        future = shared[-1]
        future.calls += 1
    environ["phased.wait"](future)

    def pieces() -> Iterator[bytes]:
        assert not isinstance(future, concurrent.futures.Future) or future.done(), "iterated too early"
        start("200 OK", [PLAIN])
        yield b"after the call"

    return pieces()


def no_future_in_call(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    environ["phased.wait"](object())
    return [b"never"]


def twice(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait before the head, and again in the middle of the body."""
    name = environ["QUERY_STRING"]
    yield from _rest_until(environ, _gate(name + "1"))
    start("200 OK", [PLAIN])
    yield b"first "
    yield from _rest_until(environ, _gate(name + "2"))
    yield b"second"


def thread(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait for a future that a thread finishes."""
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    threading.Timer(0.05, future.set_result, ["x"]).start()
    yield from _rest_until(environ, future)
    start("200 OK", [PLAIN])
    yield b"done"


def done_already(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    future.set_result("x")
    yield from _rest_until(environ, future)
    start("200 OK", [PLAIN])
    yield b"done"


def no_future(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    environ["phased.wait"]("this is no future")
    yield b""
    start("200 OK", [PLAIN])
    yield b"never"


def fails_after(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait, then fail: before the head, or after a part of the body (query "late")."""
    late = environ["QUERY_STRING"] == "late"
    if late:
        start("200 OK", [PLAIN])
        yield b"part"
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    threading.Timer(0.05, future.set_result, ["x"]).start()
    yield from _rest_until(environ, future)
    raise RuntimeError("failed after waiting")


def gives_way(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Work for query milliseconds in slices of one, giving way between them."""
    for _ in range(int(environ["QUERY_STRING"])):
        end = time.monotonic() + 0.001
        while time.monotonic() < end:
            pass
        ticks[0] += 1
        yield b""
    start("200 OK", [PLAIN])
    yield b"worked"


class Pipe:
    """The reading end of a pipe that is watched: every event is noted, and "readable" finishes a future."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.reader, self.writer = os.pipe()
        self.events: list[str] = []
        self.future: concurrent.futures.Future[str] = concurrent.futures.Future()
        self.watch: Any = environ["phased.watch"](self.reader, self.note)

    def note(self, event: str) -> None:
        self.events.append(event)
        if event == "readable":
            os.read(self.reader, 100)
        if not self.future.done():
            self.future.set_result(event)

    def close(self) -> None:
        self.watch.close()
        os.close(self.reader)
        os.close(self.writer)


def watched(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Wait until a pipe is readable, written by a thread; or (query "late") until its deadline passed."""
    pipe = Pipe(environ)
    if environ["QUERY_STRING"] == "late":
        pipe.watch.deadline(30)
        pipe.watch.deadline(0.05)
    else:
        pipe.watch.deadline(0.05)
        pipe.watch.deadline(None)
        threading.Timer(0.2, os.write, [pipe.writer, b"x"]).start()
    yield from _rest_until(environ, pipe.future)
    start("200 OK", [PLAIN])
    time.sleep(0.05)
    yield b""  # Others may run, and events come: there must be none.
    yield json.dumps(pipe.events).encode()
    pipe.close()


def reset(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Watch a socket that has something to read, and then is reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    seen: list[str] = []
    future: concurrent.futures.Future[str] = concurrent.futures.Future()

    def note(event: str) -> None:
        try:
            seen.append(f"{event} {len(here.recv(100))}")
        except OSError as error:
            seen.append(f"{event} {type(error).__name__}")
            watch.close()
            future.set_result("over")

    watch = environ["phased.watch"](here.fileno(), note)
    watch.deadline(20)
    there.send(b"x")
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    there.close()
    yield from _rest_until(environ, future)
    here.close()
    start("200 OK", [PLAIN])
    yield json.dumps(seen).encode()


def writable(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """Watch the writing end of a pipe: "writable" comes only while it is wanted."""
    reader, writer = os.pipe()
    events: list[str] = []
    future: concurrent.futures.Future[str] = concurrent.futures.Future()

    def note(event: str) -> None:
        events.append(event)
        watch.want_write(False)
        future.set_result(event)

    watch = environ["phased.watch"](writer, note)
    watch.want_write(True)
    yield from _rest_until(environ, future)
    yield b""
    yield b""
    watch.close()
    os.close(reader)
    os.close(writer)
    start("200 OK", [PLAIN])
    yield json.dumps(events).encode()


def bad_callback(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    """A callback that raises."""
    reader, writer = os.pipe()

    def note(event: str) -> None:
        raise RuntimeError("a bug in a callback")

    environ["phased.watch"](reader, note)
    os.write(writer, b"x")
    yield b""
    yield b""
    start("200 OK", [PLAIN])
    yield b"the others go on"


def opened(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """Finish the future of a gate."""
    future = _gate(environ["QUERY_STRING"])
    if not future.done():
        future.set_result("open")
    start("200 OK", [PLAIN])
    return [b"open"]


def opens_later(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """Finish the future of a gate in a second."""
    threading.Timer(1, _gate(environ["QUERY_STRING"]).set_result, ["open"]).start()
    start("200 OK", [PLAIN])
    return [b"later"]


def noted(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [PLAIN])
    return [json.dumps({"notes": notes, "ticks": ticks[0]}).encode()]


ROUTES: dict[str, Callable[[Any, Any], Iterable[bytes]]] = {
    "gate": gate, "twice": twice, "thread": thread, "done": done_already, "no-future": no_future,
    "in-call": in_call, "no-future-in-call": no_future_in_call,
    "fails": fails_after, "gives-way": gives_way, "watched": watched, "reset": reset, "writable": writable,
    "bad-callback": bad_callback, "open": opened, "open-later": opens_later, "noted": noted,
}  # fmt: skip


def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """By the path."""
    return ROUTES[environ["PATH_INFO"].strip("/")](environ, start)
