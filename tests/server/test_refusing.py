"""What the server itself refuses can be found: in the access log, and by what the client said about its request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.worker_server import Server, request, until
from wsgi.server.refusing import FIELDS_READ_MAX, READ_BYTES_MAX, TARGET_CHARS_MAX, read

CONF = (
    "def refuse(status, detail, environ):\n"
    "    return f'{status} Refused', [('X-Id', environ.get('HTTP_X_REQUEST_ID', 'none'))], detail.encode()\n"
    "worker_class.configure(refuse=refuse)\n"
    'access_log_format = \'LINE %(h)s "%(r)s" %(s)s %(m)s %(U)s?%(q)s "%(f)s" "%(a)s" %({x-id}o)s\'\n'
)
LIMITS: dict[str, float] = {
    "head_seconds": 1,
    "body_idle_seconds": 1,
    "payload_bytes_max": 1000,
    "held_bytes_max": 2000,
}
AGENT = "User-Agent: me/1"
OWN = "X-Request-Id: mine"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--access-logfile", "-", "--limit-request-line", "4000", limits=LIMITS, conf=CONF) as running:
        yield running


def raw(line: str, *fields: str, end: str = "\r\n\r\n") -> bytes:
    return ("\r\n".join([line, *fields]) + end).encode("latin-1")


def line_of(server: Server, data: bytes) -> tuple[int, str, str]:
    """Send; the status and the id of the answer, and the one line that the access log gets."""
    before = server.log().count("LINE ")
    with server.client() as client:
        answer = client.send(data).read(method=data[:4].decode("latin-1").strip())
    until(lambda: server.log().count("LINE ") > before, "a line", server)
    found = [line for line in server.log().splitlines() if line.startswith("LINE ")][before:]
    assert len(found) == 1, found
    return answer.status, answer.headers["x-id"], found[0].removeprefix("LINE 127.0.0.1 ")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (raw("GET /a?b=1 HTTP/1.1", "Host: a b", OWN, AGENT, "Referer: http://x/"),
         '"GET /a?b=1 HTTP/1.1" 400 GET /a?b=1 "http://x/" "me/1" mine'),
        (raw("GET /a HTTP/1.1", OWN, AGENT), '"GET /a HTTP/1.1" 400 GET /a? "-" "me/1" mine'),
        (raw("GET /a HTTP/1.1", "Host: x", "Expect: foo", OWN), '"GET /a HTTP/1.1" 417 GET /a? "-" "-" mine'),
        (raw("FOO /a%20b HTTP/1.1", "Host: x", OWN), '"FOO /a%20b HTTP/1.1" 501 FOO /a b? "-" "-" mine'),
        (raw("GET /a HTTP/3.0", "Host: x", OWN), '"GET /a HTTP/3.0" 505 GET /a? "-" "-" mine'),
        (raw("POST /a HTTP/1.1", "Host: x", OWN, "Content-Length: 1001"),
         '"POST /a HTTP/1.1" 413 POST /a? "-" "-" mine'),
        (raw("POST /a HTTP/1.1", "Host: x", OWN, "Content-Length: 9" + "9" * 30),
         '"POST /a HTTP/1.1" 413 POST /a? "-" "-" mine'),
        (raw("POST /a HTTP/1.1", "Host: x", OWN, "Transfer-Encoding: chunked") + b"zz\r\n",
         '"POST /a HTTP/1.1" 400 POST /a? "-" "-" mine'),
        (raw("POST /a HTTP/1.1", "Host: x", OWN, "Content-Length: 9") + b"1",
         '"POST /a HTTP/1.1" 408 POST /a? "-" "-" mine'),
        (raw("GET /a HTTP/1.1", "Host: x", OWN, "X-Hal", end=""), '"GET /a HTTP/1.1" 408 GET /a? "-" "-" mine'),
        # A field that may not be complete is not taken.
        (raw("GET /a HTTP/1.1", "Host: x", OWN, end=""), '"GET /a HTTP/1.1" 408 GET /a? "-" "-" none'),
        (raw("GET /a HTTP/1.1", "Host: x", OWN, f"X-Long: {'a' * 9000}"),
         '"GET /a HTTP/1.1" 431 GET /a? "-" "-" mine'),
        (raw("HEAD /a HTTP/1.1", OWN), '"HEAD /a HTTP/1.1" 400 HEAD /a? "-" "-" mine'),
        (b"GET /a HTTP/1.1\nHost: x\nX-Request-Id: mine\n\nUser-Agent: of a body\r\n\r\n",
         '"GET /a HTTP/1.1" 400 GET /a? "-" "-" mine'),
        (b"\x00\x01\x02\r\n\r\n", '"- - -" 400 - -? "-" "-" none'),
        (b'{"a": "GET /secret HTTP/1.1"}\r\n\r\n', '"- - -" 400 - -? "-" "-" none'),
        (b"GET /" + b"a" * 9000,
         f'"GET /{"a" * (TARGET_CHARS_MAX - 1)}... -" 414 GET /{"a" * (TARGET_CHARS_MAX - 1)}...? "-" "-" none'),
        (request("/raises-in-call", OWN), '"GET /raises-in-call HTTP/1.1" 500 GET /raises-in-call? "-" "-" mine'),
        # The application has the environ of a head that is too long to be kept.
        (request("/never-starts", OWN, f"X-Long: {'a' * 3000}"),
         '"GET /never-starts HTTP/1.1" 500 GET /never-starts? "-" "-" none'),
    ],
)  # fmt: skip
def test_a_refusal_had_no_line_in_the_access_log(server: Server, data: bytes, line: str) -> None:
    """Regression: 400, 408, 413, 414, 417, 431, 501, 505 were in no log, and nobody got its own id back."""
    _, answer_id, logged = line_of(server, data)
    assert (logged, answer_id) == (line, line.rpartition(" ")[2])


def test_what_is_behind_a_refused_head_is_not_read(server: Server) -> None:
    data = raw("GET /a HTTP/1.1", "Host: a b") + raw("GET /b HTTP/1.1", "Host: x", OWN)
    assert line_of(server, data)[:2] == (400, "none")


def test_a_request_before_it_does_not_lend_its_id(server: Server) -> None:
    with server.client() as client:
        client.get("/x", OWN, AGENT)
        answer = client.send(b"\x00\r\n\r\n").read()
        assert (answer.status, answer.headers["x-id"]) == (400, "none")


def test_without_an_access_log_a_refusal_leaves_nothing_in_the_log() -> None:
    with Server(limits=LIMITS, conf=CONF) as server:
        before = server.log()
        for data in (b"\x00\r\n\r\n", raw("GET /a HTTP/1.1", "Host: a b"), raw("FOO / HTTP/1.1", "Host: x")):
            with server.client() as client:
                assert client.send(data).read().status in (400, 501)
                client.rest()
        assert server.log() == before


def test_the_hooks_do_not_see_a_refusal() -> None:
    hooks = "def pre_request(worker, req): print('HOOK')\ndef post_request(worker, req): print('HOOK')\n"
    with Server("--access-logfile", "-", conf=CONF + hooks) as server:
        line_of(server, b"\x00\r\n\r\n")
        assert "HOOK" not in server.log()


def part(environ: dict[str, Any], *names: str) -> list[Any]:
    return [environ.get(name) for name in names]


def test_fields_are_read_up_to_their_bounds() -> None:
    fields = "".join(f"X-{number}: {number}\r\n" for number in range(FIELDS_READ_MAX + 1))
    environ = read(f"GET / HTTP/1.1\r\n{fields}".encode())
    assert part(environ, f"HTTP_X_{FIELDS_READ_MAX - 1}", f"HTTP_X_{FIELDS_READ_MAX}") == [
        str(FIELDS_READ_MAX - 1), None,
    ]  # fmt: skip
    start = b"GET / HTTP/1.1\r\nA: b\r\nX: "
    rest = READ_BYTES_MAX - len(start)
    assert read(start + b"x" * (rest - 1) + b"\nB: c\r\n")["HTTP_X"] == "x" * (rest - 1)
    assert part(read(start + b"x" * rest + b"\r\nB: c\r\n"), "HTTP_A", "HTTP_X") == ["b", None]


def test_targets_are_cut_at_their_bound() -> None:
    fits = "/" + "x" * (TARGET_CHARS_MAX - 1)
    assert read(f"GET {fits} HTTP/1.1\r\n".encode())["RAW_URI"] == fits
    assert read(f"GET {fits}y HTTP/1.1\r\n".encode())["RAW_URI"] == fits + "..."


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ["-", "-", "-"]),
        (b"GET /a b HTTP/1.1\r\n", ["GET", "/a b", "HTTP/1.1"]),
        (b"GET /a", ["GET", "/a", "-"]),
        (b"GET /a HTTP/x\r\n", ["GET", "/a", "-"]),
        (b"got /a", ["-", "-", "-"]),
        (b"my secret and / more", ["-", "-", "-"]),
        (b"\xff\xfe HTTP/1.1", ["-", "-", "-"]),
    ],
)
def test_only_what_looks_like_a_request_line_is_taken_for_one(data: bytes, expected: list[str]) -> None:
    assert part(read(data), "REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL") == expected


def test_repeated_fields_are_joined_and_nameless_ones_left_out() -> None:
    data = b"GET / HTTP/1.1\r\nX: a\r\nx: b\r\nX_Y: c\r\nbad name: d\r\nno colon\r\nContent-Type: e\r\n"
    environ = read(data)
    assert part(environ, "HTTP_X", "HTTP_X_Y", "CONTENT_TYPE") == ["a,b", None, "e"]
    assert not [key for key in environ if " " in key]
