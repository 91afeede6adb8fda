"""The benchmark as a whole, run tiny so that it cannot rot: real servers, a real store, no built peers, no network.

The figures mean nothing here; that they are there, add up, and that a peer that lies or dies is found out does.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as command_line
from bench import compare, distance, load, machine, micro, peers, report
from bench.plan import Load, Options
from tests.support import Server

DEADLINE_SECONDS = 60.0
MEBIBYTE = 2**20
LOADS = ("single_varied_c4", "single_467b_c4", "bulk100_varied_c4", "bulk100_gzip_c4", "bulk100_zstd_c4")
METRICS = ("requests_per_second", "p50_us", "p99_us", "p999_us", "pss_peak_bytes")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One round of one second on what needs no build."""
    path = tmp_path_factory.mktemp("bench") / "tiny.json"
    words = ["--seconds=1", "--rounds=1", "--peers=inlet_gthread,uvloop_constant"]
    assert command_line.main(["compare", *words, f"--loads={','.join(LOADS)}", f"--json={path}"]) == 0
    return path


def test_a_comparison_writes_every_run_with_its_figures_and_no_fault(result: Path) -> None:
    runs = json.loads(result.read_text())["runs"]
    assert sorted((r["load"], r["peer"]) for r in runs) == sorted(
        (name, peer) for name in LOADS for peer in ("inlet_gthread", "uvloop_constant")
    )
    for one in runs:
        assert one["fault"] is None
        assert all(one[metric] > 0 for metric in METRICS)
        assert one["p50_us"] <= one["p99_us"] <= one["p999_us"] <= one["max_us"]


def test_a_comparison_finds_every_answered_record_in_the_store(result: Path) -> None:
    for one in json.loads(result.read_text())["runs"]:
        if one["peer"] == "uvloop_constant":
            assert one["stored_records"] is None
        else:
            per_request = 100 if one["load"].startswith("bulk") else 1
            assert one["answered_records"] == one["answered"] * per_request
            assert 0 <= one["stored_records"] - one["answered_records"] <= 16 * per_request


def test_a_comparison_says_where_it_ran_and_on_what(result: Path) -> None:
    document = json.loads(result.read_text())
    assert document["date"]
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["valkey"]
    assert set(machine.LIBRARIES) <= set(document["versions"])


def test_a_comparison_says_how_its_time_was_spent(result: Path) -> None:
    document = json.loads(result.read_text())
    for one in document["runs"]:
        assert set(one["spent_seconds"]) == {"setup", "load", "check"}
        assert one["spent_seconds"]["load"] >= 1
    assert document["elapsed_seconds"] >= sum(sum(one["spent_seconds"].values()) for one in document["runs"]) - 1
    assert "| uvloop_constant | 5 |" in result.with_suffix(".md").read_text()


def test_no_round_starts_that_would_end_after_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(1, 3, ("uvloop_constant",), (Load(peers.SINGLE, 2).name,), minutes=0.0001)
    document = compare.compare(options, tmp_path / "r.json")
    assert {one["round"] for one in document["runs"]} == {0}
    assert "1 of 3 rounds" in capsys.readouterr().out


PROXY = """
import asyncio, contextlib, sys
far, near, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
async def pump(reader, writer):
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # whoever ends with replies unread resets the connection
        while data := await reader.read(1 << 16):
            loop.call_later(delay, writer.write, data)
    loop.call_later(delay, writer.close)
async def connected(reader, writer):
    up_reader, up_writer = await asyncio.open_unix_connection(near)
    await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
async def main():
    await (await asyncio.start_unix_server(connected, far)).serve_forever()
asyncio.run(main())
"""
"""A delaying proxy that needs no build: far slower than the one of ``bench/peers/delay``."""


def proxy(monkeypatch: pytest.MonkeyPatch, half_seconds: float) -> None:
    """Have the bench start PROXY, whatever delay it asks for."""

    def words(near: Path, far: Path, away_ms: float) -> list[str]:
        return [sys.executable, "-c", PROXY, str(far), str(near), str(half_seconds)]

    monkeypatch.setattr(distance, "words", words)


def test_a_peer_far_away_from_its_store_is_measured_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "LATE_MS_MAX", 1_000.0)
    monkeypatch.setattr(distance, "PIPELINED_SECONDS_MAX", DEADLINE_SECONDS)
    proxy(monkeypatch, 0.02)
    one = compare.measure(peers.PEERS["inlet_gthread"], Load(peers.SINGLE, 4, away_ms=40), 1)
    assert one["fault"] is None
    assert one["round_trip_ms"] >= 40
    assert one["p50_us"] >= 40_000


