"""The stall bench: how latencies are corrected, its table, and a tiny run of this tree against itself."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bench import offenders, peers, stallrows, stalls
from bench.ordinary import PACE_SECONDS, Ordinary, Sample, figures
from bench.stallrows import ROWS
from bench.workers import HEALTH


def test_a_stall_counts_for_every_request_that_would_have_been_sent_meanwhile() -> None:
    quick = [Sample(n * PACE_SECONDS, 0.001, 202) for n in range(50)]
    stall = Sample(0.5, 50.5 * PACE_SECONDS, 202)
    seen = figures([*quick, stall])
    assert (seen.requests, seen.statuses) == (51, {"202": 51})
    assert seen.max_ms == pytest.approx(505)
    # 50 quick ones, and 51 that waited from 5 to 505 ms: the middle one of these 101 waited 5 ms.
    assert seen.p50_ms == pytest.approx(5)
    assert seen.p99_ms == pytest.approx(495)
    assert seen.late_percent == 0
    assert figures([*quick, stall], 0.0, 0.4).max_ms == pytest.approx(1)
    # Of a stall that reaches beyond the window, what would have been sent within it counts.
    assert figures([stall], 0.0, 0.5).p50_ms == pytest.approx(505)
    assert figures([stall], 0.6, 0.705).max_ms == pytest.approx(405)
    assert figures([stall], 0.6, 0.705).p50_ms == pytest.approx(355)
    assert figures([Sample(0.0, 2.0, 202)]).late_percent == pytest.approx(50, abs=1)


def test_ordinary_clients_connect_again_and_count_what_is_not_answered() -> None:
    """The server ends the first connection after two answers, the second without one, and keeps the third."""
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok"
    enough = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as first:
            first.recv(4096)
            first.sendall(answer)
            first.recv(4096)
            first.sendall(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        with listener.accept()[0] as second:
            second.recv(4096)
        with listener.accept()[0] as third:
            count = 0
            while third.recv(4096):
                third.sendall(answer[:30])  # in two pieces
                third.sendall(answer[30:])
                count += 1
                if count == 5:
                    enough.set()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = socket.create_connection(listener.getsockname())
    with listener, Ordinary([client], HEALTH) as clients:
        assert enough.wait(60)
        samples = clients.stop()
    thread.join(60)
    statuses = [sample.status for sample in samples]
    assert statuses[:3] == [202, 202, 0]
    assert set(statuses[3:]) == {202}
    assert len(statuses) >= 8
    # A client that was held up sends once at once, and then keeps its pace again.
    assert samples[-1].began - samples[0].began >= (len(samples) - 2) * PACE_SECONDS * 0.99


def test_the_offenders_send_what_their_rows_say() -> None:
    assert len(offenders.marked_bytes(140)) == 140
    head, _, body = offenders.big_bulk().partition(b"\r\n\r\n")
    assert b"application/x-ndjson" in head
    assert 4_990_000 < len(body) <= offenders.BIG_BULK_BYTES
    small = offenders.bad_lines().partition(b"\r\n\r\n")[2]
    assert len(small) < 300
    full = offenders.full_bulk().partition(b"\r\n\r\n")[2]
    assert len(full) < 40_000
    assert offenders.chunked(b"{}", offenders.TINY_CHUNK).endswith(b"\r\n\r\n1\r\n \r\n2\r\n{}\r\n0\r\n\r\n")


def test_a_row_is_met_by_the_new_tree_and_one_that_was_not_measured_is_neither() -> None:
    def run(row: str, tree: str, p99: float, **more: Any) -> dict[str, Any]:
        ordinary = {"p50_ms": 1.0, "p99_ms": p99, "max_ms": 2500.0, "late_percent": 3.0, "statuses": {"202": 1}}
        return {"row": row, "tree": tree, "ordinary": ordinary, **more}

    runs = [
        run("tiny_chunks", "old", 900, died=0, growth_bytes=0, kept_bytes=0),
        run("tiny_chunks", "new", 19, died=0, growth_bytes=0, kept_bytes=0),
        run("mixed", "old", 55), run("mixed", "new", 8), run("mixed", stalls.GO, 7),
        {"row": "synced_stored", "tree": "old", "impossible": "strace is not installed"},
        {"row": "synced_stored", "tree": "new", "impossible": "strace is not installed"},
    ]  # fmt: skip
    assert {one["row"]: one["met"] for one in stalls.summary(runs)} == {
        "tiny_chunks": True, "mixed": False, "synced_stored": None,
    }  # fmt: skip
    assert stalls.latencies(runs[1]) == "1.0 ms / 19 ms / 2.5 s, 3% late"
    assert stalls.summary([run("tiny_chunks", "new", 19, died=1)])[0]["met"] is False
    assert "strace is not installed" in stalls.latencies(runs[-1])


def test_a_tiny_run_writes_each_row_of_both_trees_with_its_figures_and_a_table(tmp_path: Path) -> None:
    path = tmp_path / "stalls.json"
    rows = "control,replicated_none,unread_pipeline"
    assert stalls.main([str(peers.ROOT), f"--rows={rows}", "--seconds=0.5", f"--json={path}"]) in (0, 1)
    document = json.loads(path.read_text())
    assert [(run["row"], run["tree"]) for run in document["runs"]] == [
        ("control", "old"), ("control", "new"), ("replicated_none", "new"), ("replicated_none", "old"),
        ("unread_pipeline", "old"), ("unread_pipeline", "new"),
    ]  # fmt: skip
    for run in document["runs"]:
        assert run["ordinary"]["requests"] > 0
        assert run["ordinary"]["p50_ms"] <= run["ordinary"]["p99_ms"] <= run["ordinary"]["max_ms"]
    assert document["met"]["control"] is True
    assert document["runs"][2]["offender"]["answered"] > 0
    assert len(document["runs"][4]["workers"]) == peers.PROCESSES
    text = path.with_suffix(".md").read_text()
    for row in rows.split(","):
        assert f"| {ROWS[row].offender} |" in text


def test_an_unknown_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stalls.main([str(peers.ROOT), "--rows=nonsense", f"--json={tmp_path / 'x.json'}"])
    assert "unknown rows: nonsense" in capsys.readouterr().err


def test_every_row_says_what_it_wants_and_has_a_name_of_its_own() -> None:
    assert all(row.offender and row.wanted and row.name == name for name, row in ROWS.items())
    assert len({row.offender for row in ROWS.values()}) == len(ROWS)
    assert stallrows.CLIENTS % peers.PROCESSES == 0
