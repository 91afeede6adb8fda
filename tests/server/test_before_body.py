"""``before_body``: an application answers a request whose body has not all arrived, and the body is never kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.worker_server import Server, request, resident_kib, until

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
    assert told(server) == [["asked", "127.0.0.1", "/x", ""], ["called", "/x"], ["called", "/x"]]


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
