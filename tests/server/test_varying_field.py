"""A last header whose value differs each time costs no new head, and goes out as it would without the shortcut."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.worker_server import Server, request
from wsgi.server.exchange import FAILED, Exchange
from wsgi.server.head import CLOSE, KEEP_ALIVE, KEEP_ALIVE_10
from wsgi.server.limits import Limits
from wsgi.server.response import HEADS_CACHED_MAX, VARYING
from wsgi.server.shared import ServerState

LOG = logging.getLogger("tests.quiet")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())
BODY = b"stored\n"
Headers = list[tuple[str, str]]


class Written:
    """What an exchange sends its client."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def state() -> ServerState:
    made = ServerState(Limits(), call_soon=lambda *args: None, log=LOG)
    made.heads.tick(1_700_000_000.0)
    return made


def answer(server: ServerState, headers: Any, mode: int = KEEP_ALIVE, status: str = "202 Accepted") -> bytes | int:
    """The bytes of one answer, or FAILED."""
    exchange = Exchange(server)
    exchange.transport = written = Written()
    exchange.head = SENDS_BODY
    exchange.start_response(status, headers)
    outcome = exchange.answer([BODY], mode)
    return written.data if outcome == mode else outcome


class _SendsBody:
    sends_body, http10, method, uri = True, False, "POST", "/"


SENDS_BODY = _SendsBody()


def with_id(value: Any, *more: tuple[str, str], name: str = VARYING) -> Headers:
    return [("content-type", "text/plain"), ("content-length", str(len(BODY))), *more, (name, value)]


VALUES = [
    "r-1", "a" * 128, "", " ", "~", "r\r\nSet-Cookie: a=b", "r\n", "\n", "r\r", "\0", "\x7f", "\x1b[0m", "\t", "\xe9",
    "\xff", "\x80", "\u20ac", "\u2028", "\ud800", b"r-1", 1, None,
]  # fmt: skip


@pytest.mark.parametrize("mode", [KEEP_ALIVE, CLOSE, KEEP_ALIVE_10])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_sent_or_refused_as_without_the_shortcut(mode: int, value: Any) -> None:
    warm = state()
    assert isinstance(answer(warm, with_id("first"), mode), bytes)
    assert warm.varied
    assert answer(warm, with_id(value), mode) == answer(state(), with_id(value), mode)


@pytest.mark.parametrize("value", ["r\r\nA: b", "r\n", "\0", "\x7f", "\u20ac", b"r-1", None], ids=repr)
def test_a_hostile_value_is_refused(value: Any) -> None:
    warm = state()
    answer(warm, with_id("first"))
    assert answer(warm, with_id(value)) == FAILED


@given(st.text(max_size=40))
def test_any_text_is_sent_or_refused_as_without_the_shortcut(value: str) -> None:
    warm = state()
    answer(warm, with_id("first"))
    assert answer(warm, with_id(value)) == answer(state(), with_id(value))


def test_the_heads_that_are_remembered_do_not_grow_with_the_values() -> None:
    server = state()
    for number in range(3 * HEADS_CACHED_MAX):
        sent = answer(server, with_id(f"r-{number}"))
        assert isinstance(sent, bytes)
        assert sent.endswith(b"\r\nx-request-id: r-%d\r\n\r\nstored\n" % number)
    assert (len(server.plain), len(server.varied)) == (0, 1)


@pytest.mark.parametrize("last", [False, True])
def test_both_kinds_of_heads_stay_under_one_bound(last: bool) -> None:
    server = state()
    for number in range(3 * HEADS_CACHED_MAX):
        headers = with_id(f"r-{number}", ("x-other", str(number)))
        answer(server, headers if last else headers[::-1])
        assert len(server.plain) + len(server.varied) <= HEADS_CACHED_MAX


def test_another_length_status_or_field_is_another_head() -> None:
    server = state()
    sent, again = (
        [
            answer(server, with_id("r")),
            answer(server, with_id("r"), status="200 OK"),
            answer(server, with_id("r", ("a", "b"))),
            answer(server, with_id("r")[:-1]),
            answer(server, [("content-length", "3"), (VARYING, "r")]),
            answer(server, with_id("r", (VARYING, "q"))),
            answer(server, with_id("r", name="X-Request-Id")),
            answer(server, [(VARYING, "r")]),
        ]
        for _ in range(2)
    )
    assert sent == again
    assert len(set(sent)) == len(sent)


def test_over_a_socket_the_second_answer_differs_from_the_first_in_the_value_alone() -> None:
    app = "tests.server.varying_app:application"
    with Server(app=app) as server, server.client() as client:
        for number in range(5):
            answered = client.get(f"/?r-{number}")
            assert answered.headers["x-request-id"] == f"r-{number}"
            assert answered.raw.split(b"\r\n")[-1] == b"x-request-id: r-%d" % number
        assert client.get("/?r-5", "Connection: close").raw.endswith(b"x-request-id: r-5\r\nConnection: close")
    with Server(app=app) as server, server.client() as client:
        client.send(request("/?r-1") + request("/?r%0d%0aSet-Cookie:a") + request("/?r-2"))
        assert client.read().status == 200
        assert client.read().status == 500
        assert b"Set-Cookie" not in client.rest()
