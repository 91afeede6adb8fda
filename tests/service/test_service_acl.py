"""The server under a user of the store with exactly the permissions that docs/operations.md names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import ujson

from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreRefuses
from inlet.stream.keeper import Keeper
from inlet.stream.retention import Retention
from tests.conftest import Serve
from tests.consumer.support import connect, fill
from tests.sink.support import Sink, Store
from tests.stream.support import read_all
from tests.support import ROOT, Server, listen_on_a_free_port, record, wait_until
from wsgi.problems import SinkError
from wsgi.sink.durability import STORED

BASE = "~logs ~logs:* +xadd +info +type +xinfo +xlen"
RETENTION = "+eval +del +exists +get +hkeys +hsetnx +memory|usage +pexpire +pttl +set +time +xpending +xrange +xtrim"
DEDUP = "~{logs}:ids:* +evalsha +hmget +hset +pexpire +script|load +time +unlink"
TENANTS = "~tenant-* ~{tenant-*}:ids:*"
LEVELS = {"received": "", "stored": "", "synced": "+config|get +waitaof", "replicated": "+wait"}
EVERYTHING = {
    "INLET_RETENTION": "entries=100,memory=1gb,age=30d", "INLET_BACKLOG_MAX": "1000000", "INLET_DEDUP_SECONDS": "60",
    "INLET_KEEP_REJECTED": "1",
}  # fmt: skip


@pytest.fixture
def store() -> Iterator[Store]:
    """A store that can reach every level: it syncs before each reply, and has a replica."""
    with_replica = Store("--appendonly", "yes", "--appendfsync", "always")
    replica = Store("--replicaof", f"127.0.0.1 {listen_on_a_free_port(with_replica.client)}")
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica is connected")
    yield with_replica
    replica.close()
    with_replica.close()


def permit(store: Store, *rules: str) -> str:
    """Create the user; the URL with its name."""
    store.client.execute_command("ACL", "SETUSER", "inlet", "on", ">secret", *" ".join(rules).split())
    return f"unix://inlet:secret@{store.path}"


def post(server: Server, level: str, event_id: str = "e-1", **headers: str) -> int:
    headers = {"Content-Type": "application/json", "Inlet-Durability": level, **headers}
    content = ujson.dumps(record(event_id))
    return httpx.post(server.url + "/ingest", content=content, headers=headers, timeout=30).status_code


def ready(server: Server) -> bool:
    return httpx.get(server.url + "/readyz", timeout=30).status_code == 200


def survives_an_outage(server: Server, store: Store, level: str) -> None:
    """The circuit opens while the store hangs, and closes afterwards."""
    wait_until(lambda: ready(server), "it is ready")
    wait_until(lambda: post(server, level) == 202, "it accepts records")
    store.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: post(server, "stored") == 503, "the circuit opens")
    store.process.send_signal(signal.SIGCONT)
    wait_until(lambda: post(server, level) == 202, "the circuit closes")
    wait_until(lambda: ready(server), "it is ready again")


@pytest.mark.parametrize("level", ["received", "stored", "synced", "replicated"])
def test_the_documented_permissions_are_enough_for_every_feature(serve: Serve, store: Store, level: str) -> None:
    rule = (BASE, RETENTION, DEDUP, LEVELS[level])
    server = serve(
        "--workers", "1", REDIS_URL=permit(store, *rule), INLET_DURABILITY=level, INLET_COMMIT_TIMEOUT_MS="500",
        **EVERYTHING,
    )  # fmt: skip
    survives_an_outage(server, store, level)
    assert store.client.xlen("logs") == 1, "it is stored once"
    assert post(server, level, event_id="") == 422
    wait_until(lambda: store.client.xlen("logs:rejected") == 1, "the rejected record is kept")
    for _ in range(200):
        store.client.xadd("logs", {"r": '["e","t","s","m",{}]', "n": 1})
    read_all(store.url, "logs")
    wait_until(lambda: store.client.xlen("logs") <= 100, "the keeper trims")
    assert store.client.hexists("logs:groups", "g")
    refused = {fields(row)[b"object"].decode() for row in store.client.execute_command("ACL", "LOG")}
    # redis-py's own, which it does without; and what tells whether a higher level than permitted could be reached.
    assert refused <= {"client|setinfo", "config|get", "wait"} - {word[1:] for word in LEVELS[level].split()}
    assert "cannot trim" not in server.log()


def fields(row: Any) -> dict[bytes, Any]:
    return row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))


def test_a_sample_that_may_not_be_taken_is_no_failure(serve: Serve, store: Store) -> None:
    """Regression: EXISTS was refused, so /readyz was 503 from the start and the circuit stayed open after an outage."""
    url = permit(store, "~logs", "+xadd")
    settings = {**EVERYTHING, "INLET_DEDUP_SECONDS": "0"}
    server = serve("--workers", "1", REDIS_URL=url, INLET_COMMIT_TIMEOUT_MS="500", **settings)
    survives_an_outage(server, store, "stored")
    wait_until(lambda: "keeper: cannot trim" in server.log(), "the keeper says that it may not")


def trims_under(store_url: str, stream: str, permissions: str) -> bool:
    """Whether a keeper with these permissions does all that it has to on a stream of its own."""
    with connect(store_url) as db:
        fill(db, stream, 150, 1)
        read_all(store_url, stream)
        rules = permissions.replace("logs", stream).split()
        db.execute_command("ACL", "SETUSER", stream, "on", ">secret", *rules)
        client = StoreClient(store_url.replace("unix://", f"unix://{stream}:secret@"))
        try:
            kept = Keeper(client, [stream], Retention(entries=10), publish=True).tick()
            return kept is not None and kept[0].trimmed == 140
        except StoreRefuses:
            return False
        finally:
            client.close()
            db.execute_command("ACL", "DELUSER", stream)


def test_a_keeper_needs_all_of_its_permissions_and_no_others(store_url: str, stream: str) -> None:
    assert trims_under(store_url, stream, f"{BASE} {RETENTION}")
    for number, word in enumerate(RETENTION.split()):
        fewer = " ".join(other for other in RETENTION.split() if other != word)
        assert not trims_under(store_url, f"{stream}-{number}", f"{BASE} {fewer}"), word


def commits_under(store_url: str, stream: str, permissions: str) -> bool:
    """Whether a sink that stores each event once works with these permissions on a stream of its own."""
    with connect(store_url) as db:
        rules = permissions.replace("logs", stream).split()
        db.execute_command("ACL", "SETUSER", stream, "on", ">secret", *rules)
        subject = Sink(store_url.replace("unix://", f"unix://{stream}:secret@"), stream, dedup_seconds=60)
        try:
            for _ in range(2):
                ticket = subject.append([b'["e","2026-01-31T23:59:59Z","s","m",{}]'], STORED)
                ticket.commit()
            return [address.duplicate for address in ticket.addresses()] == [True]
        except SinkError:
            if db.exists(stream):
                raise  # What is refused must not be stored.
            return False
        finally:
            db.execute_command("ACL", "DELUSER", stream)


def test_storing_once_needs_all_of_its_permissions_and_no_others(store_url: str, stream: str) -> None:
    assert commits_under(store_url, stream, f"~logs +xadd {DEDUP}")
    for number, word in enumerate(DEDUP.split()):
        fewer = " ".join(other for other in DEDUP.split() if other != word)
        assert not commits_under(store_url, f"{stream}-{number}", f"~logs +xadd {fewer}"), word


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A keys file of three keys, whose records go to INLET_STREAM, to tenant-a, and to a stream of no tenant."""
    path = tmp_path / "keys.toml"
    env = {**os.environ, "INLET_KEYS_FILE": str(path)}
    found = {"": str(path)}
    for name, options in {"main": [], "a": ["--stream", "tenant-a"], "other": ["--stream", "other"]}.items():
        words = [sys.executable, "-m", "inlet", "keys", "new", name, *options]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
        found[name] = done.stdout.splitlines()[-1]
    return found


