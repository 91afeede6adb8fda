"""Disk space for the embedded store: set aside before it is written, so that the store never meets a full disk.

What lives here: how much space, and fallocate(2). What must not: when to look (``wsgi.sink.watcher``), the store.

The store executes commands first and writes its append-only file afterwards. When that write finds the disk full, the
replies go out all the same (unless ``appendfsync always``), and the records wait in the store's memory: whoever kills
it then loses them. So each worker allocates blocks beyond the end of the file, once a second. Nobody else can take
them, and the file's size and content do not change (FALLOC_FL_KEEP_SIZE). New records are refused while less than that
is free beside it, which the next file needs when a rewrite starts it; the reserve holds what was accepted until then.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wsgi.store import aof
from wsgi.store.rewrite import Rewriter

RESERVE_BYTES = 256 * 2**20
"""Space ahead of the append-only file, and as much that must be free beside it: for the two seconds, at worst, from one
look to the end of accepting after the next, at 128 MB/s, which is what two workers store of bulks."""
RESERVE_SHARE = 8
"""A small disk gives at most an eighth of itself."""
REFILL_SHARE = 8
"""The reserve is refilled once an eighth of it is used: not at each look, and long before it is short."""
BLOCK_BYTES: Final = 512
"""Unit of ``st_blocks`` (stat(2))."""
KEEP_SIZE: Final = 1
"""FALLOC_FL_KEEP_SIZE (fallocate(2)). os.posix_fallocate would extend the file with zeros."""
FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


class Reserve:
    """The space ahead of the newest append-only file in ``data_dir``. Any number of processes may refill it.

    ``ahead`` False: only look at the free space. With ``appendfsync always`` nothing is answered before it is written,
    and each fdatasync into space set aside takes longer: 190 against 130 us on ext4.
    """

    def __init__(self, data_dir: Path, *, ahead: bool = True) -> None:
        self._data_dir = data_dir
        self._rewriter = Rewriter(data_dir)
        self._allocate = _fallocate() if ahead else None

    def refill(self) -> str | None:
        """Set space aside again. Return why that is impossible, in words for the operator, or None.

        If it is, the store rewrites its files where that helps. Where the file system cannot set space aside, the free
        space alone decides. It may block as long as the disk does. fallocate(2), statvfs(3).
        """
        try:
            path = aof.newest(self._data_dir)
            if path is None:
                return None
            file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return None  # Just replaced by a rewrite; anything else the store reports itself.
        try:
            return self._refill(file)
        finally:
            os.close(file)

    def _refill(self, file: int) -> str | None:
        disk, status = os.fstatvfs(file), os.fstat(file)
        wanted = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        short = max(0, wanted - (status.st_blocks * BLOCK_BYTES - status.st_size))
        error = 0
        if self._allocate is not None and short > wanted // REFILL_SHARE:
            # Never the last blocks of the disk: they would not be enough, and others may need them.
            enough = short <= disk.f_bavail * disk.f_frsize
            error = self._allocate(file, status.st_size, wanted) if enough else errno.ENOSPC
        free = os.fstatvfs(file).f_bavail * disk.f_frsize
        if error not in FULL and free >= wanted:
            self._rewriter.space_suffices()
            return None
        needed = wanted + short if error in FULL else wanted
        # At least an eighth of the reserve, or the next rewrite would be due at once.
        self._rewriter.gain(max(needed - free, wanted // REFILL_SHARE), free)
        return (
            f"the disk of {self._data_dir} is nearly full: {free} bytes are free, and {needed} are needed to accept "
            f"records; free some space"
        )


def _fallocate() -> Callable[[int, int, int], int]:
    """Return a function of descriptor, offset and length that allocates blocks, and returns 0 or an errno."""
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is None:  # macOS
        return lambda file, offset, length: errno.ENOSYS
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return lambda file, offset, length: ctypes.get_errno() if function(file, KEEP_SIZE, offset, length) else 0
