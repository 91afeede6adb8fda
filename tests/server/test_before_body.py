"""``before_body``: an application answers a request whose body has not all arrived, and the body is never kept."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.worker_server import Client, Server, request, resident_kib, until

APP = "tests.server.early_app:application"
MIB = 2**20
NOTE_HELD = (
    "import gc\n"
    "def pre_request(worker, req):\n"
    "    if req.path == '/told': print('held', worker.server.held.total, 'garbage', gc.collect(), flush=True)\n"
)
"""gunicorn configuration that prints how many bytes of unfinished bodies the worker holds, and objects in cycles."""


@pytest.fixture
def server() -> Iterator[Server]:
    limits: dict[str, float] = {"linger_seconds": 20, "linger_idle_seconds": 5}
    with Server("--keep-alive", "60", app=APP, limits=limits, conf=NOTE_HELD) as running:
        yield running


def told(server: Server) -> Any:
    with server.client() as client:
        return client.get("/told").json()


def unfinished(target: str = "/x", *headers: str, length: int = 10) -> bytes:
    """A request without its body."""
    return request(target, f"Content-Length: {length}", *headers, method="POST")


def test_a_body_of_eight_mib_is_refused_before_a_byte_of_it_is_sent(server: Server) -> None:
    with server.client() as client:
        answer = client.send(unfinished(length=8 * MIB)).read()
        assert (answer.status, answer.body) == (401, b"who are you?\n")
        assert answer.headers["connection"] == "close"
        assert answer.headers["www-authenticate"] == "Token"
        assert answer.headers["content-length"] == "13"
        assert answer.headers["x-request-id"] == "r-1"
        assert client.closed()
    assert told(server) == [["asked", "127.0.0.1", "/x", ""]]


def test_a_body_that_is_too_large_is_refused_by_the_application_first(server: Server) -> None:
    for length, with_token in ((8 * MIB, 0), (8 * MIB + 1, 413)):
        with server.client() as client:
            assert client.send(unfinished(length=length)).read().status == 401
        if with_token:
            with server.client() as client:
                assert client.send(unfinished("/x", "X-Token: right", length=length)).read().status == with_token


def test_a_client_that_sends_all_the_same_can_read_the_answer(server: Server) -> None:
    with server.client() as client:
        client.send(unfinished(length=8 * MIB))
        for _ in range(128):
            client.send(b"b" * 65_536)
        assert client.read().status == 401
        assert client.rest() == b""
    told(server)
    server.wait_for("held 0 garbage")


def test_a_client_that_expects_100_gets_the_answer_instead(server: Server) -> None:
    with server.client() as client:
        assert client.send(unfinished("/x", "Expect: 100-continue")).read().status == 401
        assert client.closed()


def test_a_client_with_the_token_gets_100_and_its_answer(server: Server) -> None:
    with server.client() as client:
        client.send(unfinished("/x", "Expect: 100-continue", "X-Token: right"))
        assert client.read().status == 100
        assert client.send(b"0123456789").read().body == b"10"
        assert client.get("/x", method="POST", body=b"whole").body == b"5"
    assert told(server) == [["asked", "127.0.0.1", "/x", ""], ["called", "/x", "left"], ["called", "/x"]]


def test_a_body_that_is_there_is_the_applications_to_refuse(server: Server) -> None:
    with server.client() as client:
        assert client.get("/x", method="POST", body=b"b" * 10).body == b"10"
        assert client.get("/x").body == b"0"
    assert told(server) == [["called", "/x"], ["called", "/x"]]


def test_one_byte_short_is_not_all_there(server: Server) -> None:
    with server.client() as client:
        assert client.send(unfinished(length=10) + b"012345678").read().status == 401


def test_a_chunked_body_is_refused_before_it_is_read(server: Server) -> None:
    with server.client() as client:
        client.send(request("/x", "Transfer-Encoding: chunked", method="POST"))
        assert client.read().status == 401
        assert client.closed()
    with server.client() as client:
        client.send(request("/x", "Transfer-Encoding: chunked", "X-Token: right", method="POST"))
        assert client.send(b"3\r\nabc\r\n0\r\n\r\n").read().body == b"3"


def test_requests_before_it_are_answered_and_what_is_behind_it_is_dropped(server: Server) -> None:
    with server.client() as client:
        client.send(request("/one") + unfinished("/two") + b"0123")
        assert (client.read().status, client.read().status) == (200, 401)
        assert client.rest() == b""
    with server.client() as client:
        chunked = request("/three", "Transfer-Encoding: chunked", method="POST")
        client.send(request("/one") + chunked + b"3\r\nabc\r\n0\r\n\r\n" + request("/four"))
        assert (client.read().status, client.read().status) == (200, 401)
        assert client.rest() == b""
    assert [event[:2] for event in told(server) if event[0] == "called"] == [["called", "/one"]] * 2


def test_the_same_head_again_is_asked_again_and_a_long_head_is_kept_whole(server: Server) -> None:
    long = "X-Long: " + "b" * 4_000
    with server.client() as client:
        for headers in (["X-Token: right"], ["X-Token: right"], ["X-Token: right", long]):
            client.send(unfinished("/x", *headers))
            until(lambda: told(server)[-1][0] == "asked", "it is asked", server)
            assert client.send(b"0123456789").read().body == b"10"
    assert [event[0] for event in told(server)] == ["asked", "called"] * 3


OK = "X-Token: right"
CHUNKED = "Transfer-Encoding: chunked"


def unfinished_events(server: Server) -> list[list[str]]:
    return [event for event in told(server) if event[0] == "unfinished"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (("Content-Length: 10",), b"012", 400),
        ((CHUNKED,), b"a\r\n012", 400),
        ((CHUNKED,), b"3\r\n012\r\nzz\r\n", 400),
        ((CHUNKED,), b"800001\r\n", 413),
        ((f"Content-Length: {8 * MIB + 1}",), b"", 413),
        ((CHUNKED,), b"3\r\n012", 0),
        (("Content-Length: 10",), b"012", 0),
    ],
    ids=["cut", "chunked, cut", "broken", "chunked, too large", "too large", "chunked, gone", "gone"],
)  # fmt: skip
def test_a_request_that_never_reaches_the_application_is_told_to_it_once(
    server: Server, headers: tuple[str, ...], body: bytes, status: int
) -> None:
    with server.client() as client:
        client.send(request("/x", OK, *headers, method="POST") + body)
        if not status:
            until(lambda: told(server), "it is asked", server)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            if status == 400:
                client.sock.shutdown(socket.SHUT_WR)
            assert client.read().status == status
    until(lambda: unfinished_events(server), "it is told", server)
    assert unfinished_events(server) == [["unfinished", "/x", str(len(body))]]
    assert not [event for event in told(server) if event[0] == "called"]


def test_one_that_reaches_it_or_was_refused_by_it_is_not_told(server: Server) -> None:
    with server.client() as client:
        for before, framing, body in ((0, CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"), (2, "Content-Length: 3", b"abc")):
            client.send(request("/x", OK, framing, method="POST"))
            until(lambda seen=before + 1: len(told(server)) == seen, "it is asked, without the body", server)
            assert client.send(body).read().body == b"3"
        client.send(request("/x", CHUNKED, method="POST") + b"3\r\nab")
        assert client.read().status == 401
    assert [event[0] for event in told(server)] == ["asked", "called", "asked", "called", "asked"]


def test_a_fault_in_what_it_left_is_logged_and_costs_nothing(server: Server) -> None:
    with server.client() as client:
        client.send(request("/faulty", OK, CHUNKED, method="POST") + b"zz\r\n")
        assert client.read().status == 400
    with server.client() as client:
        assert client.send(unfinished("/unhashable")).read().status == 500
    server.wait_for("Error in phased.unfinished of POST /faulty")
    server.wait_for("Error in before_body of POST /unhashable")
    with server.client() as client:
        assert client.get("/x").status == 200


def test_late_bodies_are_told_too() -> None:
    limits: dict[str, float] = {"body_idle_seconds": 1}
    with Server("--keep-alive", "60", app=APP, limits=limits) as server, server.client() as client:
        assert client.send(request("/x", OK, CHUNKED, method="POST") + b"a\r\n0").read().status == 408
        assert unfinished_events(server) == [["unfinished", "/x", "4"]]


def test_what_follows_a_body_that_came_in_pieces_is_the_next_request() -> None:
    """Regression: with the same head again behind it, the second was called first, and one was never answered."""
    with Server("--keep-alive", "60", app="tests.server.early_app:echo") as server, server.client() as client:
        for _ in range(3):
            assert client.get("/x", method="POST", body=b"before").body == b"before"
        first, second, third = (request("/x", method="POST", body=body) for body in (b"first!", b"second", b"third!"))
        client.send(first[:-3])
        time.sleep(0.3)  # So that it is read by itself; where it is not, this tests nothing.
        client.send(first[-3:] + second + third)
        assert [client.read().body for _ in range(3)] == [b"first!", b"second", b"third!"]


@pytest.fixture
def narrow() -> Iterator[Server]:
    """A worker that holds 8 MB of bodies."""
    limits: dict[str, float] = {"held_bytes_max": 8_000_000, "payload_bytes_max": 2_000_000, "linger_seconds": 20}
    with Server("--keep-alive", "60", app=APP, limits=limits, conf=NOTE_HELD) as running:
        yield running


def pour(server: Server, owner: str, count: int, size: int) -> list[Client]:
    """Begin so many bodies of 2 MB and send ``size`` bytes of each, as far as the server reads."""
    clients = [server.client() for _ in range(count)]
    for client in clients:
        client.sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            client.send(unfinished("/x", OK, f"X-Owner: {owner}", length=2_000_000) + b"b" * size)
    return clients


def open_and_shed(clients: list[Client]) -> tuple[int, int]:
    """How many wait for more, and how many were answered 503, of those that are not gone."""
    waiting = shed = 0
    for client in clients:
        client.sock.settimeout(0.01)
        try:
            client._fill()
        except TimeoutError:
            pass
        except ConnectionError:
            continue
        shed += b" 503 " in client.buffer
        waiting += not client.buffer
    return waiting, shed


def held(server: Server) -> int:
    told(server)
    return int(re.findall(r"^held (\d+) garbage", server.log(), re.MULTILINE)[-1])


def test_one_owner_fills_half_of_the_memory_and_another_gets_its_body_through(narrow: Server) -> None:
    hoarders = pour(narrow, "greedy", 12, 900_000)
    for _ in range(3):
        with narrow.client() as client:
            client.send(unfinished("/x", OK, "X-Owner: modest", length=2_000_000))
            for _ in range(20):
                client.send(b"b" * 100_000)
            assert (answer := client.read()).status == 200, answer
    until(lambda: 0 < held(narrow) <= 4_000_000, "the greedy owner's are shed", narrow)
    waiting, shed = open_and_shed(hoarders)
    assert waiting >= 3
    assert shed >= 5
    assert waiting + shed == 12
    for client in hoarders:
        client.sock.close()
    until(lambda: held(narrow) == 0, "all is given back", narrow)


def test_of_several_owners_the_one_that_holds_most_is_shed(narrow: Server) -> None:
    some = pour(narrow, "some", 5, 700_000)
    most = pour(narrow, "most", 4, 990_000)
    others = [client for number in range(3) for client in pour(narrow, f"other-{number}", 1, 900_000)]
    until(lambda: open_and_shed(most)[1] > 0, "a body of the greatest is shed", narrow)
    until(lambda: held(narrow) <= 8_000_000, "the rest fits", narrow)
    assert open_and_shed(others) == (3, 0)
    for client in [*some, *most, *others]:
        client.sock.close()


def test_who_names_no_owner_may_fill_all_of_it(narrow: Server) -> None:
    clients = [narrow.client() for _ in range(8)]
    for client in clients:
        client.send(unfinished("/x", "X-Token: unowned", length=2_000_000) + b"b" * 900_000)
    until(lambda: held(narrow) == 7_200_000, "all is read", narrow)
    time.sleep(1.5)  # A sweep is once a second.
    assert open_and_shed(clients) == (8, 0)
    for client in clients:
        client.sock.close()


NO_SHED = "from wsgi.server.held import HeldBytes\nHeldBytes.shed = lambda held, connections: None\n"
"""gunicorn configuration: what fills the memory stays."""


def test_what_has_no_room_is_not_read_on() -> None:
    """Regression: after the first bytes of a body, and after many small chunks, it was read on all the same."""
    limits: dict[str, float] = {"held_bytes_max": 8_000_000, "payload_bytes_max": 4_000_000}
    with Server("--keep-alive", "60", app=APP, limits=limits, conf=NOTE_HELD + NO_SHED) as server:
        clients = [server.client() for _ in range(4)]
        for client in clients[:2]:
            client.send(unfinished("/x", OK, "X-Owner: greedy", length=4_000_000) + b"b" * 2_000_001)
        until(lambda: held(server) >= 4_000_001, "it holds all it may", server)
        full = held(server)
        clients[2].send(unfinished("/x", OK, "X-Owner: greedy", length=4_000_000) + b"b" * 1_000)
        until(lambda: held(server) == full + 1_000, "the first bytes are taken", server)
        for client, framing in ((clients[2], ""), (clients[3], CHUNKED)):
            client.sock.settimeout(0.5)
            head = request("/x", OK, "X-Owner: greedy", framing, method="POST") if framing else b""
            with contextlib.suppress(TimeoutError):
                client.send(head + b"1\r\nb\r\n" * 700_000)
        time.sleep(0.5)
        assert full + 1_000 < held(server) <= full + 1_000 + 300_000, "one read of the last one"
        for client in clients[:2]:
            client.sock.close()
        until(lambda: held(server) > 4_000_000, "those that waited are read on", server)
        for client in clients[2:]:
            client.sock.close()


def test_a_head_request_gets_no_body(server: Server) -> None:
    with server.client() as client:
        answer = client.send(request("/x", "Content-Length: 9", method="HEAD")).read(method="HEAD")
        assert (answer.status, answer.headers["content-length"]) == (401, "13")
        assert client.rest() == b""


@pytest.mark.parametrize("target", ["/raises", "/nonsense", "/splits"])
def test_a_fault_in_it_is_answered_500_and_logged(server: Server, target: str) -> None:
    with server.client() as client:
        answer = client.send(unfinished(target)).read()
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert "stolen" not in str(answer.headers)
        assert client.closed()
    server.wait_for(rf"Error in before_body of POST {target}")
    with server.client() as client:
        assert client.get("/x").status == 200


def test_refused_bodies_leave_no_garbage_and_no_memory(server: Server) -> None:
    (pid,) = server.workers()
    told(server)
    before = 0
    for turn in range(3):
        for _ in range(100):
            with server.client() as client:
                client.send(unfinished(length=8 * MIB) + b"b" * 60_000)
                assert client.read().status == 401
        with server.client() as client:
            assert client.send(unfinished("/raises")).read().status == 500
        if not turn:
            before = resident_kib(pid)
    assert resident_kib(pid) - before < 8 * 1024
    told(server)
    assert re.findall(r"^held (\d+) garbage (\d+)$", server.log(), re.MULTILINE)[1:] == [("0", "0")]


def test_the_access_log_and_the_hooks_see_such_an_answer() -> None:
    conf = "def post_request(worker, req, environ, resp): worker.log.info('post %s %s', req.path, resp.status)\n"
    with Server("--access-logfile", "-", app=APP, conf=conf) as server, server.client() as client:
        assert client.send(unfinished("/logged")).read().status == 401
        server.wait_for(r'"POST /logged HTTP/1.1" 401 13 ')
        server.wait_for("post /logged 401 Unauthorized")
