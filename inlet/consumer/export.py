"""Export a consumer group's records into files that are complete or absent.

What lives here: rolling, and the order write, sync, rename, ack. What must not: the formats, the command line.

A file is written under a temporary name, ``.<name>.tmp``, and locked (flock(2)). Once it is large or old enough it is
synced, renamed, and the directory synced; only then are its entries acked. So a kill at any point leaves complete
files, a temporary one that the next export in the directory removes (its lock is free), and entries that are delivered
again. Entries that were in a file but not acked appear in a later file too; partition, entry_id and line identify each
record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from inlet.consumer.entries import Entry
from inlet.consumer.formats import FORMATS, Format, load_pyarrow, writer
from inlet.consumer.reader import Reader
from inlet.stream.errors import ConsumerError

ROLL_BYTES = 134_217_728
"""Bytes of records, before compression, in one file (128 MiB): about 300,000 records of 450 B."""
ROLL_SECONDS = 60.0
"""Seconds from a file's first record until it is closed: records reach a file with a final name this late."""
ENTRIES_MAX = 100_000
"""Entries in one file: this many wait for their ack."""
LOOK_EVERY_SECONDS = 1.0
"""Seconds between two looks whether the open file is still there: a removed directory is noticed this late, not only
when the file is complete."""
NAME_CHARS_MAX = 100
"""Characters of the stream's name in a file name, which the file system bounds to 255 bytes."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Exporter:
    """Write the entries of one reader into files of ``directory``. Not for use by two threads.

    ``wrote`` is called with each finished file and its number of records, ``grew`` with the records of the open file
    after each entry. The reader's ``claim_idle_ms`` must be well above ``roll_seconds``: entries wait for their ack as
    long as their file is open.
    """

    def __init__(
        self,
        reader: Reader,
        directory: Path,
        name: str,
        *,
        suffix: str = "ndjson.gz",
        roll_bytes: int = ROLL_BYTES,
        roll_seconds: float = ROLL_SECONDS,
        wrote: Callable[[Path, int], object] = lambda path, records: None,
        grew: Callable[[int], object] = lambda records: None,
    ) -> None:
        if suffix not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}")
        if suffix == "parquet":
            load_pyarrow()
        self._reader, self._directory, self._suffix = reader, directory, suffix
        self._wrote, self._grew = wrote, grew
        self._name = _UNSAFE.sub("_", name)[:NAME_CHARS_MAX]
        self._roll_bytes, self._roll_seconds = roll_bytes, roll_seconds
        self._entries: list[Entry] = []
        self._bytes = self._records = 0
        self._opened_at = self._looked_at = 0.0
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None
        self._format: Format | None = None

    def run(self, *, forever: bool) -> None:
        """Export until the reader is stopped or has nothing more, then finish the open file.

        Raises ConsumerError if the directory has gone, else OSError. Nothing of the open file is acked then.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        sweep(self._directory)
        try:
            for entry in self._reader.entries(forever=forever, idle=self.tick):
                self.add(entry)
            self.roll()
        finally:
            self.abandon()

    def add(self, entry: Entry) -> None:
        """Write one entry; it is acked once its file is complete. Raises ConsumerError, OSError."""
        # Before anything that may fail, so that ``abandon`` hands this entry back too. Keep only what the ack needs:
        # neither the records nor their bytes.
        self._entries.append(entry._replace(records=[], lines=(), fields=[]))
        if self._format is None:
            with self._naming_directory():
                self._open(entry)
        assert self._format is not None
        self._format.add(entry)
        self._bytes += entry.size
        self._records += len(entry.records)
        self._grew(self._records)
        if self._bytes >= self._roll_bytes or len(self._entries) >= ENTRIES_MAX:
            self.roll()
        else:
            self.tick()

    def tick(self) -> None:
        """Roll if the open file is old enough. Raises ConsumerError once it, or its directory, is gone."""
        if self._temporary is None:
            return
        now = time.monotonic()
        if now - self._opened_at >= self._roll_seconds:
            self.roll()
        elif now - self._looked_at >= LOOK_EVERY_SECONDS:
            self._looked_at = now
            with self._naming_directory():
                os.stat(self._temporary)

    def roll(self) -> None:
        """Finish the open file: sync, rename, sync the directory, ack. Raises ConsumerError, OSError."""
        if self._format is None or self._file is None or self._temporary is None:
            return
        self._format.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        final = self._directory / self._temporary.name.removeprefix(".").removesuffix(".tmp")
        with self._naming_directory():
            os.rename(self._temporary, final)
            sync_directory(self._directory)
        self._file.close()
        self._format = self._file = self._temporary = None
        entries, self._entries = self._entries, []
        records, self._records, self._bytes = self._records, 0, 0
        for entry in entries:
            self._reader.ack(entry)
        self._reader.flush()
        self._wrote(final, records)

    def abandon(self) -> None:
        """Remove the unfinished file; its entries are handed back when the reader is closed."""
        if self._file is not None and self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._file.close()
        self._format = self._file = self._temporary = None
        for entry in reversed(self._entries):
            self._reader.give_back(entry)
        self._entries = []

    @contextlib.contextmanager
    def _naming_directory(self) -> Iterator[None]:
        """Name the directory, not a file in it, where that is what is missing."""
        try:
            yield
        except FileNotFoundError:
            what = "the open file was removed" if self._directory.is_dir() else "the directory is gone"
            raise ConsumerError(f"{self._directory}: {what}; its open file's entries are handed back") from None

    def _open(self, entry: Entry) -> None:
        name = f"{self._name}-{entry.partition}-{entry.entry_id}-{uuid.uuid4().hex[:8]}.{self._suffix}"
        self._temporary = self._directory / f".{name}.tmp"
        self._file = open(self._temporary, "xb")  # noqa: SIM115  # open as long as the file grows
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._format = writer(self._suffix, self._file)
        self._opened_at = self._looked_at = time.monotonic()


def sweep(directory: Path) -> int:
    """Remove temporary files that no process is writing; return how many."""
    gone = 0
    for path in directory.glob(".*.tmp"):
        if not path.name.endswith(tuple(f".{suffix}.tmp" for suffix in FORMATS)):
            continue
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # Raises if its writer lives.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            gone += 1
    return gone


def sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure (fsync(2) of the directory)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
