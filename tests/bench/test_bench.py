"""The benchmark's parts: what is sent, what generators say, what processes cost, whether a run counts, arithmetic.

``test_bench_runs`` runs the whole.
"""

from __future__ import annotations

import ast
import contextlib
import http.server
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from bench import __main__ as command_line
from bench import compare, load, memory, openloop, peers, picture, procs, traffic
from bench.load import Outcome
from bench.plan import Options
from bench.store import BenchStore

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
DEADLINE_SECONDS = 60.0
MEBIBYTE = 2**20


# What generators say


def test_wrks_answers_are_those_that_were_not_refused_and_its_errors_are_added_up() -> None:
    line = (
        '{"us":2000000,"requests":100,"connect":1,"read":2,"write":3,"status":10,"timeout":4,'
        '"p50":5,"p99":6,"p999":7,"max":8}'
    )
    assert load.parse_wrk(f"Running\nRESULT {line}\n") == Outcome(2.0, 90, 10, 10, 5, 6, 7, 8, "wrk")


def test_a_wrk_that_printed_no_result_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no result"):
        load.parse_wrk("unable to connect")


def test_an_open_loops_unanswered_requests_count_as_failed() -> None:
    latency = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0}
    counts = {"seconds": 2.0, "answered": 10, "unexpected": 3, "unanswered": 1, "send_late_us_p99": 0.5}
    text = json.dumps({**counts, "latency_us": latency})
    assert openloop.parse(text) == Outcome(2.0, 7, 3, 1, 1.0, 3.0, 4.0, 5.0, "openloop", 0.5)


def test_wrk_is_given_the_file_of_requests_and_reads_it_before_its_clock_starts(tmp_path: Path) -> None:
    text = load.script(tmp_path / 'a "quoted" name')
    assert f'io.open("{tmp_path}/a \\"quoted\\" name", "rb")' in text
    assert text.index("function init") < text.index("io.open") < text.index("function request")
    assert "%%" not in text


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 1001)]
    assert [load.percentile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]
    assert load.percentile([7.0], 0.5) == 7.0


class _Answers(http.server.BaseHTTPRequestHandler):
    """202 to /ingest, 503 to all else; closes after /close."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        """Read all, answer."""
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(202 if self.path == "/ingest" else 503)
        if self.path == "/close":
            self.send_header("Connection", "close")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server of the standard library."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_client_of_our_own_counts_answers_and_refusals(port: int) -> None:
    good = load.run_plain(port, ("POST", "/ingest", {}, b"x"), 2, 0.2)
    bad = load.run_plain(port, ("POST", "/other", {}, b"x"), 2, 0.2)
    assert good.answered > 0
    assert good.refused == good.socket_errors == 0
    assert 0 < good.p50_us <= good.p99_us <= good.p999_us <= good.max_us
    assert bad.refused > 0
    assert bad.answered == 0


@pytest.mark.parametrize("send", [load.run_plain, load.saturate], ids=["our own", "the one installed"])
def test_a_generator_sends_the_requests_in_turn_and_over_again_whether_connections_are_closed_or_not(
    port: int, send: Callable[..., Outcome]
) -> None:
    _Answers.bodies.clear()
    paths = ("/ingest", "/close", "/ingest")
    given = traffic.Traffic(tuple(traffic.raw(("POST", path, {}, b"body %d" % n)) for n, path in enumerate(paths)))
    outcome = send(port, given, 1, 1, 202)
    assert outcome.socket_errors == 0
    assert outcome.refused > 0
    assert abs(outcome.answered - 2 * outcome.refused) <= 2
    # wrk calls ``request`` once to look at it, and may leave one unanswered at the end.
    numbers = [int(body.split()[1]) for body in _Answers.bodies]
    assert all(after == (before + 1) % 3 for before, after in pairwise(numbers))


def test_the_client_of_our_own_counts_a_server_that_is_not_there() -> None:
    # Held, so that nobody listens on it meanwhile.
    with peers.reserve_port() as held:
        outcome = load.run_plain(peers.port_of(held), ("POST", "/ingest", {}, b"x"), 2, 0.2)
    assert outcome.socket_errors == 2
    assert math.isnan(outcome.p99_us)


# What a process costs


@contextlib.contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code``, and has printed a line when this is entered."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_cpu_time_is_that_of_the_whole_tree() -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import time
while time.process_time() < 0.3: pass
print(flush=True)
time.sleep(60)
'''])
print(flush=True)
time.sleep(60)
"""
    with python(code) as process:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while procs.cpu_seconds(process.pid) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent, child = procs.tree(process.pid)
        assert parent == process.pid
        os.kill(child, 9)


