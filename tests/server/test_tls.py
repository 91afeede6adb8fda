"""TLS on the phased server, through gunicorn's settings: versions, certificates, both ends of a connection."""

from __future__ import annotations

import contextlib
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.certificates import Authority, Issued, make_ca
from tests.server.test_worker_life import stop, term
from tests.server.tls_client import CLOSE_NOTIFY, TlsClient
from tests.server.worker_server import DEADLINE_SECONDS, Server, request, resident_kib, until
from wsgi.server.tls import secure

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER: on, for 0 s; close() then resets."""
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Made(NamedTuple):
    """The certificates of this file."""

    authority: Authority
    server: Issued


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    authority = make_ca(tmp_path_factory.mktemp("certificates"))
    return Made(authority, authority.issue("localhost", "127.0.0.1"))


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[Server]:
    limits: dict[str, float] = {"head_seconds": 2, "linger_seconds": 20, "linger_idle_seconds": 2}
    with Server(*settings(made), "--log-level", "debug", limits=limits) as running:
        yield running


def settings(made: Made) -> tuple[str, ...]:
    return ("--certfile", made.server.cert, "--keyfile", made.server.key)


def trusting(made: Made, version: ssl.TLSVersion | None = None, cert: Issued | None = None) -> ssl.SSLContext:
    """A client's context: of one version alone, with a certificate of its own."""
    context = ssl.create_default_context(cafile=made.authority.ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if cert is not None:
        context.load_cert_chain(*cert)
    return context


# A client that ends its side and reads on.


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("fin", [False, True], ids=["close_notify", "close_notify and FIN"])
def test_a_client_that_half_closed_got_no_answer(
    server: Server, made: Made, version: ssl.TLSVersion, fin: bool
) -> None:
    context = trusting(made, version)
    for number in range(25):
        with TlsClient(server.address, context) as client:
            client.send(request("/slow?0.01", method="POST", body=b"b" * number * 1000)).close_notify()
            if fin:
                client.fin()
            assert client.read().json()["bytes"] == number * 1000
            assert client.rest() == b""
            assert client.ended == CLOSE_NOTIFY
            assert client.wait_for_fin()


def test_a_half_closed_client_got_no_long_answer_and_none_to_what_it_pipelined(server: Server, made: Made) -> None:
    with TlsClient(server.address, trusting(made)) as client:
        client.send(request("/slow?0.01") + request("/stream?40") + request("/x")).close_notify().fin()
        assert client.read().json()["environ"]["PATH_INFO"] == "/slow"
        assert len(client.read().body) == 2_000_000
        assert client.read().json()["environ"]["wsgi.url_scheme"] == "https"
        assert client.rest() == b""
        assert client.ended == CLOSE_NOTIFY


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_fin_without_close_notify_after_a_whole_request_is_answered(
    server: Server, made: Made, version: ssl.TLSVersion
) -> None:
    with TlsClient(server.address, trusting(made, version)) as client:
        client.send(request("/slow?0.01", method="POST", body=b"b" * 50_000)).fin()
        assert client.read().json()["bytes"] == 50_000
        assert client.rest() == b""
        assert client.ended == CLOSE_NOTIFY


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("ends", ["close_notify", "fin"])
@pytest.mark.parametrize("data", [request("/x", "Content-Length: 4", method="POST") + b"thr", request("/x")[:-1]])
def test_a_request_that_was_cut_short_is_not_accepted(
    made: Made, version: ssl.TLSVersion, ends: str, data: bytes
) -> None:
    with Server(*settings(made)) as server:
        with TlsClient(server.address, trusting(made, version)) as client:
            getattr(client.send(data), ends)()
            assert (client.read().status, client.rest()) == (400, b"")
        with TlsClient(server.address, trusting(made, version)) as client:
            half = client.records(request("/lazy?cut", method="POST", body=b"b" * 100))[:-1]
            client.sock.sendall(half)
            client.fin()
            assert client.rest() == b""
        with TlsClient(server.address, trusting(made)) as client:
            assert client.get("/told").json() == []


# Versions and pieces.


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_requests_of_any_size_in_pieces_of_any_size(server: Server, made: Made, version: ssl.TLSVersion) -> None:
    with TlsClient(server.address, trusting(made, version)) as client:
        assert client.tls.version() == version.name.replace("_", ".")
        for size in (0, 1, 16_383, 16_384, 16_385, 70_000, 3_000_000):
            assert client.get("/x", method="POST", body=b"b" * size).json()["bytes"] == size
        for byte in request("/x", method="POST", body=b"abc"):
            client.send(bytes([byte]))
        assert client.read().json()["body"] == "abc"
        for byte in client.records(request("/x", method="POST", body=b"def")):
            client.sock.sendall(bytes([byte]))
        assert client.read().json()["body"] == "def"
        client.send(request("/x") * 3_000)
        assert [client.read().status for _ in range(3_000)] == [200] * 3_000
        assert client.get("/x", "Connection: close").headers["connection"] == "close"
        assert client.rest() == b""
        assert client.ended == CLOSE_NOTIFY


def test_versions_below_1_2_are_refused(server: Server, made: Made) -> None:
    context = trusting(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of the version, which is the point.
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        TlsClient(server.address, context)


def test_the_ssl_context_hook_of_the_configuration_decides(made: Made) -> None:
    conf = (
        "def ssl_context(conf, default_factory):\n"
        "    context = default_factory()\n"
        "    import ssl; context.minimum_version = ssl.TLSVersion.TLSv1_3\n"
        "    return context\n"
    )
    with Server(*settings(made), conf=conf) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            TlsClient(server.address, trusting(made, ssl.TLSVersion.TLSv1_2))
        with TlsClient(server.address, trusting(made)) as client:
            assert client.get("/x").status == 200


# Client certificates.


@pytest.fixture(scope="module")
def strict(made: Made) -> Iterator[Server]:
    """A server that wants a client certificate of the authority."""
    args = ("--ca-certs", made.authority.ca, "--cert-reqs", "2", "--log-level", "debug")
    with Server(*settings(made), *args) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_client_with_a_certificate_is_served(strict: Server, made: Made, version: ssl.TLSVersion) -> None:
    good = made.authority.issue("client", client=True)
    with TlsClient(strict.address, trusting(made, version, good)) as client:
        assert client.get("/x", method="POST", body=b"b" * 20_000).json()["bytes"] == 20_000


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("which", ["none", "of another authority", "expired", "for servers"])
def test_a_client_without_a_valid_certificate_is_refused_and_told_so(
    strict: Server, made: Made, version: ssl.TLSVersion, which: str, tmp_path: Path
) -> None:
    cert: Issued | None = None
    if which == "of another authority":
        cert = make_ca(tmp_path).issue("other", client=True)
    elif which == "expired":
        cert = made.authority.issue("expired", client=True, expired=True)
    elif which == "for servers":
        cert = made.server
    alerts = {
        "none": "handshake.failure|certificate.required",
        "of another authority": "unknown.ca|decrypt.error",
        "expired": "certificate.expired",
        "for servers": "unsupported.certificate|bad.certificate",
    }
    with pytest.raises(ssl.SSLError, match=rf"(?i)alert.({alerts[which]})"):
        # TLS 1.3: the client learns of it after its own handshake, when it reads.
        TlsClient(strict.address, trusting(made, version, cert)).get("/x", method="POST", body=b"b" * 300_000)
    assert "Traceback" not in strict.log()


def test_an_optional_certificate_may_be_missing_but_not_wrong(made: Made, tmp_path: Path) -> None:
    other = make_ca(tmp_path, "other").issue("other", client=True)
    with Server(*settings(made), "--ca-certs", made.authority.ca, "--cert-reqs", "1") as server:
        with TlsClient(server.address, trusting(made)) as client:
            assert client.get("/x").status == 200
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            TlsClient(server.address, trusting(made, cert=other)).get("/x")


# Clients that mean harm, or are broken.


def test_renegotiation_is_off_whatever_the_configuration_made() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert secure(context) is context
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed here")
def test_a_client_that_renegotiates_is_disconnected(server: Server, made: Made) -> None:
    host, port = server.address
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{host}:{port}",
        "-tls1_2",
        "-CAfile",
        made.authority.ca,
        "-ign_eof",
    ]
    process = subprocess.Popen(
        [each for each in command if each != "-ign_eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request("/x"))
        process.stdin.flush()
        while b"200 OK" not in process.stdout.readline():
            assert process.poll() is None
        process.stdin.write(b"R\n")
        process.stdin.flush()
        server.wait_for("TLS failed: the client wants to renegotiate")
        assert process.wait(DEADLINE_SECONDS) != 0
    finally:
        process.kill()
        process.communicate()


def test_a_handshake_that_takes_too_long_is_ended(server: Server, made: Made) -> None:
    silent = server.client()
    half = server.client()
    hello = TlsClient(server.address, trusting(made), handshake=False)
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.tls.do_handshake()
    words = hello.outgoing.read()
    half.send(words[:-1])
    dribbling, began = server.client(), time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in words[:-1]:
            dribbling.send(bytes([byte]))
            time.sleep(0.02)
            if dribbling_closed(dribbling.sock):
                break
    assert time.monotonic() - began < 0.02 * len(words) + 30
    for client in (silent, half, dribbling):
        assert client.closed()
        client.sock.close()
    hello.sock.close()


def test_a_handshake_in_pieces_and_with_pauses_is_served(server: Server, made: Made) -> None:
    with TlsClient(server.address, trusting(made), handshake=False) as client:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        words = client.outgoing.read()
        for at in range(0, len(words), 100):
            client.sock.sendall(words[at : at + 100])
            time.sleep(0.1)
        client.handshake()
        assert client.get("/x").status == 200


def test_a_client_whose_handshake_failed_has_a_moment_to_end_and_is_then_reset(made: Made) -> None:
    args = (*settings(made), "--keep-alive", "60")
    with Server(*args) as server, TlsClient(server.address, trusting(made)) as bystander:
        assert bystander.get("/x").status == 200
        (pid,) = server.workers()
        open_before = descriptors(pid)
        with server.client() as client:
            client.send(b"\x16\x03\x01\x00\x05hello")
            assert client.rest()[:1] == b"\x15"  # An alert (RFC 8446 section 5.1).
            client.send(b"and more")
            until(lambda: descriptors(pid) == open_before, "it is reset", server)


def dribbling_closed(sock: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    return bool(select.select([sock], [], [], 0)[0])


def test_garbage_harms_nobody_else(server: Server, made: Made) -> None:
    random = Random(13)
    with TlsClient(server.address, trusting(made)) as bystander:
        assert bystander.get("/x").status == 200
        for size in (1, 5, 100, 20_000):
            for start in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
                with server.client() as client, contextlib.suppress(ConnectionError):
                    client.send(start + random.randbytes(size))
                    client.sock.shutdown(socket.SHUT_WR)
                    client.rest()
        for version in VERSIONS:  # Garbage after the handshake, before and behind what is good.
            with TlsClient(server.address, trusting(made, version)) as client, contextlib.suppress(ConnectionError):
                client.sock.sendall(b"\x17\x03\x03\x00\x20" + random.randbytes(32))
                with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                    client.rest()
            with TlsClient(server.address, trusting(made, version)) as client:
                changed = bytearray(client.records(request("/x")))
                changed[-1] ^= 1
                client.sock.sendall(changed)
                with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                    client.rest()
        assert bystander.get("/x").status == 200
    assert "Traceback" not in server.log()


def test_clients_that_reset_in_every_phase_cost_a_debug_line_at_most(server: Server, made: Made) -> None:
    for data in (b"", b"GET / HT", request("/x", "Content-Length: 9", method="POST"), request("/stream?500")):
        for handshake in (False, True):
            client = TlsClient(server.address, trusting(made), handshake=handshake)
            if handshake:
                client.send(data)
            if b"stream" in data and handshake:
                client._fill()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.sock.close()
    with TlsClient(server.address, trusting(made)) as client:
        assert client.get("/x").status == 200
    assert "Traceback" not in server.log()
    assert "[ERROR]" not in server.log()


# Backpressure, both ways.


def test_a_client_that_does_not_read_holds_no_more_than_a_buffer_and_is_reset(made: Made) -> None:
    args = (*settings(made), "--keep-alive", "60")
    with Server(*args, limits={"write_seconds": 3}) as server:
        (pid,) = server.workers()
        with TlsClient(server.address, trusting(made)) as other:
            assert other.get("/x").status == 200
            before, open_before = resident_kib(pid), descriptors(pid)
            clients = [TlsClient(server.address, trusting(made)) for _ in range(5)]
            for client in clients:
                client.send(request("/stream?2000"))  # 100 MB each.
            time.sleep(1)
            assert other.get("/x").status == 200
            assert resident_kib(pid) - before < 20 * 1024
            until(lambda: descriptors(pid) == open_before, "they are reset", server)
            for client in clients:
                client.sock.close()


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_client_that_reads_slowly_gets_all(made: Made) -> None:
    with Server(*settings(made)) as server, TlsClient(server.address, trusting(made)) as client:
        client.send(request("/stream?200"))
        time.sleep(1)
        answer = client.read()
        assert answer.body == b"x" * 200 * 50_000


def test_a_client_that_pipelines_without_end_is_read_no_faster_than_it_is_answered(made: Made) -> None:
    with Server(*settings(made)) as server, TlsClient(server.address, trusting(made)) as client:
        (pid,) = server.workers()
        one = b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n"
        assert client.send(one).read().status == 200
        before, count = resident_kib(pid), 4 * 2**20 // len(one)
        sent = client.records(one * count)
        sender = threading.Thread(target=client.sock.sendall, args=(sent,), daemon=True)
        sender.start()
        time.sleep(1)
        assert resident_kib(pid) - before < 6 * 1024
        for _ in range(count):
            assert client.read().status == 200
        sender.join(DEADLINE_SECONDS)
        assert resident_kib(pid) - before < 6 * 1024


# What a connection leaves behind.


def test_each_connection_leaves_once_however_it_ends(made: Made) -> None:
    """Two connections are allowed: one that was counted for ever would lock others out."""
    with Server(*settings(made), limits={"connections_max": 2, "head_seconds": 2}) as server:
        for turn in range(3):
            plain = server.client().send(b"GET / HTTP/1.1\r\n\r\n")
            plain.closed()
            plain.sock.close()
            server.client().sock.close()
            half = TlsClient(server.address, trusting(made)).send(request("/x")).close_notify()
            assert half.read().status == 200
            half.sock.close()
            refused = TlsClient(server.address, trusting(made)).send(b"NO\r\n\r\n")
            assert refused.read().status == 400
            refused.sock.close()
            late = server.client()
            assert late.closed()
            late.sock.close()
            gone = TlsClient(server.address, trusting(made))
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            gone.sock.close()
            with TlsClient(server.address, trusting(made)) as one, TlsClient(server.address, trusting(made)) as two:
                assert (one.get("/x").status, two.get("/x").status) == (200, 200), turn
                with TlsClient(server.address, trusting(made), handshake=False) as third:
                    third.sock.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        third.handshake()


def test_nothing_of_a_tls_connection_is_a_reference_cycle(made: Made) -> None:
    limits: dict[str, float] = {"collect_every_seconds": 3600, "payload_bytes_max": 100_000}
    args = (*settings(made), "--keep-alive", "60")
    with Server(*args, limits=limits) as server, TlsClient(server.address, trusting(made)) as asking:
        asking.get("/garbage?start")
        for turn in range(3):
            exercise(server, made)
            until(lambda: len(asking.get("/garbage").json()) == 2, f"no garbage after round {turn}", server)
        assert asking.get("/garbage").json() == [False, 0]


def exercise(server: Server, made: Made) -> None:
    """Send every kind of request, and leave in every way."""
    ways = [
        b"", request("/x"), request("/x") * 5, request("/x", method="POST", body=b"b" * 90_000), request("/stream?40"),
        request("/raises-in-call"), request("/raises-late"), request("/generator"), b"NO\r\n\r\n", b"GET /half",
        request("/x", "Content-Length: 10", method="POST") + b"four",
    ]  # fmt: skip
    for version in VERSIONS:
        context = trusting(made, version)
        for data in ways:
            with TlsClient(server.address, context) as client:
                client.send(data).close_notify().fin()
                client.rest()
            with TlsClient(server.address, context) as client:
                client.send(data).fin()
                client.rest()
            with TlsClient(server.address, context) as client:
                client.send(data)
            client = TlsClient(server.address, context).send(data)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.sock.close()
    for data in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
        with server.client() as plain:
            plain.send(data).sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                plain.rest()


# The worker's end.


def test_term_answers_what_was_sent_over_tls(made: Made) -> None:
    with Server(*settings(made), "--graceful-timeout", "20") as server:
        context = trusting(made)
        kept = [TlsClient(server.address, context) for _ in range(10)]
        for client in kept:
            assert client.get("/x").status == 200
        idle = TlsClient(server.address, context)
        assert idle.get("/x").status == 200
        body = TlsClient(server.address, context)
        body.send(request("/x", "Content-Length: 10", method="POST") + b"01234")
        assert idle.get("/x").status == 200
        pid = stop(server)
        for number, client in enumerate(kept):
            client.send(request(f"/{number}", method="POST", body=b"b" * number * 5_000))
            if number % 2:
                client.close_notify()
        term(server, pid)
        for number, client in enumerate(kept):
            assert client.read().json()["bytes"] == number * 5_000
            assert client.rest() == b""
            assert client.ended == CLOSE_NOTIFY
        assert idle.rest() == b""
        assert body.send(b"56789").read().json()["body"] == "0123456789"
        assert server.exited() == 0
        assert "cut off" not in server.log()
        for client in (*kept, idle, body):
            client.sock.close()


def test_a_handshake_that_never_ends_does_not_outlast_graceful_timeout(made: Made) -> None:
    with Server(*settings(made), "--graceful-timeout", "3") as server, server.client() as client:
        with TlsClient(server.address, trusting(made)) as other:
            assert other.get("/x").status == 200
        server.process.send_signal(signal.SIGTERM)
        assert client.closed()
        assert server.exited() == 0
        assert "SIGKILL" not in server.log()
        assert "Traceback" not in server.log()
