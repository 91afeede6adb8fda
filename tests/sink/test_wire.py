"""Partial writes, split replies and TLS: a relay between the sink and a real store."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sink.relay import Relay, tls_context
from tests.sink.support import Sink, Store, driver, refused
from tests.support import entries
from wsgi.sink.driver import Driver
from wsgi.sink.durability import SYNCED
from wsgi.sink.wire import Wire

pytestmark = pytest.mark.usefixtures("driven")

BULK = [b"%06d" % number + b"x" * 494 for number in range(10_000)]  # 5 MB
BUFFER_BYTES = 16_384
"""Of the sockets: small, so that they take a part of what is written."""


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    found = Store("--appendonly", "yes", "--appendfsync", "always")
    yield found
    found.close()


def lines(store: Store, stream: str) -> list[bytes]:
    return [line for _, fields in entries(store.client, stream) for line in fields[b"r"].split(b"\n")]


def test_requests_and_replies_that_come_byte_by_byte(store: Store, stream: str) -> None:
    relay = Relay(str(store.path), bytes_max=1)
    try:
        subject = Sink(f"redis://127.0.0.1:{relay.port}", stream, commit_timeout_ms=30_000, entry_bytes_max=8)
        tickets = [subject.append([b"1111", b"2222"]), subject.append([b"3333"], SYNCED), subject.append([b"4444"])]
        for ticket in tickets:
            ticket.commit()
        subject.check()
        assert [len(ticket.addresses()) for ticket in tickets] == [2, 1, 1]
        assert sorted(lines(store, stream)) == [b"1111", b"2222", b"3333", b"4444"]
    finally:
        relay.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_big_batch_is_written_in_parts_and_stored_once(
    tls: bool, store: Store, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cert = tls_context(tmp_path) if tls else (None, "")
    relay = Relay(str(store.path), bytes_max=30_000, tls=context)
    url = f"rediss://localhost:{relay.port}?ssl_ca_certs={cert}" if tls else f"redis://127.0.0.1:{relay.port}"
    whole, parts = Wire.send, []

    def send(wire: Wire, data: Any) -> int:
        sent = whole(wire, data)
        parts.append(sent < len(data))
        return sent

    def narrow(of: Driver) -> Any:
        sock = of._connection._sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        return sock

    monkeypatch.setattr(Wire, "send", send)
    monkeypatch.setattr(Driver, "socket", narrow)
    try:
        subject = Sink(url, stream, commit_timeout_ms=30_000, inflight_bytes_max=20_000_000)
        for bulk in (BULK[:1], BULK[1:9_999], BULK[9_999:]):
            subject.append(list(bulk)).commit()
        tickets = [subject.append([b"%d" % number]) for number in range(3)]
        for ticket in tickets:
            ticket.commit()
        assert lines(store, stream) == [*BULK, b"0", b"1", b"2"]
        assert any(parts)
    finally:
        relay.close()


def test_more_than_one_read_of_replies_is_taken_in_one_go_over_tls(store: Store, stream: str, tmp_path: Path) -> None:
    """Bytes that TLS has decrypted and poll does not see are read too: nothing waits for a reply that is there."""
    context, cert = tls_context(tmp_path)
    relay = Relay(str(store.path), tls=context)
    try:
        subject = driver(f"rediss://localhost:{relay.port}?ssl_ca_certs={cert}")
        subject.connect()
        wire = Wire(subject.socket())
        for _ in range(200):
            assert wire.send(b"*2\r\n$4\r\nECHO\r\n$1000\r\n%b\r\n" % (b"x" * 1_000))
        found: list[Any] = []
        while len(found) < 200:
            assert wire.wait(30_000)
            found += wire.receive()
        assert found == [b"x" * 1_000] * 200
        subject.close()
    finally:
        relay.close()


def test_a_reply_that_never_ends_does_not_move_the_deadline(stream: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while b"XADD" not in (data := connection.recv(65_536)):
                    connection.sendall(b"+OK\r\n" * data.count(b"SETINFO"))
                connection.sendall(b"$1000000\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.01)

        threading.Thread(target=drip, daemon=True).start()
        subject = Sink(f"redis://127.0.0.1:{listener.getsockname()[1]}", stream, commit_timeout_ms=500)
        subject.batches._watch = lambda: None
        with refused("sink-outcome-unknown", match=r"nothing within 0\.5 s"):
            subject.append([b"1"]).commit()
