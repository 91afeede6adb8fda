"""The phased worker speaks HTTP/1.1 and PEP 3333: over a real gunicorn, with raw sockets."""

from __future__ import annotations

import os
import signal
import ssl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import localhost
from tests.server.worker_server import Client, Server, request, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # gunicorn's 2 s would close a connection whose client the busy machine holds up between two requests.
    with Server("--keep-alive", "60") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as connected:
        yield connected


# The one rule.


@contextmanager
def one_turn(server: Server, count: int) -> Iterator[list[Client]]:
    """Connections whose requests, sent inside the block, all become readable at once."""
    clients = [server.client() for _ in range(count)]
    for client in clients:
        client.get("/x")
    (pid,) = server.workers()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: " T " in Path(f"/proc/{pid}/stat").read_text(), "the worker stops", server)
    yield clients
    os.kill(pid, signal.SIGCONT)


def test_a_turn_calls_the_app_for_every_ready_request_before_it_iterates_any_response() -> None:
    with Server() as server, server.client() as asking:
        with one_turn(server, 8) as clients:
            for number, client in enumerate(clients):
                client.send(request(f"/lazy?{number}"))
        assert [client.read().body for client in clients] == [str(number).encode() for number in range(8)]
        told = asking.get("/told").json()
    assert all(event.startswith("call") for event in told[:8]), told
    assert sorted(told[8:]) == sorted(f"{step} {number}" for step in ("iterate", "close") for number in range(8))


def test_a_failure_in_the_second_phase_touches_no_other_request() -> None:
    with Server() as server, server.client() as asking:
        with one_turn(server, 3) as (good, bad, other):
            good.send(request("/lazy?good"))
            bad.send(request("/lazy?bad"))
            other.send(request("/lazy?other"))
        refused = bad.read()
        assert (good.read().body, other.read().body) == (b"good", b"other")
        assert refused.status == 500
        assert "close bad" in asking.get("/told").json()


# Connections.


def test_requests_on_one_connection_are_answered_one_after_another(client: Client) -> None:
    for number in range(50):
        answer = client.get(f"/n{number % 3}", method="POST", body=b"x" * number)
        assert (answer.status, answer.json()["bytes"]) == (200, number)
        assert "connection" not in answer.headers


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send(b"".join(request(f"/{n}", method="POST", body=b"b" * n) for n in range(200)))
    answers = [client.read().json() for _ in range(200)]
    assert [(a["environ"]["PATH_INFO"], a["bytes"]) for a in answers] == [(f"/{n}", n) for n in range(200)]


def test_a_request_is_the_same_however_it_is_cut_into_reads(server: Server) -> None:
    whole = request("/cut", "X-Header: value", method="POST", body=b"0123456789")
    chunked = request("/cut", "Transfer-Encoding: chunked", method="POST")
    chunked += b"4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\n\r\n"
    for data in (whole, chunked):
        for at in range(1, len(data), 7):
            with server.client() as client:
                client.sock.setsockopt(6, 1, 1)
                client.send(data[:at])
                assert client.sock.getpeername()
                client.send(data[at:])
                assert client.read().json()["body"] == "0123456789"


def test_a_request_may_arrive_byte_by_byte(client: Client) -> None:
    client.sock.setsockopt(6, 1, 1)
    for byte in request("/slow?0", method="POST", body=b"abc") * 2:
        client.send(bytes([byte]))
    assert client.read().json()["body"] == client.read().json()["body"] == "abc"


def test_http_10_closes_unless_asked_to_stay(server: Server) -> None:
    with server.client() as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.closed()
    with server.client() as client:
        for _ in range(2):
            client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.read().headers["connection"] == "keep-alive"


def test_connection_close_is_honoured_and_said(client: Client) -> None:
    answer = client.get("/x", "Connection: close")
    assert answer.headers["connection"] == "close"
    assert client.closed()


def test_a_client_that_ends_its_side_still_gets_its_answer(client: Client) -> None:
    client.send(request("/slow?0.1", method="POST", body=b"last words"))
    client.sock.shutdown(1)
    assert client.read().json()["body"] == "last words"
    assert client.closed()


def test_a_body_cut_short_by_the_client_is_refused(client: Client) -> None:
    client.send(request("/x", "Content-Length: 10", method="POST") + b"four")
    client.sock.shutdown(1)
    assert client.read().status == 400


