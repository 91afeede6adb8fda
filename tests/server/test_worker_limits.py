"""The worker is strict where laxness is a hole, and bounded in time and memory; each limit at it, and one past it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.worker_server import DEADLINE_SECONDS, Client, Server, request, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS: dict[str, float] = {
    "payload_bytes_max": 300_000,
    "head_bytes_max": 20_000,
    "head_seconds": 1,
    "body_idle_seconds": 1,
    "body_grace_seconds": 3,
    "body_bytes_per_second_min": 1_000,
    "write_seconds": 2,
    "linger_seconds": 3,
    "linger_idle_seconds": 2,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """All deadlines short; keep-alive is gunicorn's setting."""
    with Server("--keep-alive", "2", limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def patient() -> Iterator[Server]:
    """The worker's own deadlines."""
    with Server("--keep-alive", "60") as running:
        yield running


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """The small sizes of ``server``, with the worker's own deadlines: for requests that must not meet one."""
    sizes = {name: value for name, value in LIMITS.items() if name.endswith("bytes_max")}
    with Server("--keep-alive", "60", limits=sizes) as running:
        yield running


def refused(server: Server, data: bytes) -> int:
    """Send bytes, read a refusal to its end: its status."""
    with server.client() as client:
        client.send(data)
        answer = client.read()
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["connection"] == "close"
        assert answer.body.endswith(b"\n")
        assert client.closed()
        return answer.status


H = b"Host: x\r\n"
POST = b"POST / HTTP/1.1\r\n"
SMUGGLED = {
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + H + H + b"\r\n",
    "a Host that is none": b"GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "a Host with two ports": b"GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n",
    "a port of letters": b"GET / HTTP/1.1\r\nHost: h:abc\r\n\r\n",
    "half an IPv6 address": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "a negative port": b"GET / HTTP/1.1\r\nHost: h:-1\r\n\r\n",
    "a target with two ports": b"GET http://a:b:c/ HTTP/1.1\r\n" + H + b"\r\n",
    "length and chunked": POST + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two equal lengths": POST + H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two lengths": POST + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": POST + H + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": POST + H + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": POST + H + b"Content-Length: -3\r\n\r\nabc",
    "a hexadecimal length": POST + H + b"Content-Length: 0x3\r\n\r\nabc",
    "an empty length": POST + H + b"Content-Length: \r\n\r\n",
    "two chunked codings": POST + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "identity": POST + H + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare LF after the request line": b"GET / HTTP/1.1\n" + H + b"\r\n",
    "a bare LF after a header": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare LFs throughout": b"GET / HTTP/1.1\nHost: x\n\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a folded first header": b"GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nAb\r\n\r\n",
    "a name that is no token": b"GET / HTTP/1.1\r\nHost: x\r\nA(b: c\r\n\r\n",
    "a NUL in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    "a control character in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: \x1b\r\n\r\n",
    "two Content-Types": POST + H + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
    "two spaces in the request line": b"GET  / HTTP/1.1\r\n" + H + b"\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n",
    "no version": b"GET /\r\n" + H + b"\r\n",
    "a lower-case version": b"GET / http/1.1\r\n" + H + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + H + b"\r\n",
    "an asterisk for GET": b"GET * HTTP/1.1\r\n" + H + b"\r\n",
    "a fragment": b"GET /#x HTTP/1.1\r\n" + H + b"\r\n",
    "a byte over ASCII in the target": b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n",
    "credentials in the target": b"GET http://u@h/ HTTP/1.1\r\n" + H + b"\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_that_could_be_read_in_two_ways_is_refused(patient: Server, data: bytes) -> None:
    assert refused(patient, data) == 400


CHUNKS = {
    "no digit": b"\r\n\r\n",
    "a sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n",
    "a space before": b" 3\r\nabc\r\n0\r\n\r\n",
    "a space after": b"3 \r\nabc\r\n0\r\n\r\n",
    "a semicolon alone": b"3;\r\nabc\r\n0\r\n\r\n",
    "a malformed extension": b"3;bad[=x\r\nabc\r\n0\r\n\r\n",
    "an unfinished string": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "a trailer Content-Length": b"0\r\nContent-Length: 3\r\n\r\n",
    "a trailer Transfer-Encoding": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a trailer Host": b"0\r\nHOST: x\r\n\r\n",
    "a bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "a bare LF in an extension": b"3;a\n\r\nabc\r\n",
    "a NUL in an extension": b"3;\0\r\nabc\r\n0\r\n\r\n",
    "data longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "data that ends with LF": b"3\r\nabc\n0\r\n\r\n",
    "data that ends with CR and a letter": b"3\r\nabc\rx0\r\n\r\n",
    "a trailer that is none": b"0\r\nbad trailer\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "an extension over its bound": b"3;" + b"x" * 255 + b"\r\nabc\r\n0\r\n\r\n",
    "trailers over their bound": b"0\r\n" + b"A: bcdefgh\r\n" * 900 + b"\r\n",
}


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS.keys())
def test_a_malformed_chunk_is_refused(patient: Server, body: bytes) -> None:
    assert refused(patient, POST + H + b"Transfer-Encoding: chunked\r\n\r\n" + body) == 400


def test_chunk_lines_and_trailers_at_their_bounds_are_taken(patient: Server) -> None:
    trailers = b"A: " + b"b" * 5 + b"\r\n"
    body = b"00000003;" + b"x" * 247 + b"\r\nabc\r\n0\r\n" + trailers * 1024 + b"\r\n"
    with patient.client() as client:
        client.send(POST + H + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert client.read().json()["body"] == "abc"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (POST + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"BREW / HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
        (b"GET /foobar HTTP/8.4\r\n" + H + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_not_implemented_is_said_so(patient: Server, data: bytes, status: int) -> None:
    assert refused(patient, data) == status


def test_a_bad_request_behind_a_good_one_is_refused_in_its_turn(patient: Server) -> None:
    with patient.client() as client:
        client.send(request("/good") * 2 + SMUGGLED["no Host"] + request("/never"))
        assert [client.read().status for _ in range(3)] == [200, 200, 400]
        assert client.closed()


def test_a_refusal_has_a_body_though_the_request_before_was_a_head(patient: Server) -> None:
    with patient.client() as client:
        assert client.get("/x", method="HEAD").status == 200
        assert b"Host" in client.send(SMUGGLED["no Host"]).read().body


def test_a_head_that_was_seen_before_is_refused_all_the_same(patient: Server) -> None:
    for _ in range(3):
        assert refused(patient, SMUGGLED["no Host"]) == 400


# Sizes.


def test_a_request_line_may_have_4094_bytes_and_no_more(patient: Server) -> None:
    fits = "/" + "a" * (4094 - len("GET / HTTP/1.1"))
    with patient.client() as client:
        assert client.get(fits).status == 200
    assert refused(patient, request(fits + "a")) == 414
    assert refused(patient, b"GET /" + b"a" * 5000) == 414


def test_a_request_may_have_100_header_fields_and_no_more(patient: Server) -> None:
    headers = [f"X-{n}: 1" for n in range(99)]
    with patient.client() as client:
        assert client.get("/x", *headers).status == 200
    assert refused(patient, request("/x", *headers, "X-Last: 1")) == 431


def test_a_header_field_may_have_8190_bytes_and_no_more(patient: Server) -> None:
    fits = "X-Long: " + "a" * 8182
    with patient.client() as client:
        assert client.get("/x", fits).status == 200
    assert refused(patient, request("/x", fits + "a")) == 431


def test_a_head_that_does_not_end_is_refused_once_over_its_bound(small: Server) -> None:
    data = b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 6000 + b"\r\n"
    assert refused(small, data + (b"A: " + b"b" * 6000 + b"\r\n") * 3) == 431


@pytest.mark.parametrize("size", [300_000, 300_001])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_at_its_bound_is_taken_and_one_byte_more_is_413(small: Server, size: int, *, chunked: bool) -> None:
    body = b"b" * size
    with small.client() as client:
        if chunked:
            head = request("/x", "Transfer-Encoding: chunked", method="POST")
            client.send(head + b"%x\r\n" % size + body + b"\r\n0\r\n\r\n")
        else:
            client.send(request("/x", method="POST", body=body))
        answer = client.read()
        if size == 300_000:
            assert (answer.status, answer.json()["bytes"]) == (200, size)
        else:
            assert answer.status == 413
            assert client.closed()


@pytest.mark.parametrize("length", ["300001", "9" * 30])
def test_a_length_over_the_bound_is_413_before_a_byte_is_read(server: Server, length: str) -> None:
    assert refused(server, request("/x", f"Content-Length: {length}", method="POST")) == 413
    expecting = request("/x", f"Content-Length: {length}", "Expect: 100-continue", method="POST")
    assert refused(server, expecting) == 413


def test_the_answer_reaches_a_client_that_is_still_sending_its_body(patient: Server) -> None:
    with patient.client() as client:
        client.send(request("/x", "Content-Length: 9000000", method="POST"))
        for _ in range(9):
            client.send(b"b" * 1_000_000)
        assert client.read().status == 413


def test_pipelined_bytes_wait_unread_behind_the_request_in_hand(patient: Server) -> None:
    with patient.client() as client:
        client.send(request("/slow?0.2") + request("/x", method="POST", body=b"b" * 1_000_000) * 5)
        assert client.read().status == 200
        assert [client.read().json()["bytes"] for _ in range(5)] == [1_000_000] * 5


def test_unfinished_bodies_over_the_workers_memory_are_shed_and_small_requests_go_on() -> None:
    limits: dict[str, float] = {"held_bytes_max": 1_000_000, "payload_bytes_max": 1_000_000}
    with Server(limits=limits) as server:
        hoarders = [server.client() for _ in range(6)]
        for hoarder in hoarders:
            hoarder.sock.setblocking(False)
            try:
                hoarder.sock.send(request("/x", "Content-Length: 950000", method="POST") + b"b" * 400_000)
            except BlockingIOError:
                raise AssertionError("the kernel takes this much") from None
        with server.client() as client:
            assert client.get("/x").status == 200
        shed: set[int] = set()

        def look() -> bool:
            for number, hoarder in enumerate(hoarders):
                try:
                    if b" 503 " in hoarder.sock.recv(65536):
                        shed.add(number)
                except BlockingIOError:
                    pass
            return bool(shed)

        until(look, "one is shed", server)
        with server.client() as client:
            assert client.get("/x", method="POST", body=b"b" * 30_000).status == 200
        for hoarder in hoarders:
            hoarder.sock.close()

        def freed() -> bool:
            with server.client() as client:
                status: int = client.get("/x", method="POST", body=b"b" * 900_000).status
                return status == 200

        until(freed, "the memory is given back", server)


def cpu_ticks(pid: int) -> int:
    """CPU time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_connections_over_the_bound_wait_in_the_backlog() -> None:
    with Server(limits={"connections_max": 2}) as server:
        first, second, third = server.client(), server.client(), server.client()
        assert first.get("/x").status == second.get("/x").status == 200
        third.send(request("/x"))
        (pid,) = server.workers()
        before = cpu_ticks(pid)
        assert first.get("/slow?0.3").status == second.get("/slow?0.3").status == 200
        first.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            first.sock.recv(1)
        assert cpu_ticks(pid) - before < 50, "it spins on the backlog"
        first.sock.close()
        assert third.read().status == 200
        second.sock.close()
        third.sock.close()


def test_big_bodies_do_not_hold_up_small_requests(patient: Server) -> None:
    """Four big ones in a row cost 0.5 s each; a small one sent behind them waits for one or two, and is not last."""
    with patient.client() as small:
        assert small.get("/x").status == 200
        bigs = [patient.client() for _ in range(6)]
        (pid,) = patient.workers()
        # Stopped, so that all of it is there when the first one is looked at.
        os.kill(pid, signal.SIGSTOP)
        for big in bigs:
            big.send(request("/slow?0.4", method="POST", body=b"b" * 100_000))
        small.send(request("/x"))
        os.kill(pid, signal.SIGCONT)
        answered_before = []
        assert small.read().status == 200
        for big in bigs:
            big.sock.setblocking(False)
            try:
                answered_before.append(bool(big.sock.recv(1)))
            except BlockingIOError:
                answered_before.append(False)
            big.sock.close()
        assert not all(answered_before)


# Deadlines.


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_arrive_in_time_ends_the_connection(server: Server, sent: bytes) -> None:
    with server.client() as client:
        client.send(sent)
        if sent:
            answer = client.read()
            assert answer.status == 408
        assert client.closed()


@pytest.mark.parametrize("head", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_body_that_stops_arriving_is_408(server: Server, head: str) -> None:
    assert refused(server, request("/x", head, method="POST") + b"3\r\nabc") == 408


def test_a_body_that_trickles_is_408(server: Server) -> None:
    with server.client() as client:
        client.send(request("/x", "Content-Length: 100000", method="POST"))
        client.sock.settimeout(0.1)
        for _ in range(int(DEADLINE_SECONDS * 10)):
            client.send(b"b")
            try:
                if client._fill():
                    break
            except TimeoutError:
                continue
        client.sock.settimeout(DEADLINE_SECONDS)
        assert client.read().status == 408


def test_an_idle_connection_is_closed_after_gunicorns_keepalive(server: Server) -> None:
    with server.client() as client:
        assert client.get("/x").status == 200
        assert client.closed()


def test_keepalive_zero_closes_after_each_answer() -> None:
    with Server("--keep-alive", "0") as server, server.client() as client:
        assert client.get("/x").headers["connection"] == "close"
        assert client.closed()


def test_a_client_that_does_not_read_its_answer_is_cut_off(server: Server) -> None:
    with server.client() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(request("/stream?2000"))
        with server.client() as other:
            until(lambda: "close" in other_told(other), "the response is closed", server)


def other_told(client: Client) -> list[str]:
    events: list[str] = client.get("/told").json()
    return events


def test_two_thousand_slow_clients_leave_a_normal_one_alone(patient: Server) -> None:
    slow: list[socket.socket] = []
    try:
        for number in range(2_000):
            sock = socket.create_connection(patient.address, timeout=DEADLINE_SECONDS)
            sock.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Le"[: 10 + number % 30])
            slow.append(sock)
        with patient.client() as client:
            for number in range(200):
                assert client.get("/x", method="POST", body=b"b" * number).json()["bytes"] == number
    finally:
        for sock in slow:
            sock.close()
