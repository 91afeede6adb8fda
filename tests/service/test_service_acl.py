"""The server under a user of the store with exactly the permissions that docs/operations.md names."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
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
from tests.sink.support import Store
from tests.stream.support import read_all
from tests.support import ROOT, Server, listen_on_a_free_port, record, wait_until

BASE = "~logs ~logs:* +xadd +info +type +xinfo +xlen"
RETENTION = "+eval +del +exists +get +hkeys +hsetnx +memory|usage +pexpire +pttl +set +time +xpending +xrange +xtrim"
LEVELS = {"received": "", "stored": "", "synced": "+config|get +waitaof", "replicated": "+wait"}
EVERYTHING = {"INLET_RETENTION": "entries=100,memory=1gb,age=30d", "INLET_BACKLOG_MAX": "1000000"}


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


def post(server: Server, level: str) -> int:
    headers = {"Content-Type": "application/json", "Inlet-Durability": level}
    return httpx.post(server.url + "/ingest", content=ujson.dumps(record()), headers=headers, timeout=30).status_code


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
    rule = (BASE, RETENTION, LEVELS[level])
    server = serve(
        "--workers", "1", REDIS_URL=permit(store, *rule), INLET_DURABILITY=level, INLET_COMMIT_TIMEOUT_MS="500",
        **EVERYTHING,
    )  # fmt: skip
    survives_an_outage(server, store, level)
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
    server = serve("--workers", "1", REDIS_URL=url, INLET_COMMIT_TIMEOUT_MS="500", **EVERYTHING)
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


def test_the_documentation_has_these_permissions() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([~+][^`]+)` \|$", text.replace("\\|", "¦"), re.MULTILINE)
    assert [row.replace("¦", "|") for row in rows] == [BASE, RETENTION, LEVELS["synced"], LEVELS["replicated"]]
