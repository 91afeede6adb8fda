"""A rewrite of the embedded store's append-only files, to get disk space back from what was trimmed.

What lives here: whether a rewrite helps, and asking for it. What must not: when the disk is full (``disk``), the files.

The store itself rewrites its files once they are 64 MiB and twice as large as after its last rewrite or start. Records
that are refused because of the disk make no file grow, so on a small disk that moment would never come.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from inlet.stream.place import SOCKET_NAME
from wsgi.store import server

log = logging.getLogger("inlet")

REFUSED_SECONDS = 3.0
"""How long the disk must have been too full before: each worker has looked, and accepts nothing for the new file, ahead
of which no space is set aside yet."""
PAUSE_SECONDS = 60.0
"""Between two rewrites that one worker asks for: a rewrite that fails has used the disk for nothing."""
ASK_SECONDS_MAX = 1.0
"""Deadline of a question to the store: far above what a healthy one takes, and the caller has other work."""


class Rewriter:
    """Of the store on ``data_dir``. Any number of processes may have one: the store makes one rewrite at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._socket_path = data_dir / SOCKET_NAME
        self._since: float | None = None
        self._next = 0.0

    def space_suffices(self) -> None:
        """Note that the disk is not too full."""
        self._since = None

    def gain(self, short: int, free: int) -> None:
        """Have the files rewritten if that frees ``short`` bytes or more, and their data fits in ``free`` bytes.

        Call it at each look at a disk that is too full. Redis commands INFO and BGREWRITEAOF.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now < max(self._next, self._since + REFUSED_SECONDS):
            return
        found = server.info(self._socket_path, ASK_SECONDS_MAX)
        if found.get("aof_rewrite_in_progress") != "0":  # or it does not answer
            return
        # What a rewrite writes is more compact than what is in memory.
        size, data = int(found["aof_current_size"]), int(found["used_memory_dataset"])
        if size - data < short or data > free:
            return
        self._next = now + PAUSE_SECONDS
        log.warning(
            "store: its disk is nearly full, and its append-only files have %d bytes for %d of data: rewriting them",
            size, data,
        )  # fmt: skip
        server.command(self._socket_path, b"BGREWRITEAOF")
