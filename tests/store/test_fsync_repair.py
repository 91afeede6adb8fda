"""What follows a failed fsync, a file that somebody has removed, and a process that was killed at such a time.

However it goes: in the end the store leaves its fsyncs to Inlet (``appendfsync no``), a rewrite that began after the
last trouble has replaced every file, and the log has one line for each change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inlet.stream.place import SOCKET_NAME
from tests.faults import power_cut
from tests.store.syncers import Directory, directory_of_its_own, failures, messages
from tests.support import Server, wait_until
from wsgi.store import sync_loop, syncing
from wsgi.store.sync_loop import ENDED, FILES_DIRECTORY, MANIFEST, MARK

WELL = "store: its files are fsynced again"
SAVE_DELAY_MICROSECONDS = 100_000
"""Of a rewrite, for each key."""
KEYS = 10
HANG_MICROSECONDS = 3_000_000
FAST = {"HEALTHY_SECONDS": 0.05, "RETRY_SECONDS": 0.01, "REWRITE_SECONDS": 0.1, "COMMAND_SECONDS_MAX": 0.1}
"""The pauses of the program, for the tests of its rounds."""

traceable = pytest.mark.skipif(bool(power_cut.no_strace()), reason=power_cut.no_strace())


@pytest.fixture
def directory() -> Iterator[Directory]:
    with directory_of_its_own() as one:
        yield one


def keep(directory: Directory) -> None:
    """What the supervisor does."""
    if directory.syncer.poll() is not None:
        directory.syncer.start()


def policy(directory: Directory) -> str:
    with directory.client() as client:
        return str(client.config_get("appendfsync")["appendfsync"])


def add(directory: Directory) -> None:
    """Have something to fsync; refused while the store meets errors itself."""
    with contextlib.suppress(redis.ResponseError), directory.client() as client:
        client.xadd("s", {"r": 1})


@contextlib.contextmanager
def failing(pid: int, trace: Path, more: str = "") -> Iterator[None]:
    with power_cut.traced(pid, trace, "trace=fdatasync", f"inject=fdatasync:error=EIO{more}"):
        yield


def wait_until_well(directory: Directory, doubted: set[str], caplog: pytest.LogCaptureFixture) -> None:
    def well() -> bool:
        keep(directory)
        return messages(caplog)[-1:] == [WELL]

    wait_until(well, "all is well again")
    assert policy(directory) == "no"
    assert not doubted & directory.listed()
    assert messages(caplog).count(WELL) == 1


@traceable
@pytest.mark.parametrize("step", ["failing", "healthy", "rewriting"])
def test_a_process_killed_after_a_failed_fsync_leaves_its_work_to_the_next(
    directory: Directory, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    directory.start()
    directory.syncer.start()
    with directory.client() as client:
        for number in range(KEYS):
            client.set(str(number), 1)
    with failing(directory.syncer_pid, directory.root / "trace"):

        def reported() -> bool:
            add(directory)
            keep(directory)
            return policy(directory) == "everysec" and bool(failures(caplog))

        wait_until(reported, "the store has to fsync itself")
        doubted = directory.listed()
        if step == "failing":
            os.kill(directory.syncer_pid, signal.SIGKILL)
    if step == "rewriting":
        with directory.client() as client:
            client.config_set("rdb-key-save-delay", SAVE_DELAY_MICROSECONDS)
            wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
    if step != "failing":
        os.kill(directory.syncer_pid, signal.SIGKILL)
    wait_until_well(directory, doubted, caplog)
    failure, ended = failures(caplog)
    assert "Input/output error" in failure
    assert ended == f"store: {ENDED}"


@traceable
def test_an_fsync_that_fails_after_its_process_was_killed_for_silence_counts(
    directory: Directory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.start()
    directory.syncer.start()
    with directory.client() as client:
        wait_until(lambda: list(directory.root.glob(f"{MARK}*")), "it has seen the files")
        pid = directory.syncer_pid
        with failing(pid, directory.root / "trace", f":delay_exit={HANG_MICROSECONDS}"), monkeypatch.context() as patch:
            patch.setattr(syncing, "SILENT_SECONDS_MAX", 1.0)
            client.xadd("s", {"r": 1})
            wait_until(lambda: directory.syncer.poll() is not None, "it is killed")
            doubted = directory.listed()
        wait_until_well(directory, doubted, caplog)
    assert ["has ended for 1 s" in failures(caplog)[0], *failures(caplog)[1:]] == [True, f"store: {ENDED}"]


@traceable
def test_a_store_that_does_not_take_commands_gets_them_later(
    directory: Directory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.start()
    assert directory.store is not None
    directory.syncer.start()
    with failing(directory.syncer_pid, directory.root / "trace"):
        add(directory)
        wait_until(lambda: directory.syncer.poll() or failures(caplog), "it is reported")
        wait_until(lambda: policy(directory) == "everysec", "the store has to fsync itself")
        doubted = directory.listed()
        directory.store.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    # Past the time at which it is first asked to go on as before.
    wait_until(lambda: time.monotonic() > stopped + sync_loop.HEALTHY_SECONDS + 3, "some tries")
    keep(directory)
    assert messages(caplog)[-1] != WELL
    directory.store.send_signal(signal.SIGCONT)
    wait_until_well(directory, doubted, caplog)
    assert len(failures(caplog)) == 1


def test_a_start_after_one_that_ended_badly_has_the_files_written_anew(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    directory.start()
    directory.syncer.start()
    wait_until(lambda: list(directory.root.glob(f"{MARK}*")), "it has seen the files")
    os.kill(directory.syncer_pid, signal.SIGKILL)
    wait_until(lambda: directory.syncer.poll() is not None, "it has ended")
    doubted = directory.listed()
    directory.syncer.stop()
    caplog.clear()
    directory.syncer = syncing.Syncer(directory.root)
    directory.syncer.start()
    wait_until_well(directory, doubted, caplog)
    assert failures(caplog) == [f"store: {ENDED}"]
    directory.syncer.stop()
    assert not list(directory.root.glob(f"{MARK}*"))


def test_a_start_after_one_that_ended_well_has_nothing_to_do(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    directory.start()
    for _ in range(2):
        directory.syncer.start()
        wait_until(lambda: list(directory.root.glob(f"{MARK}*")), "it has seen the files")
        keep(directory)
        directory.syncer.stop()
    assert not list(directory.root.glob(f"{MARK}*"))
    assert not messages(caplog)


def replace(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


REMOVALS: dict[str, Callable[[Path], None]] = {
    "incr": lambda files: (files / "appendonly.aof.1.incr.aof").unlink(),
    "base": lambda files: (files / "appendonly.aof.1.base.rdb").unlink(),
    "manifest": lambda files: (files / MANIFEST).unlink(),
    "directory": lambda files: shutil.rmtree(files),
    "replaced": lambda files: replace(files / "appendonly.aof.1.incr.aof"),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_files_that_somebody_removes_are_written_anew(
    directory: Directory, caplog: pytest.LogCaptureFixture, removal: str
) -> None:
    directory.start()
    directory.syncer.start()
    with directory.client() as client:
        client.xadd("s", {"r": 1})
        wait_until(lambda: list(directory.root.glob(f"{MARK}*")), "it has seen the files")
        time.sleep(sync_loop.PAUSE_SECONDS_MAX)
        REMOVALS[removal](directory.root / FILES_DIRECTORY)
        client.xadd("s", {"r": 2})
        # A manifest is there again as soon as a rewrite begins, and then lists what was there before.
        wait_until_well(directory, {"appendonly.aof.1.incr.aof"} if removal != "manifest" else set(), caplog)
        (failure,) = failures(caplog)
        assert f"was removed from {directory.root}/{FILES_DIRECTORY}" in failure
        client.xadd("s", {"r": 3})
    directory.kill()
    directory.start()
    with directory.client() as client:
        assert client.xlen("s") == 3


def test_inlet_has_a_removed_file_written_anew(serve: Callable[..., Server]) -> None:
    server_ = serve("--workers", "1")
    (file,) = server_.data_dir.glob(f"{FILES_DIRECTORY}/*.incr.aof")
    file.unlink()
    wait_until(lambda: WELL in server_.log(), "it is written anew")
    assert server_.log().count(f"{file.name} was removed") == 1
    assert server_.stop() == 0
    assert list(server_.data_dir.glob(f"{FILES_DIRECTORY}/*.incr.aof"))
    assert not list(server_.data_dir.glob(f"{MARK}*"))


class Killed(BaseException):
    """The process ends here. Not an Exception, so that nothing handles it."""


class Repairs(RuleBasedStateMachine):
    """Any order of disk errors, kills of the process and of the store, stops, rewrites and removals.

    The rounds run in this process, over a real store; a kill ends them before or after any of their steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in FAST.items():
            patch.setattr(sync_loop, name, value)
        for step in ("fdatasync", "send_to_store", "remove"):
            patch.setattr(sync_loop, step, self.step(getattr(sync_loop, step)))
        self.disk_fails = False
        self.steps_left = -1
        self.frozen = self.removed = False
        self.doubted: set[str] = set()
        self.added = 0
        self.directory = self.stack.enter_context(directory_of_its_own())
        self.directory.start()
        self.rounds = self.start_rounds()

    def start_rounds(self) -> sync_loop.Rounds:
        return sync_loop.Rounds(str(self.directory.root), str(self.directory.root / SOCKET_NAME))

    def step(self, real: Callable[..., object]) -> Callable[..., object]:
        def one(*words: object) -> object:
            self.count()
            if real is os.fdatasync and self.disk_fails:
                raise OSError(errno.EIO, "Input/output error")
            done = real(*words)
            self.count()
            return done

        return one

    def count(self) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Killed

    @rule(number=strategies.integers(1, 3))
    def run(self, number: int) -> None:
        for _ in range(number):
            self.rounds.run()
            time.sleep(0.02)

    @precondition(lambda self: not self.frozen)
    @rule()
    def add(self) -> None:
        with contextlib.suppress(redis.ResponseError), self.directory.client() as client:
            client.xadd("s", {"r": 1})
            self.added += 1

    @precondition(lambda self: not self.frozen)
    @rule()
    def fail(self) -> None:
        self.add()
        self.disk_fails = True
        self.rounds.run()
        self.disk_fails = False
        if "failed" in self.rounds.trouble:
            self.doubted |= self.directory.listed()

    @rule(steps=strategies.integers(1, 6), fails=strategies.booleans())
    def kill_process(self, steps: int, fails: bool) -> None:
        if not self.frozen:
            self.add()
        self.disk_fails, self.steps_left = fails, steps
        with contextlib.suppress(Killed):
            self.run(3)
        self.disk_fails, self.steps_left = False, -1
        # What its last fsync came to, nobody knows.
        self.doubted |= self.directory.listed()
        self.rounds = self.start_rounds()

    @rule()
    def freeze_or_thaw(self) -> None:
        assert self.directory.store is not None
        self.frozen = not self.frozen
        self.directory.store.send_signal(signal.SIGSTOP if self.frozen else signal.SIGCONT)

    @precondition(lambda self: not self.frozen and not self.removed)
    @rule()
    def restart_store(self) -> None:
        holds_back = policy(self.directory) != "no"
        self.directory.kill()
        self.directory.start()
        if holds_back:
            with self.directory.client() as client:
                self.added = client.xlen("s")

    @precondition(lambda self: not self.frozen)
    @rule(ends_well=strategies.booleans())
    def rewrite(self, ends_well: bool) -> None:
        """One that nobody here has asked for."""
        with self.directory.client() as client, contextlib.suppress(redis.ResponseError):
            client.config_set("rdb-key-save-delay", SAVE_DELAY_MICROSECONDS)
            client.bgrewriteaof()
            client.config_set("rdb-key-save-delay", 0)
            assert self.directory.store is not None
            pid = self.directory.store.pid
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if not ends_well:
                    os.kill(int(child), signal.SIGKILL)

    @precondition(lambda self: not self.removed)
    @rule(which=strategies.integers(0, 3))
    def remove_file(self, which: int) -> None:
        # First, and whatever comes of it: which rules may come next must not depend on how fast the machine is.
        self.removed = True
        self.run(1)
        names = [*sorted(self.directory.listed()), MANIFEST]
        with contextlib.suppress(FileNotFoundError):  # A rewrite may have ended just now.
            (self.directory.root / FILES_DIRECTORY / names[which % len(names)]).unlink()

    @invariant()
    def nothing_is_well_that_is_not(self) -> None:
        if self.rounds.trouble or self.frozen:
            return
        self.rounds.run()
        if self.rounds.trouble:
            return
        assert policy(self.directory) == "no"
        assert not self.doubted & self.directory.listed()
        self.removed = False

    def teardown(self) -> None:
        try:
            if self.frozen:
                self.freeze_or_thaw()

            def well() -> bool:
                self.run(1)
                return not self.rounds.trouble

            wait_until(well, "all is well")
            self.nothing_is_well_that_is_not()
            self.directory.kill()
            self.directory.start()
            with self.directory.client() as client:
                assert client.xlen("s") >= self.added
        finally:
            self.stack.close()


TestRepairs = Repairs.TestCase
TestRepairs.settings = hypothesis.settings(max_examples=25, stateful_step_count=12)
