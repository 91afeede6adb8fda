"""Faults of clients: gone before or after their answer, slow, silent, vanished. The others must not notice.

What lives here: rude clients beside the load; the oracle counts their records too. What must not: the server.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tests.faults import content
from tests.faults.load import RESET, Answer, exchange, post, understand
from tests.faults.rig import WORKERS, Rig
from tests.faults.scenario import Fault
from tests.support import read_answer, wait_until

RUDE_CLIENTS = 60
ANSWER_SECONDS = 60.0
TRICKLE_SECONDS = 0.2
"""Between two bytes of a slow client: far below the least rate, and within every idle deadline."""
SLOWEST_SECONDS = 20.0
"""How long a polite client's answer may take beside the rude ones: generous, since the machine is shared."""
TCP_REPAIR = 19
"""tcp(7): a socket closed in this mode sends neither FIN nor RST; needs CAP_NET_ADMIN."""
STORE_SOCKETS = 2 * WORKERS
"""A worker has one connection for commits and one to watch the store; they come when they are needed."""
SHORT = {"args": ("-c", "tests/faults/short.conf.py")}
RUDE = "-rude-"
"""In the event ids of rude clients."""
UNHARMED = (202, 422, 429)
"""What polite clients may get: 429 is not the rude ones' doing, but of consumers that are behind (``soak``)."""
_names = itertools.count()


def rude(rig: Rig) -> tuple[socket.socket, str, bytes]:
    """A connection, an event id of its own, and the bytes of a request with it."""
    connection = socket.create_connection((rig.server.host, rig.server.port), ANSWER_SECONDS)
    event_id = f"{rig.load.name}{RUDE}{next(_names)}"
    return connection, event_id, post([content.sent(event_id)])


def reset(connection: socket.socket) -> None:
    """Close with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def gone_before(rig: Rig) -> Iterator[None]:
    """A whole request, and then RST, or FIN, or the connection forgotten: nobody is there for the answer."""
    ways = itertools.cycle([reset, socket.socket.close, *([] if no_repair() else [vanish])])
    for way, _ in zip(ways, range(RUDE_CLIENTS), strict=False):
        connection, event_id, request = rude(rig)
        now = time.time()
        connection.sendall(request)
        way(connection)
        rig.load.answers.append(Answer(0, RESET, now, now, (), (), (event_id,)))
    yield


@contextlib.contextmanager
def gone_after(rig: Rig) -> Iterator[None]:
    """The answer is read, and then RST instead of a keep-alive connection."""
    for _ in range(RUDE_CLIENTS):
        connection, event_id, request = rude(rig)
        began = time.time()
        status, body, _ = exchange(connection, request)
        reset(connection)
        rig.load.answers.append(understand(status, body, (event_id,), (), began))
    yield


@contextlib.contextmanager
def half_closed(rig: Rig) -> Iterator[None]:
    """The client ends its side after the request, and is answered all the same (RFC 9112 section 9.6)."""
    for _ in range(RUDE_CLIENTS):
        connection, event_id, request = rude(rig)
        began = time.time()
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        status, _, body = read_answer(connection)
        connection.close()
        assert status in UNHARMED, status
        rig.load.answers.append(understand(status, body, (event_id,), (), began))
    yield


def slow(cut: Callable[[bytes], int]) -> Callable[[Rig], AbstractContextManager[None]]:
    """Clients that send ``cut(request)`` bytes, then one at a time, until each was answered 408."""

    @contextlib.contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        clients = [rude(rig) for _ in range(RUDE_CLIENTS)]
        began = time.time()
        for connection, _, request in clients:
            connection.sendall(request[: cut(request)])
        try:
            for step in itertools.count():
                if not trickle(clients, step, cut):
                    break
                assert time.time() < began + ANSWER_SECONDS, "slow clients never got an answer"
                time.sleep(TRICKLE_SECONDS)
            for connection, event_id, _ in clients:
                status, _, body = read_answer(connection)
                assert status == 408, status
                rig.load.answers.append(understand(status, body, (event_id,), (), began))
            yield
        finally:
            for connection, _, _ in clients:
                connection.close()

    return inject


def trickle(clients: list[tuple[socket.socket, str, bytes]], step: int, cut: Callable[[bytes], int]) -> int:
    """Send the next byte of each client that has no answer yet; how many there were."""
    waiting = 0
    for connection, _, request in clients:
        connection.setblocking(False)
        try:
            connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            waiting += 1
            at = cut(request) + step
            connection.send(request[at : at + 1])
        finally:
            connection.settimeout(ANSWER_SECONDS)
    return waiting


@contextlib.contextmanager
def silent(rig: Rig) -> Iterator[None]:
    """Connections that never send a byte: the server ends them."""
    before = sockets(rig)
    clients = [rude(rig)[0] for _ in range(RUDE_CLIENTS)]
    wait_until(lambda: sockets(rig) >= before + RUDE_CLIENTS, "the silent connections are accepted")
    try:
        for connection in clients:
            while connection.recv(1_024):
                pass
        yield
    finally:
        for connection in clients:
            connection.close()
    wait_until(functools.partial(back_to, rig, before), "their descriptors are free again")


@contextlib.contextmanager
def vanished(rig: Rig) -> Iterator[None]:
    """Half-open connections: the client's machine is gone in the middle of a body, and no packet says so."""
    before = sockets(rig)
    clients = [rude(rig) for _ in range(RUDE_CLIENTS)]
    for connection, _, request in clients:
        connection.sendall(request[:-10])
    wait_until(lambda: sockets(rig) >= before + RUDE_CLIENTS, "the connections are accepted")
    for connection, event_id, _ in clients:
        now = time.time()
        vanish(connection)
        rig.load.answers.append(Answer(0, RESET, now, now, (), (event_id,), ()))
    yield
    wait_until(functools.partial(back_to, rig, before), "their descriptors are free again")