def test_head_gets_the_headers_and_no_body(client: Client) -> None:
    answer = client.get("/x", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    assert client.get("/x").status == 200


def test_expect_100_continue_is_answered_before_the_body(client: Client) -> None:
    client.send(request("/x", "Expect: 100-continue", "Content-Length: 3", method="POST"))
    assert client.read().status == 100
    assert client.send(b"abc").read().json()["body"] == "abc"


def test_no_100_continue_where_the_body_is_already_there(client: Client) -> None:
    assert client.get("/x", "Expect: 100-continue", method="POST", body=b"abc").status == 200


def test_another_expectation_is_refused(client: Client) -> None:
    assert client.get("/x", "Expect: miracles").status == 417


def test_trailers_are_ignored(client: Client) -> None:
    client.send(request("/x", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST"))
    client.send(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n" + request("/next"))
    first = client.read().json()
    assert first["body"] == "abc"
    assert "HTTP_X_SUM" not in first["environ"]
    assert client.read().json()["environ"]["PATH_INFO"] == "/next"


def test_an_empty_line_before_a_request_is_ignored(client: Client) -> None:
    assert client.send(b"\r\n" + request("/x")).read().status == 200


# The environ.


def test_the_environ_is_what_pep_3333_says(client: Client) -> None:
    environ = client.get(
        "/a%20b%C3%A9%2Fc?q=%20&r", "X-Twice: 1", "X-Twice: 2", "Content-Type: text/plain", method="PUT", body=b"hi"
    ).json()["environ"]
    port = str(client.sock.getpeername()[1])
    expected = {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": "/a bÃ©/c",
        "QUERY_STRING": "q=%20&r",
        "RAW_URI": "/a%20b%C3%A9%2Fc?q=%20&r",
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(client.sock.getsockname()[1]),
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "2",
        "HTTP_HOST": "localhost",
        "HTTP_X_TWICE": "1,2",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.input_terminated": True,
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_a_chunked_body_has_no_content_length_in_the_environ(client: Client) -> None:
    client.send(request("/x", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n")
    environ = client.read().json()["environ"]
    assert environ["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert "CONTENT_LENGTH" not in environ


def test_an_absolute_target_names_path_and_host(client: Client) -> None:
    environ = client.get("http://example.org:81/a?b").json()["environ"]
    assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]) == ("/a", "b", "example.org:81")


def test_headers_with_underscores_are_dropped_as_gunicorn_does(client: Client) -> None:
    environ = client.get("/x", "X_Forwarded_For: 6.6.6.6").json()["environ"]
    assert "HTTP_X_FORWARDED_FOR" not in environ


def test_headers_with_underscores_are_refused_where_header_map_says_so() -> None:
    with Server("--header-map", "refuse") as server, server.client() as client:
        assert client.get("/x", "A_b: 1").status == 400


def test_one_connection_does_not_see_what_another_sent(server: Server) -> None:
    with server.client() as one, server.client() as two:
        first, second = one.get("/same").json()["environ"], two.get("/same").json()["environ"]
        assert first["REMOTE_PORT"] == str(one.sock.getsockname()[1])
        assert second["REMOTE_PORT"] == str(two.sock.getsockname()[1])


def test_a_trusted_proxy_sets_the_scheme_and_another_peer_does_not(client: Client) -> None:
    assert client.get("/x", "X-Forwarded-Proto: https").json()["environ"]["wsgi.url_scheme"] == "https"
    with Server("--forwarded-allow-ips", "10.0.0.1") as server, server.client() as stranger:
        environ = stranger.get("/x", "X-Forwarded-Proto: https").json()["environ"]
        assert (environ["wsgi.url_scheme"], environ["HTTP_X_FORWARDED_PROTO"]) == ("http", "https")


def test_contradicting_scheme_headers_are_refused(client: Client) -> None:
    assert client.get("/x", "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off").status == 400


def test_a_trusted_proxy_sets_script_name(client: Client) -> None:
    environ = client.get("/app/x", "SCRIPT_NAME: /app").json()["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/x")
    assert client.get("/other", "SCRIPT_NAME: /app").status == 500


def test_the_validator_of_wsgiref_has_no_complaint(server: Server, client: Client) -> None:
    before = server.log().count("Traceback")
    for method, body in (("GET", b""), ("POST", b"body"), ("POST", b"b" * 200_000), ("HEAD", b"")):
        assert client.get("/validated", method=method, body=body).status == 200, server.log()
    client.send(b"GET /validated HTTP/1.0\r\n\r\n")
    assert client.read().status == 200
    assert server.log().count("Traceback") == before


# Responses.


def test_date_and_server_are_sent_once(client: Client) -> None:
    raw = client.get("/x").raw.lower()
    assert raw.count(b"\r\ndate: ") == raw.count(b"\r\nserver: ") == 1


@pytest.mark.parametrize("path", ["/list", "/generator"])
def test_a_short_response_without_a_length_gets_one(client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.headers["content-length"], answer.body) == ("7", b"one two")


def test_a_long_response_without_a_length_is_chunked(client: Client) -> None:
    answer = client.get("/stream?60")
    assert (answer.headers["transfer-encoding"], len(answer.body)) == ("chunked", 3_000_000)
    assert client.get("/x").status == 200


def test_a_long_response_without_a_length_ends_with_the_connection_in_http_10(client: Client) -> None:
    client.send(b"GET /stream?60 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.read()
    assert (answer.headers["connection"], len(answer.body)) == ("close", 3_000_000)


def test_a_long_response_with_a_length_is_sent_with_it(client: Client) -> None:
    for _ in range(2):
        assert len(client.get("/stream-with-length?60").body) == 3_000_000


def test_no_body_follows_204_304_or_head(client: Client) -> None:
    for status in (204, 304):
        answer = client.get(f"/status?{status}")
        assert answer.status == status
        assert "content-length" not in answer.headers
    assert client.get("/stream?60", method="HEAD").status == 200
    assert client.get("/x").status == 200


def test_write_is_supported(client: Client) -> None:
    assert client.get("/writes").body == b"written and returned"


def test_start_response_may_replace_an_unsent_answer_with_exc_info(client: Client) -> None:
    answer = client.get("/exc-info")
    assert (answer.status, answer.body) == (418, b"short and stout")


@pytest.mark.parametrize("path", ["/raises-in-call", "/starts-twice", "/never-starts", "/splits", "/status?600"])
def test_an_application_error_before_the_head_is_a_500_and_the_end(server: Server, client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status, answer.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert b"stolen" not in answer.raw
    assert client.closed()
    server.wait_for(f"Error handling request GET {path[:-4]}")


def test_an_application_error_after_the_head_aborts_the_connection(server: Server, client: Client) -> None:
    with pytest.raises(ConnectionError):
        client.get("/raises-late")
    server.wait_for("raised after the head was sent")


def test_a_body_shorter_than_its_length_does_not_pass_for_a_whole_one(client: Client) -> None:
    with pytest.raises(ConnectionError):
        client.get("/short")


def test_a_body_longer_than_its_length_is_cut(client: Client) -> None:
    assert client.get("/long").body == b"four"
    assert client.get("/x").status == 200


def test_hop_by_hop_headers_of_the_application_are_left_out(client: Client) -> None:
    answer = client.get("/hop")
    assert (answer.body, "connection" in answer.headers, "transfer-encoding" in answer.headers) == (b"ok", False, False)
    assert client.get("/x").status == 200


def test_every_iterable_is_closed_once(server: Server) -> None:
    with Server() as fresh, fresh.client() as client:
        client.get("/stream?2")
        client.get("/stream?60")
        client.get("/stream?2", method="HEAD")
        with pytest.raises(ConnectionError), fresh.client() as other:
            other.get("/raises-late")
        with fresh.client() as leaver:
            leaver.send(request("/stream?2000"))
            leaver.sock.recv(1000)
        until(lambda: client.get("/told").json().count("close") >= 5, "five closes", fresh)
        assert client.get("/told").json() == ["close"] * 5


def test_a_failing_close_is_logged_and_the_server_goes_on(server: Server, client: Client) -> None:
    client.get("/closes-badly")
    server.wait_for("close failed")
    with server.client() as other:
        assert other.get("/x").status == 200


# Where it listens.


def test_it_serves_unix_sockets_and_several_binds() -> None:
    # Not tmp_path: the path of a socket must be short.
    with (
        tempfile.TemporaryDirectory(prefix="server-") as directory,
        Server(binds=("127.0.0.1:0", f"unix:{directory}/s", "127.0.0.1:0")) as server,
    ):
        for address in server.addresses:
            with Client(address) as client:
                assert client.get("/x").json()["environ"]["SERVER_PORT"] == str(address[1])
        assert len(server.addresses) == 2
        with Client(f"{directory}/s") as client:
            environ = client.get("/x").json()["environ"]
            assert (environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("", "localhost", "80")


def test_it_serves_tls_with_gunicorns_settings(tmp_path: Path) -> None:
    authority, (cert, key) = localhost(tmp_path)
    tls = ssl.create_default_context(cafile=authority)
    with Server("--certfile", cert, "--keyfile", key) as server:
        with server.client(tls=tls) as client:
            for size in (3, 300_000):
                answer = client.get("/x", method="POST", body=b"b" * size).json()
                assert (answer["environ"]["wsgi.url_scheme"], answer["bytes"]) == ("https", size)
            assert len(client.get("/stream?60").body) == 3_000_000
            assert client.get("/x", "Connection: close").headers["connection"] == "close"
            assert client.closed()
        with server.client() as plain:
            plain.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert plain.closed()
        with server.client(tls=tls) as client:
            assert client.get("/x").status == 200


def test_proxy_protocol_is_refused_at_the_start() -> None:
    server = Server("--proxy-protocol", "v1")
    try:
        assert server.exited() != 0
        assert "proxy_protocol is not supported" in server.log()
    finally:
        server.__exit__()


def test_the_access_log_is_gunicorns_when_switched_on() -> None:
    with Server("--access-logfile", "-") as server, server.client() as client:
        client.get("/logged?q=1", "User-Agent: tester")
        server.wait_for(r'127\.0\.0\.1 - - \[.*\] "GET /logged\?q=1 HTTP/1.1" 200 \d+ "-" "tester"')


def test_request_hooks_of_the_configuration_are_called() -> None:
    conf = (
        "def pre_request(worker, req): worker.log.info('pre %s %s', req.method, req.path)\n"
        "def post_request(worker, req, environ, resp): worker.log.info('post %s %s', req.path, resp.status)\n"
    )
    with Server(conf=conf) as server, server.client() as client:
        client.get("/hooked")
        server.wait_for("pre GET /hooked")
        server.wait_for("post /hooked 200 OK")
