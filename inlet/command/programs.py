"""Run a program on one entry: its input, its deadline, and the end of everything that it started.

What lives here: processes and process groups. What must not: entries, acks, what a failure leads to.

The program leads a process group of its own: Ctrl-C in a terminal reaches this process only. It is over when its first
process has exited; whatever is left of its group is then killed. Three things end a program early: its deadline, a stop
(after a grace), and the death of this process, by kill -9 too. The last is the guard's work: PR_SET_PDEATHSIG would end
the program's first process only, not what a shell script started.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from inlet.command.output import printable
from inlet.consumer.errors import HandlerTimeout, Stopped
from inlet.stream.errors import ConsumerError

KILL_SECONDS = 2.0
"""Seconds from TERM to KILL: enough to remove a temporary file, too short for the claim of a waiting consumer."""
GUARD = 'while read -r group; do last=$group; done; [ -z "$last" ] || kill -s KILL -- "-$last"'
"""Shell script: read the running program's process group, and kill it if the pipe ends before an empty line came."""
LAUNCH = 'read -r go && exec "$@"'
"""Shell script: begin only once the guard knows of this group. If this process dies first, stdin ends instead.

PERF: adds 0.7 ms to a run. A ``preexec_fn`` would add 2 ms and more, because it forbids vfork(2).
"""

NOT_STARTED = {126: "it cannot be executed", 127: "it, its interpreter or a command of it was not found"}
"""Exit statuses that POSIX keeps for the shell and for env, nohup and xargs, which report by them that they could not
start something: no fault of an entry."""


class RunLimits(NamedTuple):
    """``timeout``: seconds that one run may take. ``grace``: seconds that it may still take once stopped."""

    timeout: float
    grace: float


class Program:
    """Run one program, again and again, until ``close``; main thread only. ``stopped``: a signal asked for the end."""

    def __init__(self, words: Sequence[str], limits: RunLimits, stopped: Callable[[], bool]) -> None:
        self._words, self._limits, self._stopped = list(words), limits, stopped
        self._name = printable(os.path.basename(words[0]))
        self._guard = _start_guard()
        # Any signal ends a wait: that of a child's exit, or of a stop.
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._old_handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._old_wakes = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def run(self, data: bytes, about: Mapping[str, str]) -> None:
        """Run it with ``data`` on stdin and ``about`` in its environment. It need not read what it is given.

        Raises ConsumerError for any exit status but 0, HandlerTimeout past the deadline, Stopped if a stop kept it
        from finishing, OSError if it cannot be started.
        """
        if self._stopped():
            raise Stopped("stopped before the program was started")
        if self._guard.poll() is not None:
            self._guard = _start_guard()
        if not os.access(self._words[0], os.X_OK):
            # The shell would report it by a status that could be the program's own.
            raise FileNotFoundError(errno.ENOENT, "not found, or not executable", self._words[0])
        process = subprocess.Popen(  # nosec B603  # the operator's own program
            ["/bin/sh", "-c", LAUNCH, "sh", *self._words], stdin=subprocess.PIPE, bufsize=0, process_group=0,
            env={**os.environ, **about},
        )  # fmt: skip
        with process:
            try:
                self._note(b"%d" % process.pid)
                self._finish(process, memoryview(b"\n" + data))
            except KeyboardInterrupt:
                raise Stopped(f"{self._name} was killed by a second signal") from None
            finally:
                _signal(process, signal.SIGKILL)
                self._note(b"")
        if why := NOT_STARTED.get(process.returncode):
            raise OSError(errno.ENOEXEC, f"exit status {process.returncode}, so {why}", self._words[0])
        if process.returncode:
            raise ConsumerError(f"{self._name} {_ended(process.returncode)}")

    def close(self) -> None:
        """End the guard, and put the handlers back."""
        signal.set_wakeup_fd(self._old_wakes)
        signal.signal(signal.SIGCHLD, self._old_handler)
        for end in (self._woken, self._wakes):
            os.close(end)
        with self._guard:
            pass

    def _note(self, group: bytes) -> None:
        """Tell the guard which group runs; none if empty."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(group + b"\n")

    def _finish(self, process: subprocess.Popen[bytes], data: memoryview) -> None:
        """Wait until the program has exited. Past its deadline or the grace, end it. Raises HandlerTimeout, Stopped."""
        deadline = time.monotonic() + self._limits.timeout
        stop_at: float | None = None
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        assert process.stdin is not None
        poller.register(process.stdin, select.POLLOUT)
        while process.poll() is None:
            now = time.monotonic()
            if stop_at is None and self._stopped():
                stop_at = now + self._limits.grace
            if now >= deadline:
                _terminate(process)
                raise HandlerTimeout(f"{self._name} was ended after {self._limits.timeout:g} s (--timeout)")
            if stop_at is not None and now >= stop_at:
                _terminate(process)
                raise Stopped(f"{self._name} was ended {self._limits.grace:g} s after the stop (--grace)")
            until = deadline if stop_at is None else min(deadline, stop_at)
            for end, _ in poller.poll((until - now) * 1000):
                if end == self._woken:
                    os.read(end, select.PIPE_BUF)
                elif not (data := _feed(end, data)):
                    poller.unregister(end)
                    process.stdin.close()


def _feed(end: int, data: memoryview) -> memoryview:
    """Write a part of ``data`` to a pipe that has room; return the rest, nothing if its reader closed it."""
    try:
        return data[os.write(end, data[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return data[:0]


def _start_guard() -> subprocess.Popen[bytes]:
    """Start a shell that outlives this process by an instant. It holds none of its files or directories open."""
    return subprocess.Popen(  # nosec B603  # a constant
        ["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        bufsize=0, cwd="/", start_new_session=True,
    )  # fmt: skip


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # No such group: all of it is gone. macOS says so by EPERM.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, and wait a moment for the first process."""
    _signal(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def _ended(status: int) -> str:
    """Return how a program ended; ``status`` as subprocess gives it, negative for a signal."""
    if status > 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
