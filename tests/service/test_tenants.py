"""Tenants over the real server: keys that name streams. One that is refused is refused alone; none sees another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import ujson

from inlet.stream.keys import full_key
from tests.access.support import keys_file, new_key
from tests.conftest import Serve
from tests.consumer.support import fill
from tests.sink.support import Store
from tests.stream.support import ack, read, read_all
from tests.support import ROOT, Server, record, stored_lines, wait_until

NAMES = ("", "well", "ill")
"""Three tenants by the end of their streams' names; the first has no stream of its own."""


class Tenants(NamedTuple):
    """A server with a key for each tenant. ``stream``: the default one's name."""

    server: Server
    stream: str
    tokens: dict[str, str]
    path: Path

    def name(self, end: str) -> str:
        return f"{self.stream}:{end}" if end else self.stream

    def post(self, end: str, *event_ids: str) -> httpx.Response:
        body = ujson.dumps([record(event_id) for event_id in event_ids or ("e-1",)])
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.tokens[end]}"}
        return httpx.post(self.server.url + "/ingest", content=body, headers=headers, timeout=60)

    def status(self, end: str) -> int:
        return self.post(end).status_code

    def reason(self, end: str) -> str:
        answer = self.post(end)
        return "stored" if answer.status_code == 202 else str(answer.json()["reason"])

    def refused(self, end: str, reason: str, workers: int = 2) -> bool:
        """Whether so many workers refuse it: twenty requests in a row, each over a connection of its own."""
        return all(self.reason(end) == reason for _ in range(20 if workers > 1 else 1))

    def ready(self) -> dict[str, Any]:
        answer = httpx.get(self.server.url + "/readyz", timeout=60)
        return {"http": answer.status_code, **answer.json()}


Start = Callable[..., Tenants]


@pytest.fixture
def start(serve: Serve, valkey: str, stream: str, tmp_path: Path, client: Any) -> Iterator[Start]:
    """Start a server with three tenants; its streams are deleted afterwards."""

    def begin(*args: str, **env: str) -> Tenants:
        keys = {end: new_key(end or "default", stream=f"{stream}:{end}" if end else None) for end in NAMES}
        path = tmp_path / "keys.toml"
        keys_file(path, *(key for key, _ in keys.values()))
        settings = {"REDIS_URL": valkey, "INLET_STREAM": stream, "INLET_KEYS_FILE": str(path), **env}
        server = serve(*(args or ("--workers", "2")), **settings)
        return Tenants(server, stream, {end: token for end, (_, token) in keys.items()}, path)

    yield begin
    for key in client.scan_iter(f"{stream}*"):
        client.delete(key)


def test_a_keys_records_are_in_its_stream_and_counted_there(start: Start, client: Any) -> None:
    tenants = start()
    for number, end in enumerate(NAMES):
        for request in range(number + 1):
            assert tenants.post(end, f"{end}-{request}").status_code == 202
    for number, end in enumerate(NAMES):
        found = [line[0] for line in stored_lines(client, tenants.name(end))]
        assert found == [f"{end}-{request}" for request in range(number + 1)]

    def counted() -> bool:
        text = httpx.get(tenants.server.url + "/metrics", timeout=60).text
        return all(
            f'inlet_stream_records_stored_total{{stream="{tenants.name(end)}"}} {number + 1}.0' in text
            for number, end in enumerate(NAMES)
        )

    wait_until(counted, "the records are counted by stream")


def test_a_stream_of_the_wrong_type_is_refused_alone_and_shown_in_readyz(start: Start, client: Any) -> None:
    tenants = start()
    wait_until(lambda: tenants.ready()["http"] == 200, "it is ready")
    client.set(tenants.name("ill"), "a string")
    answer = tenants.post("ill")
    assert (answer.status_code, answer.json()["reason"]) == (503, "sink-misconfigured")
    assert int(answer.headers["retry-after"]) >= 1
    assert [tenants.status(end) for end in ("", "well") * 10] == [202] * 20

    def shown() -> bool:
        ready = tenants.ready()
        refused = {tenants.name("ill"): "sink-misconfigured"}
        return bool(ready["http"] == 200 and ready.get("streams_refused") == refused)

    wait_until(shown, "readyz names the stream")
    client.delete(tenants.name("ill"))
    wait_until(lambda: tenants.status("ill") == 202, "it is accepted again")
    wait_until(lambda: "streams_refused" not in tenants.ready(), "readyz names no stream")
    log = tenants.server.log()
    assert f"sink: stream '{tenants.name('ill')}': " in log
    assert "sink: commits fail" not in log


