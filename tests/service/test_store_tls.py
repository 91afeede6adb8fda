"""A store that is reached over TLS (``rediss://``): certificates, users, and everything that talks to it.

The store is Debian's redis-server; the wheel's valkey-server is built without TLS.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.certificates import Authority, Issued, make_ca
from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, RECORD, ROOT, Server, record, stored_lines, wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="Debian's redis-server is not installed here"
)


class TlsStore:
    """redis-server with a TLS port, and a unix socket for the test itself. It keeps an append-only file."""

    def __init__(self, ca: Authority, server: Issued, *, client_certificates: bool = False) -> None:
        self.ca, self.directory = ca, Path(tempfile.mkdtemp(prefix="inlet-"))
        self.path = self.directory / "s.sock"
        self._options = [
            "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.directory), "--save", "", "--appendonly",
            "yes", "--appendfsync", "always", "--tls-cert-file", server.cert, "--tls-key-file", server.key,
            "--tls-ca-cert-file", ca.ca, "--tls-auth-clients", "yes" if client_certificates else "no",
        ]  # fmt: skip
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        while self.process is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
            self.start()

    def start(self) -> None:
        """Start it on its port; ``process`` stays None if another process has taken that."""
        process = subprocess.Popen(
            ["redis-server", *self._options, "--tls-port", str(self.port)], stdout=subprocess.DEVNULL
        )

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.client.ping())
            return process.poll() is not None

        wait_until(answers, "redis-server answers")
        self.process = process if process.poll() is None else None

    def stop(self) -> None:
        """Kill it; what it answered is in its append-only file."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE_SECONDS)
            self.process = None

    def url(self, *options: str, user: str = "", host: str = "localhost", ca: Authority | None = None) -> str:
        """REDIS_URL, with the authority that is trusted and ``options`` in its query."""
        query = "&".join([f"ssl_ca_certs={(ca or self.ca).ca}", *options])
        return f"rediss://{user}{host}:{self.port}/0?{query}"

    def close(self) -> None:
        """End it and remove its files."""
        self.client.close()
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


