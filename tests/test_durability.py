"""The four levels over stores with and without an append-only file or a replica; the circuit; what is in hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, record, stored_lines, wait_until
from tests.test_sink import link, once_closed, sink
from wsgi.backpressure import Backpressure
from wsgi.durability import RECEIVED, REPLICATED, STORED, SYNCED
from wsgi.errors import (
    DurabilityTimeout,
    DurabilityUnavailable,
    Overloaded,
    SinkError,
    SinkMisconfigured,
    SinkOutcomeUnknown,
    SinkUnavailable,
)
from wsgi.sink import Sink
from wsgi.store import _server_binary

JSON = {"Content-Type": "application/json"}


class Store:
    """A valkey-server with options of its own, on a unix socket and a TCP port."""

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-"))
        self.path = self.directory / "s.sock"
        self.url = f"unix://{self.path}"
        self.process = subprocess.Popen(
            [_server_binary(), "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.directory),
             "--save", "", "--repl-diskless-sync-delay", "0", *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.client.ping())
            return False

        wait_until(answers, "the store answers")

    def close(self) -> None:
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def stores() -> Iterator[Any]:
    started: list[Store] = []

    def start(*options: str) -> Store:
        started.append(Store(*options))
        return started[-1]

    yield start
    for store in started:
        store.close()


@pytest.fixture
def pair(stores: Any) -> tuple[Store, Store]:
    """A primary and its replica, connected."""
    primary = stores()
    primary.client.config_set("port", str(free_port()))
    replica = stores("--replicaof", f"127.0.0.1 {primary.client.config_get('port')['port']}")
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica is connected")
    return primary, replica


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_synced_waits_for_the_append_only_file(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "yes", "--appendfsync", "always")
    subject = sink(store.url, stream, level=SYNCED)
    ticket = subject.append([b"1"])
    assert ticket.level == SYNCED
    ticket.commit()
    subject.check()
    assert store.client.xlen(stream) == 1


def test_synced_over_a_store_that_does_not_fsync_always_is_refused(valkey: str, stream: str) -> None:
    """Regression: WAITAOF of Valkey 9.1 replies before the fsync under everysec, which made false 202s."""
    subject = sink(valkey, stream, level=SYNCED)
    with pytest.raises(DurabilityUnavailable, match="it is everysec"):
        subject.check()
    with pytest.raises(DurabilityUnavailable, match="it is everysec"):
        subject.append([b"1"]).commit()


def test_synced_where_the_setting_cannot_be_read_is_refused(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "yes", "--appendfsync", "always")
    store.client.execute_command("ACL", "SETUSER", "adder", "on", ">pw", f"~{stream}", "+xadd", "+waitaof")
    subject = sink(f"unix://adder:pw@{store.path}", stream, level=SYNCED)
    with pytest.raises(DurabilityUnavailable, match="CONFIG GET is refused"):
        subject.append([b"1"]).commit()


def test_synced_without_an_append_only_file_is_refused_and_not_ready(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "no")
    subject = sink(store.url, stream, level=SYNCED)
    with pytest.raises(DurabilityUnavailable, match="it is everysec"):
        subject.check()
    store.client.config_set("appendfsync", "always")
    with pytest.raises(DurabilityUnavailable, match="appendonly is disabled"):
        subject.check()
    with pytest.raises(DurabilityUnavailable):
        subject.append([b"1"]).commit()


def test_synced_on_a_server_that_has_no_waitaof_says_so(redis7: str, stream: str) -> None:
    with redis.Redis.from_url(redis7) as client:
        client.config_set("appendfsync", "always")
    subject = sink(redis7, stream, level=SYNCED)
    with pytest.raises(DurabilityUnavailable, match="unknown command"):
        subject.check()


def test_a_request_may_ask_for_more_and_the_others_of_its_commit_do_not_fail_with_it(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "no")
    subject = sink(store.url, stream)
    plain, more = subject.append([b"1"]), subject.append([b"2"], SYNCED)
    plain.commit()
    with pytest.raises(DurabilityUnavailable):
        more.commit()
    subject.append([b"3"]).commit()  # the circuit stayed closed: the default level is reached
    assert store.client.xlen(stream) == 2


def test_a_request_that_asks_for_less_gets_the_default(valkey: str, stream: str) -> None:
    subject = sink(valkey, stream, level=SYNCED)
    assert [subject.append([b"1"], level).level for level in (RECEIVED, STORED)] == [SYNCED, SYNCED]


def test_replicated_counts_the_replicas_and_recovers(pair: tuple[Store, Store], stream: str) -> None:
    primary, replica = pair
    subject = sink(primary.url, stream, level=REPLICATED, commit_timeout_ms=800)
    subject.check()
    subject.append([b"1"]).commit()
    assert replica.client.xlen(stream) == 1
    replica.process.send_signal(signal.SIGSTOP)
    with pytest.raises(DurabilityTimeout, match="0 of 1 replicas"):
        subject.append([b"2"]).commit()
    with pytest.raises(SinkError, match=r"0 of 1 replicas|not tried"):
        subject.check()
    replica.process.send_signal(signal.SIGCONT)
    once_closed(subject, b"3").commit()
    assert replica.client.xlen(stream) == 3


def test_received_answers_without_a_reply_and_counts_it_later(valkey: str, client: Any, stream: str) -> None:
    subject = sink(valkey, stream, level=RECEIVED)
    for count in range(1_500):
        subject.append([b"%d" % count]).commit()
    assert subject.append([b"last"], STORED).level == STORED
    subject.append([b"stored"], STORED).commit()
    assert subject._link.settle(wait=True) == (0, 0, None)
    assert client.xlen(stream) == 1_501  # the last two share an entry


def test_received_tells_of_records_that_were_dropped_and_opens_the_circuit(
    client: Any, valkey: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(stream, "a string")
    subject = sink(valkey, stream, level=RECEIVED)

    def refused() -> bool:
        try:
            subject.append([b"1"]).commit()
        except SinkError:
            return True
        return False

    wait_until(refused, "the reply of an earlier commit is read, and later ones are refused")
    assert "WRONGTYPE" in caplog.text
    client.delete(stream)


def test_who_waits_behind_a_commit_that_failed_is_refused_without_another_wait(stores: Any, stream: str) -> None:
    store = stores()
    subject = sink(store.url, stream, commit_timeout_ms=500)
    subject.append([b"0"]).commit()
    store.process.send_signal(signal.SIGSTOP)
    first = subject.append([b"1"])
    outcomes: list[Exception] = []

    def commit(ticket: Any) -> None:
        try:
            ticket.commit()
        except SinkError as error:
            outcomes.append(error)

    one = threading.Thread(target=commit, args=(first,))
    one.start()
    wait_until(lambda: subject._commit_lock.locked(), "the first commit has begun")
    second = subject.append([b"2"])
    commit(second)
    one.join()
    store.process.send_signal(signal.SIGCONT)
    assert sorted(error.reason for error in outcomes if isinstance(error, SinkError)) == [
        "sink-outcome-unknown",
        "sink-unavailable",
    ]
    once_closed(subject, b"3").commit()
    assert [f[b"r"] for _, f in store.client.xrange(stream)] in ([b"0", b"1", b"3"], [b"0", b"3"], [b"0", b"3", b"1"])


def test_the_circuit_closes_by_itself_with_no_request_in_between(stores: Any, stream: str) -> None:
    store = stores()
    subject = sink(store.url, stream)
    store.client.config_set("maxmemory", 1)
    with pytest.raises(SinkUnavailable):
        subject.append([b"1"]).commit()
    store.client.config_set("maxmemory", 0)
    wait_until(lambda: subject._refusal is None, "the watcher closes the circuit")
    subject.append([b"2"]).commit()


@pytest.mark.parametrize("bound", ["bytes", "requests"])
def test_a_batch_takes_what_fits_and_refuses_one_past_it(bound: str, valkey: str, client: Any, stream: str) -> None:
    subject = (
        sink(valkey, stream, inflight_bytes_max=8)
        if bound == "bytes"
        else sink(valkey, stream, inflight_requests_max=2)
    )
    tickets = [subject.append([b"aaaa"]), subject.append([b"bbbb"])]
    with pytest.raises(Overloaded):
        subject.append([b"c"])
    for ticket in tickets:
        ticket.commit()
    subject.append([b"cccc" * 100]).commit()  # alone, none is too large
    assert client.xlen(stream) == 2


def test_an_evicting_store_is_not_ready(stores: Any, stream: str) -> None:
    store = stores("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(SinkError, match="set noeviction"):
        sink(store.url, stream).check()


def test_a_user_who_may_only_add_is_ready(stores: Any, stream: str) -> None:
    store = stores()
    store.client.execute_command("ACL", "SETUSER", "adder", "on", ">pw", f"~{stream}", "+xadd")
    url = f"unix://adder:pw@{store.path}"
    probe = link(url, stream)
    subject = Sink(
        link(url, stream), probe, Backpressure(backlog_max=0, memory_percent_max=95), level=STORED,
        entry_bytes_max=1_000, inflight_bytes_max=1_000, inflight_requests_max=10, sample_backlog=True,
    )  # fmt: skip
    subject.check()
    subject.append([b"1"]).commit()
    assert store.client.xlen(stream) == 1


def post(url: str, **headers: str) -> httpx.Response:
    return httpx.post(url + "/ingest", content=ujson.dumps(record()), headers={**JSON, **headers}, timeout=30)


def test_the_answer_names_the_level_and_a_header_may_raise_it(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    assert post(server.url).headers["inlet-durability"] == "stored"
    refused = post(server.url, **{"Inlet-Durability": "Synced"})
    assert (refused.status_code, refused.json()["reason"]) == (503, "durability-unavailable")
    assert post(server.url, **{"Inlet-Durability": "received"}).headers["inlet-durability"] == "stored"
    unknown = post(server.url, **{"Inlet-Durability": "forever"})
    assert (unknown.status_code, unknown.json()["reason"]) == (400, "unknown-durability")
    missing = post(server.url, **{"Inlet-Durability": "replicated"})
    assert (missing.status_code, missing.json()["reason"]) == (503, "durability-timeout")
    assert missing.json()["retryable"] is True


def test_the_embedded_store_fsyncs_always_for_synced(serve: Serve) -> None:
    server = serve("--workers", "1", INLET_DURABILITY="synced")
    assert post(server.url).headers["inlet-durability"] == "synced"
    assert httpx.get(server.url + "/readyz", timeout=30).status_code == 200
    with redis.Redis(unix_socket_path=str(server.data_dir / "valkey.sock")) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_a_received_answer_has_a_receipt_without_entry_ids(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DURABILITY="received")
    answer = httpx.post(server.url + "/ingest?receipt=1", content=ujson.dumps(record()), headers=JSON, timeout=30)
    assert answer.headers["inlet-durability"] == "received"
    assert answer.json()["records"] == [{"index": 0, "entry_id": None, "line": 0}]


def test_429_while_the_backlog_is_over_its_bound(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    client.xgroup_create(stream, "readers", id="0", mkstream=True)
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_BACKLOG_MAX="3")

    def refused() -> httpx.Response | None:
        answer = post(server.url)
        return answer if answer.status_code != 202 else None

    answer = wait_until(refused, "the watcher sees the backlog")
    assert (answer.status_code, answer.json()["reason"], answer.json()["retryable"]) == (429, "backlog-full", True)
    assert int(answer.headers["retry-after"]) >= 1
    ready = httpx.get(server.url + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()["reason"]) == (429, "backlog-full")
    assert httpx.get(server.url + "/healthz", timeout=30).status_code == 200
    before = len(stored_lines(client, stream))
    batch = client.xreadgroup("readers", "r", {stream: ">"}, count=10_000)
    ids = [entry_id for name in batch for entry_id, _ in (batch[name][0] if isinstance(batch, dict) else name[1])]
    client.xack(stream, "readers", *ids)
    wait_until(lambda: post(server.url).status_code == 202, "it accepts again")
    assert len(stored_lines(client, stream)) > before


def test_the_master_starts_an_embedded_store_that_died(serve: Serve) -> None:
    server = serve("--workers", "1")
    assert post(server.url).status_code == 202
    os.kill(int((server.data_dir / "valkey.lock").read_text()), signal.SIGKILL)
    wait_until(lambda: "was started again" in server.log(), "the master notices")
    wait_until(lambda: post(server.url).status_code == 202, "records are stored again")
    with redis.Redis(unix_socket_path=str(server.data_dir / "valkey.sock")) as client:
        assert client.xlen("logs") >= 2


def test_a_cause_that_changes_while_the_circuit_is_open_is_told(
    stores: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the first cause stayed for good, and a missing password was never named."""
    store = stores()
    subject = sink(store.url, stream, commit_timeout_ms=500)
    subject.append([b"0"]).commit()
    store.process.send_signal(signal.SIGSTOP)
    with pytest.raises(SinkOutcomeUnknown):
        subject.append([b"1"]).commit()
    # While it cannot be probed, the cause becomes another one.
    with subject._probe_lock:
        store.process.send_signal(signal.SIGCONT)
        store.client.execute_command("ACL", "SETUSER", "default", "-xadd")
    wait_until(lambda: subject._failing == "sink-misconfigured", "the probe's finding is the reason now")
    assert "NOPERM" in caplog.text
    with pytest.raises(SinkMisconfigured, match="NOPERM"):
        subject.append([b"2"])
    store.client.execute_command("ACL", "SETUSER", "default", "+@all")
    once_closed(subject, b"3").commit()