def test_a_full_stream_is_refused_alone_until_its_group_has_acked(start: Start, client: Any, valkey: str) -> None:
    tenants = start(INLET_RETENTION="entries=50")
    fill(client, tenants.name("ill"), 100, 1)
    ids = read(client, tenants.name("ill"), "g")
    wait_until(lambda: tenants.refused("ill", "backlog-full"), "both workers refuse it")
    answer = tenants.post("ill")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 10
    assert "INLET_RETENTION" in answer.json()["detail"]
    assert [tenants.status(end) for end in ("", "well") * 5] == [202] * 10
    assert client.exists(full_key(tenants.name("ill")), full_key(tenants.stream)) == 1
    ack(client, tenants.name("ill"), "g", ids)
    # Before both workers had looked they took some; where that was more than is kept, the group has to have these too.
    ack(client, tenants.name("ill"), "g", read(client, tenants.name("ill"), "g"))
    wait_until(lambda: tenants.status("ill") == 202, "it is accepted again")
    wait_until(lambda: client.xlen(tenants.name("ill")) <= 60, "it is trimmed")
    read_all(valkey, tenants.name("ill"))
    text = httpx.get(tenants.server.url + "/metrics", timeout=60).text
    assert "inlet_entries_dropped_total 0.0" in text


def test_the_backlog_of_a_tenant_at_its_bound_and_one_past_it(start: Start, client: Any) -> None:
    tenants = start("--workers", "1", INLET_BACKLOG_MAX="30")
    client.xgroup_create(tenants.name("ill"), "g", id="0", mkstream=True)
    fill(client, tenants.name("ill"), 29, 1)
    assert tenants.reason("ill") == "stored"  # the thirtieth
    wait_until(lambda: tenants.refused("ill", "backlog-full", 1), "the worker has looked at the thirty-first")
    assert client.xlen(tenants.name("ill")) >= 31
    assert tenants.post("ill").json()["detail"].endswith("no more above 30")
    assert [tenants.status(end) for end in ("", "well")] == [202, 202]


def test_a_tenant_that_the_stores_user_may_not_write_is_refused_alone(
    start: Start, stream: str, tmp_path: Path
) -> None:
    store = Store()
    try:
        rules = [f"~{stream}", f"~{stream}:well*", "+xadd", "+info", "+type", "+xinfo", "+xlen"]
        store.client.execute_command("ACL", "SETUSER", "inlet", "on", ">secret", *rules)
        tenants = start("--workers", "1", REDIS_URL=f"unix://inlet:secret@{store.path}")
        wait_until(lambda: tenants.ready()["http"] == 200, "it is ready")
        assert [tenants.reason(end) for end in NAMES] == ["stored", "stored", "sink-misconfigured"]
        store.client.execute_command("ACL", "SETUSER", "inlet", f"~{stream}:ill*")
        wait_until(lambda: tenants.reason("ill") == "stored", "it may write now")
        tenants.server.stop()
    finally:
        store.close()


def test_a_tenant_added_by_a_reload_is_stored_watched_and_trimmed(start: Start, client: Any, valkey: str) -> None:
    tenants = start(INLET_RETENTION="entries=50")
    key, token = new_key("new", stream=tenants.name("new"))
    tenants.tokens["new"] = token
    fill(client, tenants.name("new"), 200, 1)
    read_all(valkey, tenants.name("new"))
    old, old_token = new_key("default")
    tenants.tokens[""] = old_token
    keys_file(tenants.path, old, key)
    wait_until(lambda: all(tenants.status("new") == 202 for _ in range(20)), "both workers have the new key")
    wait_until(lambda: client.xlen(tenants.name("new")) <= 80, "its stream is trimmed")
    wait_until(lambda: all(tenants.status("ill") == 401 for _ in range(20)), "the removed key is refused")
    client.delete(tenants.name("new"))
    client.set(tenants.name("new"), "a string")
    refused = {tenants.name("new"): "sink-misconfigured"}
    wait_until(lambda: tenants.ready().get("streams_refused", {}) == refused, "it is watched")
    client.set(tenants.name("ill"), "a string")
    client.delete(tenants.name("new"))
    wait_until(lambda: tenants.status("new") == 202, "it is accepted again")
    wait_until(lambda: "streams_refused" not in tenants.ready(), "nothing is said of the removed one")
    assert "keeper: a bug" not in tenants.server.log()


def test_not_ready_once_every_stream_refuses(start: Start, client: Any) -> None:
    tenants = start("--workers", "1")
    for end in NAMES:
        client.set(tenants.name(end), "a string")
    wait_until(lambda: tenants.ready()["http"] == 503, "it is not ready")
    assert tenants.ready()["reason"] == "sink-misconfigured"
    client.delete(tenants.name("well"))
    wait_until(lambda: tenants.ready()["http"] == 200, "it is ready again")
    assert tenants.status("well") == 202


