"""A small disk of a test's own under the embedded store, and the real server on it.

What lives here: the disk, filling it, and Inlet on it. What must not: what the tests expect.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.oracle import connect
from tests.support import ROOT, Server, kill_all

MKFS = "/usr/sbin/mkfs.ext4"
KINDS = {
    "ext4": [],
    # The older kind, on which no space can be set aside ahead of a file.
    "ext3": ["-O", "^extents,^64bit,^has_journal"],
}


class Disk:
    """A file system of its own at ``path``, which only the processes started through it see."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path, self._pid = path, pid
        self.seen_as = Path(f"/proc/{pid}/root{path}")
        """Its root, as this process sees it."""
        self.data_dir = path / "data"
        self._ballast = self.seen_as / "ballast"

    def fill(self) -> None:
        """Take all the space that is left."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65_536, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def serve(self, *args: str, **env: str) -> Server:
        """Inlet with an embedded store on the disk."""
        return Server("app:application", args, {"INLET_DATA_DIR": str(self.data_dir), **env}, self.python())

    def python(self) -> tuple[str, ...]:
        """The command line of an interpreter that sees the disk."""
        return ("nsenter", f"--target={self._pid}", "--mount", f"--wd={ROOT}", "--", sys.executable)

    def client(self) -> Any:
        """Of the embedded store."""
        return connect(str(self.seen_as / "data" / "valkey.sock"))

    def store_pid(self) -> int:
        """The embedded store's."""
        return int((self.seen_as / "data" / "valkey.lock").read_text())


@contextlib.contextmanager
def small_disk(size: int, kind: str = "tmpfs") -> Iterator[Disk]:
    """A file system of ``size`` bytes. What still runs on it in the end is killed."""
    top = Path(tempfile.mkdtemp(prefix="inlet-"))
    path = top / "d"
    path.mkdir()
    words = f"mount -t tmpfs -o size={size} inlet-faults {path}"
    if kind != "tmpfs":
        image = top / "image"
        image.touch()
        os.truncate(image, size)
        subprocess.run([MKFS, "-q", "-F", *KINDS[kind], image], check=True)
        words = f"mount -o loop {image} {path}"
    try:
        with mounted(words) as pid:
            disk = Disk(path, pid)
            try:
                yield disk
            finally:
                kill_all(path)
    finally:
        shutil.rmtree(top)


@contextlib.contextmanager
def mounted(words: str) -> Iterator[int]:
    """A process that holds a mount namespace in which the shell command ``words`` has mounted something."""
    script = f"{words} && echo mounted && exec sleep infinity"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != b"mounted\n":
                pytest.skip(f"not possible here: {words}")
            yield holder.pid
        finally:
            holder.kill()