@pytest.mark.parametrize("once", [True, False])
def test_tenants_streams_need_patterns_of_their_own(
    serve: Serve, store: Store, keys: dict[str, str], once: bool
) -> None:
    """With the documented ones everything works on a tenant's stream; a stream that they leave out is refused alone."""
    rule = f"{BASE} {RETENTION} {DEDUP} {TENANTS}"
    settings = EVERYTHING if once else {**EVERYTHING, "INLET_DEDUP_SECONDS": "0"}
    server = serve("--workers", "1", REDIS_URL=permit(store, rule), INLET_KEYS_FILE=keys[""], **settings)

    def sent(name: str, event_id: str) -> int:
        return post(server, "stored", event_id, **{"X-Api-Key": keys[name]})

    wait_until(lambda: sent("main", "e") == 202, "it accepts records")
    for name, stream in (("main", "logs"), ("a", "tenant-a")):
        assert [sent(name, "e-1"), sent(name, "e-2"), sent(name, "e-1"), sent(name, "")] == [202, 202, 202, 422]
        assert store.client.xlen(stream) == (2 if once else 3) + (stream == "logs")
    for stream in ("logs:rejected", "tenant-a:rejected"):
        wait_until(partial(store.client.exists, stream), "the rejected record is kept")
    assert sent("other", "e-1") == 503
    assert sent("main", "e-3") == 202
    for _ in range(200):
        store.client.xadd("tenant-a", {"r": '["e","t","s","m",{}]', "n": 1})
    read_all(store.url, "tenant-a")
    wait_until(lambda: store.client.xlen("tenant-a") <= 100, "the keeper trims it")
    assert not store.client.exists("other", "other:rejected")


@pytest.mark.parametrize("word", TENANTS.split())
def test_one_pattern_less_is_not_enough_for_tenants(
    serve: Serve, store: Store, keys: dict[str, str], word: str
) -> None:
    rule = f"{BASE} {DEDUP} {' '.join(other for other in TENANTS.split() if other != word)}"
    server = serve("--workers", "1", REDIS_URL=permit(store, rule), INLET_KEYS_FILE=keys[""], INLET_DEDUP_SECONDS="60")
    wait_until(lambda: post(server, "stored", **{"X-Api-Key": keys["main"]}) == 202, "it accepts records")
    assert post(server, "stored", **{"X-Api-Key": keys["a"]}) == 503
    assert not store.client.exists("tenant-a")
    assert post(server, "stored", "e-2", **{"X-Api-Key": keys["main"]}) == 202


def test_the_documentation_has_these_permissions() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([~+][^`]+)` \|$", text.replace("\\|", "¦"), re.MULTILINE)
    assert [row.replace("¦", "|") for row in rows] == [
        BASE, RETENTION, DEDUP, TENANTS, LEVELS["synced"], LEVELS["replicated"]
    ]  # fmt: skip
