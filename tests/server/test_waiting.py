"""``phased.wait`` and ``phased.watch``, which docs/design.md specifies: an application waits, and the loop does not.

Every test runs an application that has nothing to do with any other of this project, under the real server.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from wsgiref.util import setup_testing_defaults

import pytest

from tests.server.waiting_app import application
from tests.server.worker_server import Server, request, until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--keep-alive", "60", app="tests.server.waiting_app:application") as running:
        yield running


def test_an_answer_waits_for_its_future_and_the_others_do_not(server: Server) -> None:
    with server.client() as waiting, server.client() as other:
        waiting.send(request("/gate?a"))
        until(lambda: "waits a" in other.get("/noted").json()["notes"], "it waits", server)
        for _ in range(20):
            assert "passed a" not in other.get("/noted").json()["notes"]
        assert other.get("/open?a").body == b"open"
        assert waiting.read().body == b"passed a"
        assert waiting.get("/noted").status == 200


def test_one_future_resumes_every_answer_that_waits_for_it(server: Server) -> None:
    clients = [server.client().send(request("/gate?many")) for _ in range(30)]
    with server.client() as other:
        until(lambda: other.get("/noted").json()["notes"].count("waits many") == 30, "all wait", server)
        other.get("/open?many")
    for client in clients:
        with client:
            assert client.read().body == b"passed many"


def test_what_was_yielded_before_waiting_is_with_the_client_meanwhile(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.send(request("/twice?t"))
        other.get("/open?t1")
        until(lambda: b"first " in client.buffer or not client._fill(), "the first piece", server)
        assert b"second" not in client.buffer
        other.get("/open?t2")
        assert client.read().body == b"first second"
        assert client.get("/noted").status == 200


def test_http_1_0_gets_its_pieces_and_then_the_end(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.send(b"GET /twice?old HTTP/1.0\r\n\r\n")
        other.get("/open?old1")
        other.get("/open?old2")
        assert client.rest().endswith(b"first second")


def test_head_is_answered_without_waiting_for_the_body(server: Server) -> None:
    with server.client() as client, server.client() as other:
        other.get("/open?h1")
        assert client.get("/twice?h", method="HEAD").status == 200


def test_requests_behind_a_waiting_one_are_answered_in_order(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.send(request("/gate?p") + request("/thread") + request("/open?x"))
        until(lambda: "waits p" in other.get("/noted").json()["notes"], "it waits", server)
        other.get("/open?p")
        assert [client.read().body for _ in range(3)] == [b"passed p", b"done", b"open"]


def test_an_answer_that_waits_since_its_call_is_not_iterated_before(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.send(request("/in-call?call"))
        for _ in range(20):
            other.get("/noted")
        other.get("/open?call")
        assert client.read().body == b"after the call"
        assert client.get("/in-call?call").body == b"after the call"


def test_a_future_is_asked_once_all_requests_of_its_turn_are_called(server: Server) -> None:
    clients = [server.client() for _ in range(8)]
    with server.client() as other:
        other.send(request("/gives-way?20"))  # so that the loop is busy while they are sent
        for client in clients:
            client.send(request("/in-call"))
        for client in clients:
            with client:
                assert client.read().body == b"after the call"
        assert other.read().body == b"worked"
        started = [note for note in other.get("/noted").json()["notes"] if note.startswith("started after")]
    assert sum(int(note.split()[2]) for note in started) == 8
    assert "started after 0 calls" not in started


def test_a_client_that_leaves_while_its_answer_waits_since_the_call_does_no_harm(server: Server) -> None:
    with server.client() as other:
        client = server.client().send(request("/in-call?gone"))
        other.get("/noted")
        client.sock.close()
        other.get("/open?gone")
        assert other.get("/thread").body == b"done"


@pytest.mark.parametrize("path", ["/thread", "/done"])
def test_a_future_of_another_thread_or_one_that_is_done(server: Server, path: str) -> None:
    with server.client() as client:
        assert client.get(path).body == b"done"


def test_a_response_is_iterated_to_its_end_though_its_client_left(server: Server) -> None:
    with server.client() as other:
        client = server.client().send(request("/gate?left"))
        until(lambda: "waits left" in other.get("/noted").json()["notes"], "it waits", server)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sock.close()
        other.get("/open?left")
        until(lambda: "passed left" in other.get("/noted").json()["notes"], "it passed", server)


def test_a_client_that_ended_its_side_gets_the_answer_and_then_the_end(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.send(request("/gate?half"))
        client.sock.shutdown(socket.SHUT_WR)
        until(lambda: "waits half" in other.get("/noted").json()["notes"], "it waits", server)
        other.get("/open?half")
        assert client.read().body == b"passed half"
        assert client.closed()


def test_failures_after_waiting_are_500_or_cut_the_answer_off(server: Server) -> None:
    with server.client() as client:
        assert client.get("/fails").status == 500
    with server.client() as client, pytest.raises(ConnectionError):
        client.get("/fails?late")
    assert "failed after waiting" in server.log()


def test_what_is_no_future_is_the_applications_error(server: Server) -> None:
    with server.client() as client:
        assert client.get("/no-future").status == 500
    with server.client() as client:
        assert client.get("/no-future-in-call").status == 500
    with server.client() as client:
        assert client.get("/noted").status == 200


def test_an_answer_that_gives_way_lets_others_run_between_its_slices(server: Server) -> None:
    with server.client() as working, server.client() as other:
        before = other.get("/noted").json()["ticks"]
        working.send(request("/gives-way?3000"))
        seen = {other.get("/noted").json()["ticks"] - before for _ in range(200)}
        # Each look may wait for the slices of one turn. All of them at once would be one look.
        assert len([ticks for ticks in seen if 0 < ticks < 3000]) > 20
        assert working.read().body == b"worked"


def test_short_work_does_not_wait_for_long_work(server: Server) -> None:
    with server.client() as long, server.client() as other:
        before = other.get("/noted").json()["ticks"]
        long.send(request("/gives-way?4000"))
        until(lambda: other.get("/noted").json()["ticks"] > before, "it works", server)
        assert other.get("/gives-way?1").body == b"worked"
        assert other.get("/noted").json()["ticks"] - before < 4000
        assert long.read().body == b"worked"


@pytest.mark.parametrize(("query", "events"), [("", ["readable"]), ("?late", ["late"])])
def test_a_descriptor_is_watched_until_it_is_readable_or_late(server: Server, query: str, events: list[str]) -> None:
    with server.client() as client:
        assert client.get("/watched" + query).json() == events


def test_a_reset_behind_something_to_read_was_not_reported(server: Server) -> None:
    """Regression: libuv stops polling a socket that has an error, and the reset was found at the deadline."""
    with server.client() as client:
        assert client.get("/reset").json() == ["readable 1", "readable ConnectionResetError"]


def test_writable_comes_once_and_only_while_it_is_wanted(server: Server) -> None:
    with server.client() as client:
        assert client.get("/writable").json() == ["writable"]


def test_a_bug_in_a_callback_is_logged_and_ends_its_watch_alone(server: Server) -> None:
    with server.client() as client:
        assert client.get("/bad-callback").body == b"the others go on"
        assert client.get("/thread").body == b"done"
    assert server.log().count("RuntimeError: a bug in a callback") == 1


def test_a_worker_that_ends_answers_what_waits() -> None:
    with Server("--graceful-timeout", "30", app="tests.server.waiting_app:application") as ending:
        with ending.client() as client, ending.client() as other:
            client.send(request("/gate?last"))
            until(lambda: "waits last" in other.get("/noted").json()["notes"], "it waits", ending)
            other.get("/open-later?last")
            ending.process.terminate()
            assert client.read().body == b"passed last"
        assert ending.exited() == 0


def test_an_application_that_finds_neither_blocks_as_pep_3333_expects() -> None:
    environ: dict[str, object] = {"PATH_INFO": "/thread", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    started: list[str] = []
    pieces = application(environ, lambda status, headers, exc_info=None: started.append(status))  # type: ignore[arg-type]
    assert b"".join(pieces) == b"done"
    assert started == ["200 OK"]