Run = Callable[..., TlsStore]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_ca(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(ca: Authority) -> Issued:
    return ca.issue("localhost", "127.0.0.1")


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a store; stopped after the test."""
    with contextlib.ExitStack() as stores:

        def start(*args: Any, **options: Any) -> TlsStore:
            store = TlsStore(*args, **options)
            stores.callback(store.close)
            return store

        yield start


def post(server: Server, *event_ids: str, level: str = "stored") -> httpx.Response:
    content = "\n".join(ujson.dumps(record(event_id)) for event_id in event_ids)
    headers = {"Content-Type": "application/x-ndjson", "Inlet-Durability": level}
    return httpx.post(server.url + "/ingest", content=content, headers=headers, timeout=DEADLINE_SECONDS)


def accepts(server: Server, event_id: str) -> bool:
    return post(server, event_id).status_code == 202


def ready(server: Server) -> httpx.Response:
    return httpx.get(server.url + "/readyz", timeout=DEADLINE_SECONDS)


def is_ready(server: Server) -> bool:
    return ready(server).status_code == 200


def ids(store: TlsStore) -> list[str]:
    return [line[0] for line in stored_lines(store.client, "logs")]


def test_commits_looks_trimming_and_reading_all_work_over_tls(
    serve: Serve, run: Run, ca: Authority, certificate: Issued
) -> None:
    store = run(ca, certificate)
    server = serve(
        "--workers", "2", REDIS_URL=store.url(), INLET_RETENTION="entries=90", INLET_BACKLOG_MAX="1000000",
        INLET_DEDUP_SECONDS="60", INLET_KEEP_REJECTED="1",
    )  # fmt: skip
    wait_until(lambda: is_ready(server), "it is ready")
    for number in range(80):
        assert post(server, f"e-{number}").status_code == 202
    assert post(server, "e-79").status_code == 202
    assert ids(store) == [f"e-{number}" for number in range(80)]
    words = [sys.executable, "-m", "inlet", "read", "--group", "g", "--once", "--url", store.url()]
    read = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert (read.returncode, len(read.stdout.splitlines())) == (0, 80), read.stderr
    for number in range(80, 95):
        wait_until(partial(accepts, server, f"e-{number}"), "it is accepted")
    wait_until(lambda: store.client.xlen("logs") <= 90, "the keeper trims what was read")


def test_a_bulk_of_many_tls_records_goes_through_and_so_do_many_at_once(
    serve: Serve, run: Run, ca: Authority, certificate: Issued
) -> None:
    """A bulk of 6 MB fills the socket's buffer, so that TLS wants to go on later in the middle of a record."""
    store = run(ca, certificate)
    server = serve("--workers", "1", REDIS_URL=store.url())
    wait_until(lambda: is_ready(server), "it is ready")
    big = [record(f"e-{number}", message="m" * 1_000) for number in range(5_000)]
    for level in ("stored", "received"):
        headers = {"Inlet-Durability": level}
        answer = httpx.post(server.url + "/ingest", json=big, headers=headers, timeout=DEADLINE_SECONDS)
        assert answer.status_code == 202, answer.text
    wait_until(lambda: len(ids(store)) == 10_000, "all are stored")
    assert ids(store) == [f"e-{number}" for number in range(5_000)] * 2


def test_a_user_of_the_acl_over_tls(serve: Serve, run: Run, ca: Authority, certificate: Issued) -> None:
    store = run(ca, certificate)
    store.client.execute_command("ACL", "SETUSER", "inlet", "on", ">hunter2hunter2", "~logs", "+xadd", "+info", "+type")
    server = serve("--workers", "1", "--log-level", "debug", REDIS_URL=store.url(user="inlet:hunter2hunter2@"))
    wait_until(lambda: is_ready(server), "it is ready")
    assert post(server, "e-1").status_code == 202
    wrong = serve("--workers", "1", "--log-level", "debug", REDIS_URL=store.url(user="inlet:wrongwrong@"))
    answer = post(wrong, "e-2")
    assert (answer.status_code, answer.json()["reason"]) == (503, "sink-misconfigured")
    assert ids(store) == ["e-1"]
    assert "hunter2hunter2" not in server.log()
    assert "wrongwrong" not in wrong.log() + answer.text


def test_a_client_certificate_is_shown_where_the_store_wants_one(
    serve: Serve, run: Run, ca: Authority, certificate: Issued, tmp_path: Path
) -> None:
    store = run(ca, certificate, client_certificates=True)
    own = ca.issue("inlet", client=True)
    server = serve("--workers", "1", REDIS_URL=store.url(f"ssl_certfile={own.cert}", f"ssl_keyfile={own.key}"))
    wait_until(lambda: is_ready(server), "it is ready")
    assert post(server, "e-1").status_code == 202
    stranger = make_ca(tmp_path, "stranger").issue("inlet", client=True)
    other = [f"ssl_certfile={stranger.cert}", f"ssl_keyfile={stranger.key}"]
    for options in ([], other):
        refused = serve("--workers", "1", REDIS_URL=store.url(*options))
        answer = post(refused, "e-2")
        assert (answer.status_code, answer.json()["reason"]) == (503, "sink-unavailable"), answer.text
        assert "cannot be reached" in answer.json()["detail"]
        assert not is_ready(refused)
    assert ids(store) == ["e-1"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("another authority", "certificate verify failed"),
        ("another host", "certificate verify failed: Hostname mismatch"),
        ("expired", "certificate verify failed: certificate has expired"),
        ("plain", "the store cannot be reached"),
    ],
)
def test_a_store_that_cannot_prove_who_it_is_gets_nothing_and_the_reason_is_clear(
    serve: Serve, run: Run, ca: Authority, certificate: Issued, tmp_path: Path, what: str, said: str
) -> None:
    issued = {"another host": ca.issue("elsewhere.example"), "expired": ca.issue("localhost", expired=True)}
    store = run(ca, issued.get(what, certificate))
    url = store.url(ca=make_ca(tmp_path, "another")) if what == "another authority" else store.url()
    if what == "plain":  # No TLS towards a port that speaks nothing else.
        url = f"redis://localhost:{store.port}/0"
    server = serve("--workers", "1", REDIS_URL=url)
    answer = wait_until(
        lambda: (found := ready(server)).status_code == 503 and said in found.text and found, "the reason"
    )
    assert answer.json()["reason"] == "sink-unavailable"
    refused = post(server, "e-1")
    assert (refused.status_code, refused.json()["reason"]) == (503, "sink-unavailable")
    assert said in refused.json()["detail"]
    wait_until(lambda: said in server.log(), "the log says why")
    assert store.client.xlen("logs") == 0


def test_files_that_were_renewed_are_read_without_a_restart(
    serve: Serve, run: Run, ca: Authority, certificate: Issued, tmp_path: Path
) -> None:
    store = run(ca, certificate)
    trusted = shutil.copy(make_ca(tmp_path, "another").ca, tmp_path / "trusted.pem")
    server = serve("--workers", "1", REDIS_URL=f"rediss://localhost:{store.port}/0?ssl_ca_certs={trusted}")
    wait_until(lambda: "certificate verify failed" in ready(server).text, "the old file is refused")
    shutil.copy(ca.ca, trusted)
    wait_until(lambda: is_ready(server), "the new file is read")
    wait_until(partial(accepts, server, "e-1"), "it accepts records")


def test_a_store_that_is_killed_comes_back_over_tls_and_nothing_is_lost(
    serve: Serve, run: Run, ca: Authority, certificate: Issued
) -> None:
    store = run(ca, certificate)
    server = serve("--workers", "2", REDIS_URL=store.url(), INLET_COMMIT_TIMEOUT_MS="500")
    wait_until(lambda: is_ready(server), "it is ready")
    accepted = []
    number = 0
    for _ in range(3):
        for _ in range(30):
            number += 1
            if post(server, f"e-{number}").status_code == 202:
                accepted.append(f"e-{number}")
        store.stop()
        wait_until(lambda: post(server, "lost").status_code == 503, "the circuit opens")
        wait_until(lambda: not is_ready(server), "it is not ready")
        while store.process is None:
            store.start()
            time.sleep(0.05)
        wait_until(lambda: is_ready(server), "it is ready again")
        wait_until(lambda: post(server, "back").status_code == 202, "the circuit closes")
    assert len(accepted) >= 60
    assert set(accepted) <= set(ids(store))
    assert [line for line in ids(store) if line in set(accepted)] == accepted
    assert stored_lines(store.client, "logs")[0][2] == RECORD["service"]