def test_memory_is_what_a_process_has_touched() -> None:
    with python("print(flush=True); import time; time.sleep(60)") as small:
        before = procs.tree_pss_bytes(small.pid)
    code = f"data = bytearray(b'x') * {64 * MEBIBYTE}; print(flush=True); import time; time.sleep(60)"
    with python(code) as large, procs.Sampler(lambda: procs.tree_pss_bytes(large.pid)) as sampler:
        assert procs.command(large.pid).startswith("python")
    assert before > MEBIBYTE
    assert before + 63 * MEBIBYTE < sampler.peak < before + 80 * MEBIBYTE


def test_a_process_that_is_gone_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert procs.tree(process.pid) == []
    assert procs.cpu_seconds(process.pid) == 0
    assert procs.pss_bytes(process.pid) == 0
    assert procs.command(process.pid) == ""


# Whether a run counts


def outcome(answered: int = 10, refused: int = 0, errors: int = 0) -> Outcome:
    return Outcome(1.0, answered, refused, errors, 1.0, 2.0, 3.0, 4.0, "wrk")


@pytest.mark.parametrize(
    ("stored", "in_flight", "records", "words"),
    [
        (10, 0, 1, None),
        (9, 0, 1, "10 records were answered, 9 are stored"),
        (11, 0, 1, "11 records are stored"),
        (14, 4, 1, None),
        (15, 4, 1, "15 records are stored"),
        (1400, 4, 100, None),
        (1401, 4, 100, "1401 records are stored"),
        (None, 0, 1, None),
    ],
)
def test_records_stored_are_records_answered_but_for_those_under_way(
    stored: int | None, in_flight: int, records: int, words: str | None
) -> None:
    found = compare.fault(outcome(), stored, in_flight, records)
    assert found is None if words is None else words in (found or "")


def test_a_refusal_an_error_or_no_answer_at_all_disqualifies() -> None:
    assert "3 requests were not answered as promised" in (compare.fault(outcome(refused=3), 10, 0, 1) or "")
    assert "2 connections or requests failed" in (compare.fault(outcome(errors=2), 10, 0, 1) or "")
    assert compare.fault(outcome(answered=0), 0, 0, 1) == "no request was answered"


def test_the_store_counts_the_records_of_every_layout_and_refuses_a_wrong_count() -> None:
    with BenchStore() as store:
        store.client.xadd("logs", {"r": b"one"})
        store.client.xadd("logs", {"r": b"one\ntwo", "n": 2})
        assert store.records() == 3
        assert store.entries() == 2
        store.client.xadd("logs", {"r": b"one\ntwo", "n": 3})
        with pytest.raises(RuntimeError, match="n=3, holds 2"):
            store.records()
        store.settle()
        assert store.records() == 0
    assert not store.directory.exists()


def test_the_store_counts_more_entries_than_one_page() -> None:
    with BenchStore() as store:
        pipe = store.client.pipeline()
        for _ in range(1001):
            pipe.xadd("logs", {"r": b"one"})
        pipe.execute()
        assert store.records() == 1001


# The arithmetic of a comparison and of memory