def test_the_commands_work_on_a_tenants_stream_while_the_server_serves(
    start: Start, client: Any, valkey: str, tmp_path: Path
) -> None:
    tenants = start("--workers", "1", INLET_RETENTION="entries=1000")
    for number in range(5):
        for end in NAMES:
            assert tenants.post(end, f"{end}-{number}").status_code == 202
    name = tenants.name("well")

    def inlet(*words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INLET_")}
        done = subprocess.run(
            [sys.executable, "-m", "inlet", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
            env={**kept, "REDIS_URL": valkey, "INLET_STREAM": tenants.stream},
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    where = ("--stream", name, "--json")
    own = [f"well-{number}" for number in range(5)]

    def ids(text: str) -> list[str]:
        return [ujson.loads(line)["event_id"] for line in text.splitlines()]

    assert ids(inlet("tail", "--last", "100", "--once", *where)) == own
    assert ids(inlet("read", "--group", "g", "--once", *where)) == own
    assert inlet("exec", "--group", "x", "--once", "--stream", name, "--", "cat").count("well-") == 5
    assert inlet("lag", *where).count('"group"') == 2
    assert "g" in inlet("groups", "list", *where)
    inlet("dead", "list", *where)
    inlet("export", "--to", str(tmp_path / "out"), "--once", *where)
    assert any(tmp_path.joinpath("out").rglob("*"))
    inlet("trim", "--retention", "entries=1", *where)
    wait_until(lambda: client.xlen(name) == 1, "what both groups have acked is gone")
    assert client.xlen(tenants.stream) == 5


def test_what_was_answered_202_is_in_the_tenants_stream_and_in_no_other(start: Start, client: Any) -> None:
    """While one stream fails now and then, and a worker is killed: nothing that was accepted is lost or elsewhere."""
    tenants = start(INLET_RETENTION="entries=1000000", INLET_BACKLOG_MAX="1000000")
    assert [tenants.status(end) for end in NAMES] == [202] * 3
    sent: dict[str, set[str]] = {end: set() for end in NAMES}
    accepted: dict[str, set[str]] = {end: set() for end in NAMES}
    refusals: dict[str, set[str]] = {end: set() for end in NAMES}
    done = threading.Event()

    def produce(end: str, who: int) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {tenants.tokens[end]}"}
        with httpx.Client(timeout=60, headers=headers) as http:
            number = 0
            while not done.is_set():
                ids = [f"{end}-{who}-{number}-{part}" for part in range(1 + number % 3)]
                number += 1
                sent[end].update(ids)
                try:
                    answer = http.post(tenants.server.url + "/ingest", content=ujson.dumps([record(i) for i in ids]))
                except httpx.HTTPError:
                    continue  # of the worker that was killed
                if answer.status_code == 202:
                    accepted[end].update(ids)
                else:
                    refusals[end].add(answer.json()["reason"])

    threads = [threading.Thread(target=produce, args=(end, who)) for end in NAMES for who in range(2)]
    for thread in threads:
        thread.start()
    ill, aside = tenants.name("ill"), tenants.name("aside")
    try:
        for turn in range(3):
            wait_until(lambda: client.exists(ill), "there is a stream")
            with client.pipeline() as both:  # at once: what is stored in between would be overwritten
                both.rename(ill, aside).set(ill, "a string").execute()
            refusals["ill"].clear()
            wait_until(lambda: refusals["ill"], "it is refused")
            if turn == 1:
                os.kill(tenants.server.workers()[0], signal.SIGKILL)
            client.rename(aside, ill)
            before = {end: len(ids) for end, ids in accepted.items()}
            wait_until(lambda: all(len(accepted[end]) > before[end] for end in NAMES), "all are accepted again")  # noqa: B023
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not refusals[""] | refusals["well"]
    for end in NAMES:
        found = {line[0] for line in stored_lines(client, tenants.name(end))} - {"e-1"}
        assert accepted[end] <= found <= sent[end]


def test_a_thousand_tenants_are_watched_and_all_can_be_served(
    serve: Serve, valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    keys = [new_key(f"t{number}", stream=f"{stream}:{number}") for number in range(1_000)]
    path = tmp_path / "keys.toml"
    keys_file(path, *(key for key, _ in keys))
    server = serve(
        "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEYS_FILE=str(path),
        INLET_RETENTION="entries=100", INLET_BACKLOG_MAX="1000",
    )  # fmt: skip
    tenants = Tenants(server, stream, {f"{number}": token for number, (_, token) in enumerate(keys)}, path)
    client.set(f"{stream}:999", "a string")
    assert [tenants.reason(end) for end in ("0", "500", "999")] == ["stored", "stored", "sink-misconfigured"]
    wait_until(lambda: list(tenants.ready().get("streams_refused", ())) == [f"{stream}:999"], "readyz names it")
    client.delete(f"{stream}:999")
    wait_until(lambda: tenants.reason("999") == "stored", "it is accepted again")
    fill(client, f"{stream}:998", 500, 1)
    read_all(valkey, f"{stream}:998")
    wait_until(lambda: client.xlen(f"{stream}:998") <= 200, "the last of them is trimmed")
    client.delete(*client.scan_iter(f"{stream}*", count=10_000))
