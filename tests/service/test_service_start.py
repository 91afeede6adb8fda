"""The start of the real server: signals that arrive during it, and what an Inlet that was killed has left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, ROOT, SETTINGS, kill_all, processes_of, wait_until

SLOW_COMMAND = b"for i = 1, 300000 do end"
"""A script of about a millisecond."""
SLOW_COMMANDS = 100_000
"""The store looks for signals and commands at every 1,024th, so it loads for a minute or more, and is awake."""
DIRECTORY = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())


def write_slow_file(data_dir: Path) -> None:
    """Give the store append-only files that take long to load."""
    directory = data_dir / "appendonlydir"
    directory.mkdir(parents=True)
    words = (b"EVAL", SLOW_COMMAND, b"0")
    command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    (directory / "appendonly.aof.1.incr.aof").write_bytes(command * SLOW_COMMANDS)
    (directory / "appendonly.aof.manifest").write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")


@contextlib.contextmanager
def starting(data_dir: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """gunicorn, which is not waited for."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "app:application", "--workers", "1", "--bind", "127.0.0.1:0"],
        cwd=ROOT,
        env={**inherited, "INLET_DATA_DIR": str(data_dir), "TMPDIR": str(data_dir.parent), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not in tmp_path, since the path of a socket has to be short."""
    top = Path(tempfile.mkdtemp(prefix="inlet-"))
    yield top / "data"
    kill_all(top)
    shutil.rmtree(top)


def loads(data_dir: Path) -> bool:
    return any("valkey-server" in words for words in processes_of(data_dir).values()) and (
        "Reading RDB" in (log := (data_dir / "valkey.log").read_text()) or "Server initialized" in log
    )


def metrics_of(process: subprocess.Popen[bytes]) -> set[Path]:
    """Metrics directories that the process has a file open in."""
    found = set[Path]()
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = Path(os.readlink(link))
            if target.parent.name.startswith("inlet-metrics-"):
                found.add(target.parent)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_during_the_start_left_a_store_behind(data_dir: Path, number: signal.Signals) -> None:
    """Regression: gunicorn handles no signal before the store runs, so it died of it, and the store lived on."""
    write_slow_file(data_dir)
    with starting(data_dir) as process:
        wait_until(lambda: loads(data_dir), "the store loads")
        directories = metrics_of(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, output
    assert f"ended by {number.name}" in output.decode()
    assert b"Traceback" not in output
    assert not processes_of(data_dir)
    assert not (data_dir / "valkey.sock").exists()
    assert len(directories) == 1
    assert not any(directory.exists() for directory in directories)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU])
def test_a_signal_for_a_running_server_ended_one_that_was_starting(data_dir: Path, number: signal.Signals) -> None:
    """Regression: the default action of most of them; that of the last two is to stop it for good."""
    write_slow_file(data_dir)
    with starting(data_dir) as process:
        wait_until(lambda: loads(data_dir), "the store loads")
        for _ in range(3):
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert not processes_of(data_dir)


def test_a_second_signal_does_not_interrupt_the_end(data_dir: Path) -> None:
    write_slow_file(data_dir)
    with starting(data_dir) as process:
        wait_until(lambda: loads(data_dir), "the store loads")
        for _ in range(20):
            process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert not processes_of(data_dir)


def test_what_a_killed_inlet_left_of_its_metrics_stayed_in_memory(serve: Serve, valkey: str, stream: str) -> None:
    """Regression. A directory that is in use stays, and so does one that is not known to be ours."""
    live = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    killed = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    (left,) = killed.metrics_directories()
    workers = killed.workers()
    killed.process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/maps").exists() for pid in workers), "its workers have ended")
    foreign = Path(tempfile.mkdtemp(prefix="inlet-metrics-", dir=DIRECTORY))
    try:
        serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
        assert not left.exists()
        assert all(directory.exists() for directory in live.metrics_directories())
        assert foreign.exists()
    finally:
        foreign.rmdir()


def test_metrics_of_an_inlet_whose_workers_live_on_stay(serve: Serve, valkey: str, stream: str) -> None:
    killed = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    (left,) = killed.metrics_directories()
    (worker,) = killed.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        killed.process.kill()
        killed.process.wait(DEADLINE_SECONDS)
        serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
        assert left.exists()
    finally:
        os.kill(worker, signal.SIGKILL)
