"""The embedded store's append-only files: which there are, and whether the store can find its way in them.

What lives here: names, sizes, the manifest. What must not: reading or writing what is in them, the store's process.

    appendonlydir/appendonly.aof.manifest      which of the others hold the data, in which order
    appendonlydir/appendonly.aof.2.base.rdb    everything up to the last rewrite
    appendonlydir/appendonly.aof.2.incr.aof    every command since; a rewrite starts the next one
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from wsgi.store.errors import StoreError
from wsgi.store.sync_loop import FILES_DIRECTORY, MANIFEST

FIRST_BASE: Final = "appendonly.aof.1.base.rdb"
"""Written before the first manifest, and empty then."""
PATTERNS: Final = ("*.base.rdb", "*.base.aof", "*.incr.aof")


def sizes(data_dir: Path) -> dict[str, int]:
    """Return the bytes of each append-only file, by name."""
    directory = data_dir / FILES_DIRECTORY
    return {path.name: path.stat().st_size for pattern in PATTERNS for path in directory.glob(pattern)}


def newest(data_dir: Path) -> Path | None:
    """Return the file that the store appends to, or None before its first start."""
    names = [name for name in sizes(data_dir) if name.endswith(".incr.aof")]
    # Numbered without leading zeros.
    return data_dir / FILES_DIRECTORY / max(names, key=lambda name: (len(name), name)) if names else None


def missing(data_dir: Path) -> list[str]:
    """Return the names of files that the store needs for its next start and that are not there."""
    directory = data_dir / FILES_DIRECTORY
    while True:
        try:
            manifest = (directory / MANIFEST).read_text()
        except OSError:
            return [MANIFEST]
        names = [words[1] for line in manifest.splitlines() if len(words := line.split()) > 1 and words[0] == "file"]
        gone = [name for name in names if not (directory / name).exists()]
        # A rewrite writes the new manifest first, and then removes the files of the old one.
        with contextlib.suppress(OSError):
            if not gone or (directory / MANIFEST).read_text() == manifest:
                return gone


def check(data_dir: Path) -> None:
    """Raise StoreError where there are append-only files but no manifest: the store would start empty.

    A store that was killed in its very first start leaves the same, with nothing in the files.
    """
    directory = data_dir / FILES_DIRECTORY
    if (directory / MANIFEST).exists():
        return
    full = {name: size for name, size in sizes(data_dir).items() if size and name != FIRST_BASE}
    if full:
        name, size = max(full.items(), key=lambda item: item[1])
        raise StoreError(
            f"{directory} holds append-only files ({name}: {size} bytes) but no {MANIFEST}, so the store would start "
            f"empty; restore that file from a backup (docs/operations.md shows its content), or move {directory} away"
        )