def vanish(connection: socket.socket) -> None:
    """Forget a connection: its peer gets no packet."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    connection.close()


@functools.cache
def no_repair() -> str:
    """Why a connection cannot be forgotten here; empty if it can."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except OSError as error:
        return f"TCP_REPAIR is not permitted here: {error}"
    return ""


def sockets(rig: Rig) -> int:
    """How many sockets the workers have open."""
    count = 0
    for pid in rig.server.workers():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += os.readlink(link).startswith("socket:")
    return count


def back_to(rig: Rig, before: int) -> bool:
    """Whether no more sockets are open than ``before``, connections to the store aside."""
    return sockets(rig) <= before + STORE_SOCKETS


def polite_unharmed(rig: Rig, answers: list[Answer]) -> bool:
    """The load beside the rude clients is answered 202, every request, and soon."""
    polite = [answer for answer in answers if RUDE not in "".join(answer.promised + answer.refused + answer.unknown)]
    harmed = [answer for answer in polite if answer.status not in UNHARMED or answer.seconds > SLOWEST_SECONDS]
    assert not harmed, harmed[0]
    return len(polite) > 50


def in_head(request: bytes) -> int:
    """As far as the second header."""
    return request.index(b"\r\n") + 5


def in_body(request: bytes) -> int:
    """As far as the tenth byte of the body."""
    return request.index(b"\r\n\r\n") + 14


FAULTS = [
    Fault(name="clients gone before their answer", inject=gone_before, seen=polite_unharmed),
    Fault(name="clients gone after their answer (RST)", inject=gone_after, seen=polite_unharmed),
    Fault(name="clients half-closed", inject=half_closed, seen=polite_unharmed),
    Fault(name="clients with slow heads", inject=slow(in_head), seen=polite_unharmed, rig=SHORT),
    Fault(name="clients with slow bodies", inject=slow(in_body), seen=polite_unharmed, rig=SHORT),
    Fault(name="clients that never send", inject=silent, seen=polite_unharmed, rig=SHORT),
    Fault(
        name="clients vanished in mid-body (half-open)",
        inject=vanished,
        seen=polite_unharmed,
        rig=SHORT,
        impossible=no_repair,
    ),
]
