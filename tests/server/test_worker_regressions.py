"""What broke before, over a real gunicorn: clients that leave, empty lines, HEAD, large bodies, refusals, garbage."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.server.worker_server import DEADLINE_SECONDS, Client, Server, request, resident_kib, until

REFUSE = (
    "def refuse(status, detail, environ):\n"
    "    print('refused', status, detail, flush=True)\n"
    "    return f'{status} Refused', [('X-Rendered', 'here'), ('Content-Type', 'text/x')], detail.encode()\n"
    "worker_class.configure(refuse=refuse)\n"
)
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER: on, for 0 s; close() then resets."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that notes every refusal, with short deadlines."""
    limits: dict[str, float] = {"head_seconds": 2, "linger_seconds": 20, "linger_idle_seconds": 2}
    with Server("--log-level", "debug", limits=limits, conf=REFUSE) as running:
        yield running


def refusals(server: Server) -> list[int]:
    return [int(status) for status in re.findall(r"^refused (\d+)", server.log(), re.MULTILINE)]


def reset(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.sock.close()


# Clients that leave.


def test_pipelined_requests_of_a_client_that_had_left_were_called_without_start_response(server: Server) -> None:
    before = len(refusals(server))
    for _ in range(50):
        client = server.client()
        client.send(request("/slow?0") * 3)
        reset(client)
        client = server.client()
        client.send(request("/stream?20", method="POST", body=b"b" * 50) * 5)
        client.sock.close()
    with server.client() as client:
        assert client.get("/x").status == 200
    assert "Traceback" not in server.log()
    assert len(refusals(server)) == before


def test_nothing_on_a_requests_path_is_a_reference_cycle() -> None:
    limits: dict[str, float] = {"collect_every_seconds": 3600, "payload_bytes_max": 100_000}
    with Server("--keep-alive", "60", limits=limits) as server, server.client() as asking:
        asking.get("/garbage?start")
        for turn in range(3):
            exercise(server)
            until(lambda: len(asking.get("/garbage").json()) == 2, f"no garbage after round {turn}", None)
        assert asking.get("/garbage").json() == [False, 0]


def exercise(server: Server) -> None:
    """Send every kind of request, and leave in every way."""
    ways = [
        request("/x"), request("/x", method="HEAD"), request("/x", method="POST", body=b"b" * 90_000),
        request("/x") * 5, request("/stream?40"), request("/stream-with-length?40"), request("/writes"),
        request("/exc-info"), request("/raises-in-call"), request("/never-starts"), request("/starts-twice"),
        request("/closes-badly"), request("/splits"), request("/short"), request("/raises-late"), request("/lazy?bad"),
        request("/lazy?x"), request("/list"), request("/generator"), request("/status?204"),
        b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/3.1\r\n\r\n", b"GET /\n", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 9000, b"\r\n" + request("/x"), request("/x", "A: " + "b" * 9000),
        request("/x", "Content-Length: 100001", method="POST"), request("/x", "Expect: x"),
        request("/x", "Content-Length: 1" + "0" * 30, method="POST"), request("/x", "Content-Length: 1", "Expect: "),
        request("/x", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n",
        request("/x", "Transfer-Encoding: chunked", method="POST") + b"3;\r\n",
        request("/x", "Transfer-Encoding: chunked", method="POST") + b"ffffff\r\n",
        request("/x", "Content-Length: 10", method="POST") + b"four", b"GET /half",
    ]  # fmt: skip
    for data in ways:
        with server.client() as client:
            client.send(data)
            client.sock.shutdown(socket.SHUT_WR)
            try:
                client.rest()
            except ConnectionError:
                client.buffer = b""
        reset(server.client().send(data))
        server.client().send(data).sock.close()


def test_the_answer_to_a_client_that_left_is_dropped_and_its_iterable_closed() -> None:
    with Server() as server, server.client() as asking:
        for _ in range(5):
            client = server.client().send(request("/slow?0.1") + request("/stream?100"))
            reset(client)
        assert asking.get("/x").status == 200
        assert set(asking.get("/told").json()) <= {"close"}
        assert "Traceback" not in server.log()


# Empty lines.


def test_empty_lines_held_a_connection_for_ever(server: Server) -> None:
    with server.client() as client:
        client.sock.settimeout(0.2)
        end = time.monotonic() + DEADLINE_SECONDS
        closed = False
        while not closed and time.monotonic() < end:
            try:
                client.send(b"\r\n")
                closed = not client._fill()
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
        assert client.buffer == b"", "empty lines are no request, so nothing is to be answered"


SPLIT = {
    "an empty line before": b"\r\n" + request("/x"),
    "two empty lines before": b"\r\n\r\n" + request("/x"),
    "HTTP/8.4 after an empty line": b"\r\nGET /foobar HTTP/8.4\r\n\r\n",
    "a LF before": b"\n" + request("/x"),
    "a CR before": b"\r" + request("/x"),
    "a bare LF": b"GET / HTTP/2.0\nHost: x\r\n\r\n",
    "no Host": b"HEAD / HTTP/1.1\r\n\r\n",
    "chunks": request("/x", "Transfer-Encoding: chunked", method="POST") + b"3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n",
    "a bad chunk": request("/x", "Transfer-Encoding: chunked", method="POST") + b"3 \r\nabc\r\n0\r\n\r\n",
    "a body": request("/x", method="POST", body=b"abc"),
    "pipelined": request("/x") + b"\r\n" + request("/y") + b"GET / HTTP/1.2\r\n\r\n",
}


@pytest.mark.parametrize("data", SPLIT.values(), ids=SPLIT.keys())
def test_the_answer_differed_with_where_the_bytes_were_split(server: Server, data: bytes) -> None:
    whole = answer_to_pieces(server, data, b"")
    for at in range(1, len(data)):
        assert answer_to_pieces(server, data[:at], data[at:]) == whole, (data[:at], data[at:])


def answer_to_pieces(server: Server, first: bytes, second: bytes) -> bytes:
    """All that comes back, without what differs in any two connections."""
    with server.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(first)
        if second:
            time.sleep(0.0005)
            try:
                client.send(second)
                client.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # Refused after the first piece.
        else:
            client.sock.shutdown(socket.SHUT_WR)
        return re.sub(
            rb'Date: [^\r]*|"REMOTE_PORT": "\d+"|Content-Length: \d+|Connection: close\r\n', b"", client.rest()
        )


# Refusals.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n", 417),
        (b"HEAD / HTTP/1.1\nHost: x", 400),
        (b"HEAD /" + b"a" * 9000, 414),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (request("/raises-in-call", method="HEAD"), 500),
        (b"HEAD /late HTTP/1.1\r\n", 408),
    ],
)
def test_a_refused_head_request_had_a_body(server: Server, data: bytes, status: int) -> None:
    with server.client() as client:
        client.send(data)
        answer = client.read(method="HEAD")
        assert (answer.status, answer.headers["x-rendered"]) == (status, "here")
        assert int(answer.headers["content-length"]) > 0
        assert client.rest() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (request("/x", "Content-Length: 99999999", method="POST"), 413),
        (request("/x", "Transfer-Encoding: chunked", method="POST") + b"3;\r\n", 400),
        (request("/raises-in-call"), 500),
        (request("/lazy?bad"), 500),
        (request("/never-starts"), 500),
        (b"GET /late", 408),
    ],
)
def test_a_refusal_by_the_server_was_counted_nowhere(server: Server, data: bytes, status: int) -> None:
    before = len(refusals(server))
    with server.client() as client:
        client.send(data)
        answer = client.read()
        assert (answer.status, answer.headers["content-type"], answer.headers["connection"]) == (
            status,
            "text/x",
            "close",
        )
        assert client.closed()
    until(lambda: refusals(server)[before:] == [status], "exactly one call", server)