def test_the_open_loops_rate_is_half_of_the_median_saturation() -> None:
    base = {"load": "single_varied_c64", "peer": "go_goredis"}
    runs = [{**base, "requests_per_second": rate} for rate in (100, 300, 800)]
    assert compare.open_rate(runs, 64) == 150
    assert compare.open_rate(runs, 16) == 0


def test_a_slope_is_least_squares_and_flat_where_there_is_nothing_to_fit() -> None:
    assert memory.slope([(0, 1), (1, 3), (2, 5)]) == 2.0
    assert memory.slope([(1, 1), (1, 3)]) == 0.0
    assert memory.slope([]) == 0.0


def test_the_memory_summary_leaves_the_warm_up_and_the_store_out() -> None:
    sizes = [(0, 10), (100_000, 40), (200_000, 41), (1_000_000, 49)]
    readings = [{"requests": n, "master": 1_000_000 * m, "workers": 0, "store": 10**9} for n, m in sizes]
    result = memory.summary(readings)
    assert result["pss_peak_bytes"] == 49_000_000
    assert result["slope_bytes_per_100000"] == pytest.approx(1_000_000)


@pytest.mark.parametrize(("peak", "met"), [(memory.PSS_BYTES_MAX, True), (memory.PSS_BYTES_MAX + 1, False)])
def test_the_memory_target_is_met_at_its_bound_and_missed_past_it(peak: int, met: bool) -> None:
    readings = [{"requests": n, "master": peak, "workers": 0, "store": 0} for n in (0, 500_000, 1_000_000)]
    assert memory.summary(readings)["met"] is met


def test_a_step_of_the_memory_run_counts_only_if_one_request_in_ten_was_refused() -> None:
    assert memory.unexpected(outcome(900, 100), 4) == ""
    assert memory.unexpected(outcome(895, 105), 4) == ""
    assert "106 of 1000 requests were refused" in memory.unexpected(outcome(894, 106), 4)
    assert "94 of 1000" in memory.unexpected(outcome(906, 94), 4)
    assert memory.unexpected(outcome(900, 100, 1), 4)
    assert memory.unexpected(outcome(0, 0), 4)


def test_the_picture_is_well_formed_with_a_bar_for_each_number() -> None:
    drawn = picture.svg([picture.Chart("a < b & c", [("inlet", 2.0), ("other", 1.0), ("none", 0.0)])], {"inlet"})
    bars = [e for e in ElementTree.fromstring(drawn).iter() if e.tag.endswith("rect")][1:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert widths[2] == 1.0
    assert bars[0].attrib["fill"] == picture.OURS != bars[1].attrib["fill"]


# The command line, the table of peers, the layout


def test_a_peer_that_is_not_built_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = peers.Peer("missing", "", lambda place: [], needs=tmp_path / "missing")
    monkeypatch.setitem(peers.PEERS, "missing", missing)
    with pytest.raises(SystemExit):
        command_line.main(["compare", "--peers=missing"])
    assert "not built: missing; run `python -m bench peers`" in capsys.readouterr().err


def test_the_open_loop_without_a_rate_or_a_peer_to_find_it_says_so(tmp_path: Path) -> None:
    options = Options(1, 1, ("inlet_gthread",), (peers.OPEN,))
    with pytest.raises(SystemExit, match="needs --rate"):
        compare.compare(options, tmp_path / "r.json")


def test_every_built_peer_has_its_source_in_the_project() -> None:
    for peer in peers.PEERS.values():
        if peer.needs is not None and peer.needs.is_relative_to(peers.BUILD / "bin"):
            assert (peers.SOURCES / peer.name).is_dir()


@pytest.mark.parametrize("path", sorted((peers.ROOT / "bench").glob("*.py")), ids=lambda path: path.name)
def test_modules_and_functions_of_the_bench_stay_under_the_bounds(path: Path) -> None:
    text = path.read_text()
    parsed = ast.parse(text)
    assert ast.get_docstring(parsed)
    assert len(text.splitlines()) < MODULE_LINES_MAX
    for node in ast.walk(parsed):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name
