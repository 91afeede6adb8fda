"""Programs that the tests of clients need and that no wheel brings: npm packages, a Go build, syslog-ng.

What lives here: getting them once, into places that git ignores, and saying why a test is skipped where they cannot be
had. What must not: what they are used for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

CACHE = ROOT / "tests/clients/.cache"
"""Of builds; ignored by git. ``.ci/programs`` unpacks syslog-ng here."""
INSTALL_SECONDS_MAX = 280
QUIET = {"NODE_DISABLE_COMPILE_CACHE": "1", "npm_config_update_notifier": "false"}
"""Environment of node and npm: no files in the temporary directory, no look-ups."""


class SyslogNg(NamedTuple):
    """How syslog-ng is started: words before its own options, and the environment that it needs."""

    words: tuple[str, ...]
    env: dict[str, str]


def npm_packages(folder: Path) -> Path:
    """Return ``node_modules`` of a folder with a lock file, installed with ``npm ci`` unless it is already."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed here")
    modules, lock_file = folder / "node_modules", folder / "package-lock.json"
    with _alone(f"npm-{folder.name}"):
        stamp = modules / ".lock-that-is-installed"
        if not stamp.exists() or stamp.read_bytes() != lock_file.read_bytes():
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder, "npm")
            stamp.write_bytes(lock_file.read_bytes())
    return modules


def go_program(folder: Path, name: str) -> Path:
    """Build the program in ``folder``, a module of its own with go.sum, and return its path."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed here")
    CACHE.mkdir(exist_ok=True)
    with _alone(f"go-{name}"):
        _run(["go", "build", "-o", str(CACHE / name), "."], folder, "Go")
    return CACHE / name


def syslog_ng() -> SyslogNg:
    """Return how syslog-ng 3.38 with its http() is started: the installed one, or the one that is unpacked."""
    if (found := shutil.which("syslog-ng")) and Path("/usr/lib/syslog-ng/3.38/libhttp.so").exists():
        return SyslogNg((found,), {})
    root = CACHE / "syslog-ng"
    modules = root / "usr/lib/syslog-ng/3.38"
    if not (modules / "libhttp.so").exists():
        pytest.skip("syslog-ng is not installed here (.ci/programs unpacks it)")
    libraries = (root / "usr/lib/syslog-ng", root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu")
    return SyslogNg(
        (str(root / "usr/sbin/syslog-ng"), f"--module-path={modules}"),
        {"LD_LIBRARY_PATH": ":".join(map(str, libraries))},
    )


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let one process of pytest-xdist at a time do this."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / f"{name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(words: list[str], folder: Path, what: str) -> None:
    """Run an installer. Skips the test where its registry cannot be reached and nothing is cached."""
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **QUIET}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=INSTALL_SECONDS_MAX, check=False,
    )  # fmt: skip
    offline = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "dial tcp", "no such host")
    if done.returncode and any(word in done.stderr for word in offline):
        pytest.skip(f"{what} cannot reach its registry here")
    assert done.returncode == 0, done.stdout + done.stderr
