"""The consumer's bench runs, tiny, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support import ROOT


def test_the_bench_reads_everything_with_every_contender() -> None:
    words = [sys.executable, "bench/consumer_bench.py", "--records", "2000", "--runs", "1", "--json"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert {name: row["records"] for name, row in report["results"].items()} == dict.fromkeys(
        ("redis-py", "inlet", "asyncio", "dedup"), 2_000
    )
    assert report["ratio"] > 0
