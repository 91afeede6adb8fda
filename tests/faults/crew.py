"""The consumers of the soak: four processes in one group, killed all along, and started again.

What lives here: their lives and deaths. What must not: what they do (``consumer``), what they have to have done
(``ledger``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults import consumer
from tests.support import DEADLINE_SECONDS, ROOT

GROUP = "soak"
KILL_SECONDS = (0.3, 2.5)
"""Between two kills, drawn anew each time."""
TERM_SHARE = 0.2
"""Of the kills that are TERM: the consumer has to end by itself."""
TERM_SECONDS = 60.0
"""How long that may take: over an attempt's deadline and exec's grace; generous, since the machine is busy."""
RESTART_SECONDS = (0.1, 2.0)
"""Pause before a consumer is started again: doubled each time the store had refused it."""
LOOK_SECONDS = 0.05
LOG_SECONDS = 60.0
"""How long the log of a dead consumer is kept: a program of ``exec`` may still write to it."""
PROGRAM = r"""
ids=
while IFS= read -r line; do
  id=${line#*\"event_id\":\"}; id=${id%%\"*}
  case $id in
    *-poison-fails*|*-poison-bad*) exit 1 ;;
    *-poison-kills*) kill -9 $$ ;;
    *-poison-hangs*) sleep 3600 ;;
  esac
  ids="$ids$id
"
done
printf %s "$ids" >> "$0"
"""
"""What ``inlet exec`` runs: as ``consumer``, in a shell, and without a look at the contents."""


class Role(NamedTuple):
    """One of the crew. ``kinds``: what it may be in a life (``consumer``), drawn anew for each.

    ``name``: of a consumer that keeps it from one life to the next; empty for one made up.
    """

    kinds: tuple[str, ...]
    name: str


ROLES = (
    Role(("records", "async"), "steady"),
    Role(("records", "async"), ""),
    Role(("entries",), "whole"),
    Role(("exec",), ""),
)


@dataclass
class Member:
    """A role and its process of the moment."""

    role: Role
    number: int
    process: subprocess.Popen[bytes] | None = None
    ending_since: float | None = None  # when TERM was sent
    start_at: float = 0.0
    pause: float = RESTART_SECONDS[0]
    log: Path = Path()


@dataclass
class Crew:
    """The crew over the stream at ``url``; its logs are in ``directory``. Call ``start``, and ``stop`` in the end."""

    url: str
    stream: str
    directory: Path
    drawn: random.Random
    deaths: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What no consumer may do: end by itself, with another status than the store's, or not at all."""

    def __post_init__(self) -> None:
        self._members = [Member(role, number) for number, role in enumerate(ROLES)]
        self._lives = itertools.count()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # held while no member may be started or killed
        self._killing = True
        self._kill_at = 0.0
        self._thread = threading.Thread(target=self._live, name="crew", daemon=True)
        self._errors = self.directory / "errors"
        self._errors.mkdir(parents=True)

    def start(self) -> None:
        """Start the consumers, and to kill them."""
        self._thread.start()

    def spare(self) -> None:
        """Kill none from now on."""
        self._killing = False

    def stop(self) -> None:
        """TERM to all, and wait until they are gone. Raises AssertionError if one is not."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        for member in self._members:
            if member.process is not None and member.process.poll() is None:
                member.process.terminate()
        for member in self._members:
            if member.process is not None:
                try:
                    member.process.wait(DEADLINE_SECONDS)
                except subprocess.TimeoutExpired:
                    member.process.kill()
                    member.process.wait(DEADLINE_SECONDS)
                    self.wrong.append(f"{member.role} did not end on TERM within {DEADLINE_SECONDS:.0f} s")

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """SIGSTOP to all of them meanwhile."""
        with self._lock:
            living = [m.process for m in self._members if m.process is not None and m.process.poll() is None]
            for process in living:
                process.send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                for process in living:
                    process.send_signal(signal.SIGCONT)

    def _live(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with self._lock:
                now = time.monotonic()
                for member in self._members:
                    self._look(member, now)
                if self._killing and now >= self._kill_at:
                    self._kill_at = now + self.drawn.uniform(*KILL_SECONDS)
                    self._kill(self.drawn.choice(self._members), now)

    def _look(self, member: Member, now: float) -> None:
        """Start a member, or note its death."""
        if member.process is None:
            if now >= member.start_at:
                self._start(member)
        elif (status := member.process.poll()) is not None:
            self._note(member, status)
            refused = status == consumer.REFUSED
            member.pause = min(member.pause * 2, RESTART_SECONDS[1]) if refused else RESTART_SECONDS[0]
            member.process, member.start_at, member.ending_since = None, now + member.pause, None
        elif member.ending_since is not None and now > member.ending_since + TERM_SECONDS:
            self.wrong.append(f"{member.role} did not end within {TERM_SECONDS:.0f} s of TERM")
            member.process.kill()

    def _note(self, member: Member, status: int) -> None:
        by_term = member.ending_since is not None
        if status == -signal.SIGKILL:
            self.deaths["SIGKILL"] += 1
        elif by_term and status in (0, -signal.SIGTERM):
            self.deaths["TERM"] += 1  # by the signal itself where it came before there was a handler
        elif status == consumer.REFUSED:
            self.deaths["the store refused"] += 1
        else:
            said = (self._errors / member.log.name).read_text(errors="replace")[-2_000:]
            self.wrong.append(f"{member.role} ended with status {status}{' after TERM' if by_term else ''}: {said}")

    def _kill(self, member: Member, now: float) -> None:
        if member.process is None or member.process.poll() is not None or member.ending_since is not None:
            return
        if self.drawn.random() < TERM_SHARE:
            member.ending_since = now
            member.process.terminate()
        else:
            member.process.kill()

    def _start(self, member: Member) -> None:
        member.log = self.directory / f"{member.number}-{next(self._lives)}.log"
        kind, name, path = self.drawn.choice(member.role.kinds), member.role.name, str(member.log)
        words = [sys.executable, "-m", "tests.faults.consumer", kind, self.url, self.stream, GROUP, name, path]
        if kind == "exec":
            words = [
                sys.executable, "-m", "inlet", "exec", "--url", self.url, "--stream", self.stream, "--group", GROUP,
                "--claim-idle", str(consumer.CLAIM_IDLE_MS / 1000), "--attempts-max", str(consumer.ATTEMPTS_MAX),
                "--timeout", str(consumer.HANDLE_TIMEOUT_MS / 1000), "--", "sh", "-c", PROGRAM, path,
            ]  # fmt: skip
        with open(self._errors / member.log.name, "wb") as errors:
            member.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        for old in self._errors.glob("*.log"):
            if old.stat().st_mtime < time.time() - LOG_SECONDS and not self.is_current(old.name):
                old.unlink()

    def is_current(self, name: str) -> bool:
        """Whether a living consumer writes to the log of this name."""
        return any(member.process is not None and member.log.name == name for member in self._members)
