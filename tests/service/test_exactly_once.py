"""examples/exactly_once.py runs by itself, from any directory, and shows what it promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import DEADLINE_SECONDS, ROOT, processes_of, wait_until

EVENTS = 20_000
SECONDS_MAX = 10 * DEADLINE_SECONDS


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the example in ``directory``."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "exactly_once.py"), *words],
        cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip


def test_the_table_holds_each_event_once_though_all_parts_are_killed_all_along(tmp_path: Path) -> None:
    done = run(tmp_path, "--events", str(EVENTS), "--seconds-max", str(SECONDS_MAX / 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{EVENTS} events, {EVENTS} rows, {EVENTS} different" in done.stdout
    for what in ("consumer", "worker", "store"):
        assert re.search(rf"killed with kill -9: .*{what} [1-9]", done.stdout), done.stdout
    found = re.search(r"stored already: at least (\d+)", done.stdout)
    assert found is not None
    assert int(found[1]) > 0
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "ended by Ctrl-C")]
)
def test_a_run_that_is_ended_leaves_nothing_behind(number: signal.Signals, words: str) -> None:
    # Found from outside: TERM left the server, its store and the consumer running.
    with tempfile.TemporaryDirectory(prefix="x") as name:  # tmp_path is too long for a socket below it
        directory = Path(name)
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "exactly_once.py"), "--events", "1000000"],
            cwd=directory, env={**os.environ, "TMPDIR": name}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: list(directory.glob("*/out.db")), "server, store and consumer run")
        assert len(processes_of(directory)) > 4
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, errors.splitlines()) == (1, [words])
        assert not processes_of(directory)
        assert not list(directory.iterdir())


def test_a_run_that_has_to_give_up_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "--events", str(EVENTS), "--seconds-max", "0")
    assert done.returncode == 1
    assert "gave up after 0 seconds" in done.stdout
