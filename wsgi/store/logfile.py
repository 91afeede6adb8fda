"""The embedded store's log file: bounded by rotation, and read for what happened at a start.

What lives here: the files ``valkey.log``, ``valkey.log.1``, ... What must not: the store's process, Inlet's own log.

valkey-server opens its log for each line and closes it again, so a renamed file is simply followed by a new one.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from wsgi.store import server

LOG_BYTES_MAX = 8 * 2**20
"""Size from which the file is renamed: some 5,000 rewrites of the append-only file, or 4,000 starts."""
OLD_FILES = 3
"""Renamed files that are kept: 32 MiB in all, with the current one."""
START_BYTES_MAX = 2**20
"""How much of the log of one start is read: a start writes 3 KB."""

_PREFIX: Final = re.compile(r"^\d+:\S+ \d+ \w+ \d+ [\d:.]+ [.*#-] ")
"""Process, role, time and level before a message."""
_CUT: Final = re.compile(rb"Truncating the AOF (\S+) at offset (\d+)")


def rotate(path: Path) -> None:
    """Rename the log once it has reached LOG_BYTES_MAX, and drop the oldest."""
    with contextlib.suppress(OSError):  # A log that cannot be renamed is still a log.
        if path.stat().st_size < LOG_BYTES_MAX:
            return
        for number in range(OLD_FILES, 0, -1):
            older = path if number == 1 else _numbered(path, number - 1)
            if older.exists():
                os.replace(older, _numbered(path, number))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


class Cut(NamedTuple):
    """An end of an append-only file that the store dropped, since it was not whole."""

    name: str
    offset: int


class StartLog:
    """What the log says since now, just before a start. ``rotate`` must not come in between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def cuts(self) -> list[Cut]:
        """Return what it has dropped while loading (``aof-load-truncated``)."""
        return [Cut(name.decode(errors="replace"), int(offset)) for name, offset in _CUT.findall(self._read())]

    def last_message(self) -> str:
        """Return the last line without its time: for the same cause, it is the same at each start."""
        return _PREFIX.sub("", server.last_line(self._path))

    def _read(self) -> bytes:
        with contextlib.suppress(OSError), open(self._path, "rb") as log:
            log.seek(self._offset)
            return log.read(START_BYTES_MAX)
        return b""