def test_a_proxy_that_does_not_delay_makes_the_run_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "LATE_MS_MAX", 0.0)
    proxy(monkeypatch, 0.0)
    with pytest.raises(distance.WrongDistance, match="not 500 ms"):
        compare.measure(peers.PEERS["uvloop_constant"], Load(peers.SINGLE, 2, away_ms=500), 1)


def test_a_proxy_that_limits_the_rate_makes_the_run_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "LATE_MS_MAX", 1_000.0)
    monkeypatch.setattr(distance, "PIPELINED_SECONDS_MAX", 1e-6)
    proxy(monkeypatch, 0.001)
    with pytest.raises(distance.WrongDistance, match="limits the rate"):
        compare.measure(peers.PEERS["uvloop_constant"], Load(peers.SINGLE, 2, away_ms=2), 1)


def test_a_report_is_a_table_for_each_load_and_a_picture(result: Path) -> None:
    before = result.with_suffix(".md").read_text()
    assert command_line.main(["report", str(result)]) == 0
    text = result.with_suffix(".md").read_text()
    assert text == before
    for one in json.loads(result.read_text())["runs"]:
        assert f"## {one['load']}" in text
        assert f"| {one['peer']} |" in text
    assert "disqualified" not in text
    ElementTree.parse(result.with_suffix(".svg"))


@pytest.mark.parametrize("name", peers.INLET_WORKERS)
def test_each_row_of_inlet_runs_the_worker_class_that_it_names(name: str) -> None:
    """Regression: the row inlet_sync ran gthread, since the configuration set threads."""
    words = peers.INLET_WORKERS[name]
    server = Server("app:application", ["--workers", "1", *words], {"REDIS_URL": "unix:///nonexistent/valkey.sock"})
    try:
        assert server.worker_class == words[1]
    finally:
        server.close()


def test_a_peer_that_refuses_is_disqualified_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = peers.Peer("liar", "answers 202 and stores nothing", peers.PEERS["uvloop_constant"].command)
    gone = peers.Peer("gone", "ends at once", lambda place: [sys.executable, "-c", "print('no room')"])
    monkeypatch.setitem(peers.PEERS, "liar", liar)
    monkeypatch.setitem(peers.PEERS, "gone", gone)
    options = Options(1, 1, ("gone", "liar"), (Load(peers.SINGLE, 2).name,))
    document = compare.compare(options, tmp_path / "r.json")
    faults = {r["peer"]: r["fault"] for r in document["runs"]}
    assert "0 are stored" in faults["liar"]
    assert "gone does not start" in faults["gone"]
    assert "no room" in faults["gone"]
    text = report.markdown(document)
    assert text.count("disqualified") == 2
    assert "gone does not start: no room" in text


STUBBORN = """
import os, signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, sys.argv[1]])
while socket.socket().connect_ex(("127.0.0.1", int(os.environ["BENCH_PORT"]))): pass
END
"""


@pytest.mark.parametrize("end", ["child.wait()", "print('gone')"], ids=["ignores the end", "leaves a child behind"])
def test_a_peer_that_does_not_end_as_it_should_is_killed_as_a_whole(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "STOP_SECONDS_MAX", 0.3)
    server = peers.SOURCES / "uvloop_constant" / "server.py"
    words = [sys.executable, "-c", STUBBORN.replace("END", end), str(server)]
    peer = peers.Peer("stubborn", "does not end", lambda place: words)
    running = peers.Running(peer, tmp_path / "none", load.single(peer))
    with contextlib.suppress(peers.PeerFailed), running:  # it may have left its child before it was seen to be up
        running.end()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while answers(running.port):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError):
        return peers.ask(port, "POST", "/ingest", {}, b"x") == 202
    return False


def test_memory_is_observed_with_the_store_apart(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    assert command_line.main(["memory", "--requests=1", "--connections=2", "--seconds=1", f"--json={path}"]) == 0
    first, last = json.loads(path.read_text())["readings"][:2]
    assert first["requests"] == 0 < last["requests"]
    assert all(last[part] > MEBIBYTE for part in ("master", "workers", "store"))
    assert command_line.main(["report", str(path)]) == 0
    assert f"| {last['requests']:,} |" in path.with_suffix(".md").read_text()
    ElementTree.parse(path.with_suffix(".svg"))


def test_the_micro_benchmark_runs_every_case() -> None:
    costs = micro.run(rounds=1, calls=3)
    assert set(costs) >= {"app", "app through Falcon", "native.read"}
    assert min(costs.values()) > 0