def test_a_function_that_fails_to_render_a_refusal_costs_only_the_rendering() -> None:
    conf = "def refuse(*_): raise RuntimeError('cannot render')\nworker_class.configure(refuse=refuse)\n"
    with Server(conf=conf) as server, server.client() as client:
        answer = client.send(b"GET / HTTP/1.1\r\n\r\n").read()
        assert (answer.status, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
        server.wait_for("cannot render")


# Versions, hosts, spaces.


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /x HTTP/1.9\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\t\r\n\r\n000000000000\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked \t\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\t\r\nConnection: keep-alive\t \r\n\r\n",
    ],
)
def test_a_legal_request_was_refused(server: Server, data: bytes) -> None:
    with server.client() as client:
        environ = client.send(data).read().json()["environ"]
        assert (environ["SERVER_PROTOCOL"], environ["PATH_INFO"]) == ("HTTP/1.1", "/x")
        assert client.get("/y").status == 200


# Large bodies.


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_went_on_sending_got_a_reset_instead_of_413(server: Server, *, chunked: bool) -> None:
    size = 40 * 1024 * 1024
    host, port = server.address
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
    try:
        if chunked:
            pieces = (b"b" * 65_536 for _ in range(size // 65_536))
            connection.request("POST", "/x", body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        else:
            connection.request("POST", "/x", body=b"b" * size)
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_a_client_that_sends_for_ever_is_cut_at_the_end_of_lingering() -> None:
    with Server(limits={"linger_seconds": 2, "linger_idle_seconds": 2}) as server, server.client() as client:
        client.send(request("/x", "Content-Length: 99999999999", method="POST"))
        assert client.read().status == 413
        ended = threading.Event()

        def send() -> None:
            try:
                while True:
                    client.sock.send(b"b" * 1000)
                    time.sleep(0.01)
            except OSError:
                ended.set()

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(DEADLINE_SECONDS)
        assert ended.is_set()


def test_each_answer_to_a_pipelining_client_let_another_read_in() -> None:
    """Regression: reading went on after each answer, however much was buffered, and all of it was copied for each.

    8 MiB of requests took 40 s instead of 6, and as much memory as two copies of what was left.
    """
    with Server() as server, server.client() as client:
        one = b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n"
        count = 8 * 2**20 // len(one)
        sender = threading.Thread(target=client.sock.sendall, args=(one * count,), daemon=True)
        (pid,) = server.workers()
        before, most, answered, tail = resident_kib(pid), 0, 0, b""
        end = time.monotonic() + 2 * DEADLINE_SECONDS
        sender.start()
        while answered < count:
            assert time.monotonic() < end, f"{answered} of {count} answers"
            data = client.sock.recv(1 << 20)
            assert data
            answered += (tail + data).count(b"HTTP/1.1 200 ")
            tail = data[-12:]
            most = max(most, resident_kib(pid))
        sender.join(DEADLINE_SECONDS)
        # 1 MiB measured; 17 MiB before.
        assert most - before < 6 * 1024
