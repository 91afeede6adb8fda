"""What options cost: the arithmetic, what is sent, and a tiny run of each option."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench import load, machine, options, pairs, traffic
from bench.load import Outcome
from bench.peers import Running
from bench.store import BenchStore
from inlet.keyfile import load as load_keys


class _Accepting(http.server.BaseHTTPRequestHandler):
    """202 to everything."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        """Keep the body."""
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


@pytest.fixture
def accepting() -> Iterator[int]:
    """Port of a server that accepts everything."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Accepting)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    _Accepting.seen.clear()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def runs(option: str, number: int, off: float, on: float, fault: str | None = None) -> list[dict[str, Any]]:
    """Return a round of an option, with these requests per second."""
    base = {"round": number, "option": option, pairs.CPU: 1.0, options.STORE_CPU: 2.0, "fault": fault}
    return [{**base, "on": on_, pairs.RPS: rate} for on_, rate in ((False, off), (True, on))]


def test_a_ratio_of_an_option_is_the_median_of_its_rounds_and_a_fault_misses_the_target() -> None:
    found = [*runs("keys", 0, 100, 91), *runs("keys", 1, 100, 92), *runs("keys", 2, 200, 400)]
    (one,) = options.summary(found)
    assert (one["ratio"], one["wanted"], one["met"]) == (0.92, 0.92, True)
    (one,) = options.summary([*found, *runs("keys", 3, 100, 91), *runs("keys", 4, 100, 91)])
    assert (one["ratio"], one["met"]) == (0.91, False)
    (one,) = options.summary(runs("keys", 0, 0, 100, "no request was answered"))
    assert (one["ratio"], one["met"]) == (0.0, False)
    (one,) = options.summary([*found, *runs("keys", 3, 100, 100, "lost 3")])
    assert (one["faults"], one["met"]) == (["lost 3"], False)
    (one,) = options.summary(runs("log_json", 0, 100, 1))
    assert one["met"], "nothing was promised for it"
    rows = options.summary([*runs("keys", 0, 100, 100), *runs("dedup", 0, 100, 75)])
    assert [(row["option"], row["wanted"], row["met"]) for row in rows] == [("keys", 0.92, True), ("dedup", 0.75, True)]


def test_fresh_requests_are_the_varied_ones_with_fields_besides_and_room_for_an_id() -> None:
    fresh = traffic.fresh_singles((("Authorization", "Bearer x"),))
    assert len(set(fresh.requests)) == traffic.VARIED_RECORDS
    for one, plain in zip(fresh.requests[:500], traffic.varied_records(), strict=False):
        head, _, body = one.partition(b"\r\n\r\n")
        assert one.count(traffic.FRESH) == body.count(traffic.FRESH) == 1
        assert b"\r\nAuthorization: Bearer x\r\n" in head
        assert b"\r\nContent-Length: %d" % len(body) in head
        sent, record = json.loads(body), json.loads(plain)
        assert sent["event_id"] == record["event_id"][:24] + traffic.FRESH.decode()
        assert {**sent, "event_id": ""} == {**record, "event_id": ""}


@pytest.mark.parametrize("send", [load.run_plain, load.saturate], ids=["our own", "the one installed"])
def test_a_generator_sends_no_fresh_id_twice_also_over_two_runs(accepting: int, send: Callable[..., Outcome]) -> None:
    bodies = [b"%s %d" % (traffic.FRESH, number) for number in range(3)]
    given = traffic.Traffic(tuple(traffic.raw(("POST", "/", {}, body)) for body in bodies), fresh=True)
    outcomes = [send(accepting, given, 4, 1, 202) for _ in range(2)]
    assert [outcome.refused + outcome.socket_errors for outcome in outcomes] == [0, 0]
    assert len(_Accepting.seen) >= sum(outcome.answered for outcome in outcomes) > 2 * len(bodies)
    ids = [body[: len(traffic.FRESH)] for body in _Accepting.seen]
    assert len(set(ids)) == len(ids)
    assert all(int(one, 16) >= 0 for one in ids)
    assert {body[len(traffic.FRESH) :] for body in _Accepting.seen} == {b" 0", b" 1", b" 2"}


def test_the_key_is_required_where_the_option_is_on_and_has_all_three_quotas(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    authorization = options.new_key(keys)
    (key,) = load_keys(keys)
    assert key.quotas == options.QUOTAS
    assert None not in (key.quotas.requests, key.quotas.records, key.quotas.bytes)
    body = traffic.payload()
    peer = options.row("keys", options.OPTIONS["keys"].env, authorization, keys)
    with BenchStore() as store, Running(peer, store.socket, load.single(peer)) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", "/ingest", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 401
        connection.close()


def test_each_option_is_measured_in_pairs_and_the_report_says_on_what(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    words = ["--rounds=1", "--seconds=1", "--connections=2", f"--json={path}"]
    assert options.main(words) in (0, 1)  # what it costs here means nothing
    document = json.loads(path.read_text())
    order = [(run["option"], run["on"]) for run in document["runs"]]
    assert order == [
        ("keys", False), ("keys", True), ("dedup", True), ("dedup", False), ("log_json", False), ("log_json", True),
    ]  # fmt: skip
    assert [run["fault"] for run in document["runs"]] == [None] * 6
    assert all(one["ratio"] > 0 and one["faults"] == [] for one in document["summary"])
    text = path.with_suffix(".md").read_text()
    assert machine.python_build() in text
    assert document["commit"] in text
    assert all(option.what in text for option in options.OPTIONS.values())


def test_an_option_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.main(["--options=keys,nothing"])
    assert "'nothing' is no option; those are keys, dedup, log_json" in capsys.readouterr().err
