"""Export: records of a consumer group into files that are whole or not there.

What lives here: the two formats, rolling, and the order write, sync, rename, ack. What must not: the command line.

A file is written under a temporary name, ``.<name>.tmp``, and locked (flock(2)). Once it is big or old enough it is
synced, renamed, and the directory synced; only then are its entries acked. So a kill at any point leaves whole files,
a temporary one that the next export in the directory removes (its lock is free), and entries that come again. Those
between rename and ack are then in two files: each record carries partition, entry_id and line to tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import ujson

from consumer.entries import Entry
from consumer.errors import ConsumerError
from consumer.reader import Reader

FORMATS = ("ndjson.gz", "parquet")
ROLL_BYTES = 134_217_728
"""Bytes of records, before compression, in one file (128 MiB): some 300,000 records of 450 B."""
ROLL_SECONDS = 60.0
"""Age of a file's first record, when the file is closed: how old what is not in a file yet may get."""
ENTRIES_MAX = 100_000
"""Entries in one file: as many wait for their ack."""
GZIP_LEVEL = 6
ROWS_MAX = 20_000
"""Rows of a Parquet row group, held in memory until it is written."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Format(Protocol):
    """One open file of one format."""

    def add(self, entry: Entry) -> None:
        """Write the entry's records."""

    def close(self) -> None:
        """Write what is left; the descriptor stays open."""


class Ndjson:
    """Gzipped NDJSON: an object a line, with the five members and partition, entry_id, line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, filename="", mtime=0)

    def add(self, entry: Entry) -> None:
        """As ``Format``."""
        rows = [{**record._asdict(), **address._asdict()} for address, record in entry.items()]
        text = "".join([ujson.dumps(row, ensure_ascii=False, escape_forward_slashes=False) + "\n" for row in rows])
        # Lone surrogates, which only another writer can have put there, as \\udxxx: still JSON.
        self._gzip.write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """As ``Format``."""
        self._gzip.close()


class Parquet:
    """Parquet through pyarrow: the same columns, metadata as a map, timestamp as text, since it is kept as sent."""

    def __init__(self, file: IO[bytes]) -> None:
        pyarrow, parquet = _pyarrow()
        text = pyarrow.string()
        self._arrow: Any = pyarrow
        self._schema: Any = pyarrow.schema(
            [
                ("event_id", text), ("timestamp", text), ("service", text), ("message", text),
                ("metadata", pyarrow.map_(text, text)),
                ("partition", pyarrow.int32()), ("entry_id", text), ("line", pyarrow.int32()),
            ]
        )  # fmt: skip
        self._writer: Any = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []

    def add(self, entry: Entry) -> None:
        """As ``Format``."""
        for address, record in entry.items():
            texts = [_whole_text(text) for text in record[:4]]
            pairs = [(_whole_text(key), _whole_text(value)) for key, value in record.metadata.items()]
            self._rows.append((*texts, pairs, *address))
        if len(self._rows) >= ROWS_MAX:
            self._write()

    def _write(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        arrays = [self._arrow.array(column, type=item.type) for column, item in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        """As ``Format``."""
        if self._rows:
            self._write()
        self._writer.close()


def _whole_text(text: str) -> str:
    """Arrow's strings are UTF-8, which has no lone surrogates."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped,import-not-found,unused-ignore]  # optional, and untyped
        import pyarrow.parquet  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise ConsumerError("Parquet needs pyarrow: pip install pyarrow; or use --format ndjson.gz") from None
    return pyarrow, pyarrow.parquet


class Exporter:
    """Writes the entries of one reader into files of ``directory``. Not for use by two threads.

    ``wrote`` is called with each finished file and its number of records, ``grew`` with the records of the open file
    after each entry. The reader's ``claim_idle_ms`` has to be
    well above ``roll_seconds``: entries wait for their ack as long as their file is open.
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
            _pyarrow()
        self._reader, self._directory, self._suffix = reader, directory, suffix
        self._wrote, self._grew = wrote, grew
        self._name = _UNSAFE.sub("_", name)[:100]
        self._roll_bytes, self._roll_seconds = roll_bytes, roll_seconds
        self._entries: list[Entry] = []
        self._bytes = self._records = 0
        self._opened_at = 0.0
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None
        self._format: Format | None = None

    def run(self, *, forever: bool) -> None:
        """Export until the reader is stopped, or has nothing more; what is open is finished. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        sweep(self._directory)
        try:
            for entry in self._reader.entries(forever=forever, idle=self.tick):
                self.add(entry)
            self.roll()
        finally:
            self.abandon()

    def add(self, entry: Entry) -> None:
        """Write one entry; it is acked with its file."""
        if self._format is None:
            self._open(entry)
        assert self._format is not None
        self._format.add(entry)
        # Only what the ack needs is kept: neither the records nor their bytes.
        self._entries.append(entry._replace(records=[], lines=(), fields=[]))
        self._bytes += entry.size
        self._records += len(entry.records)
        self._grew(self._records)
        if self._bytes >= self._roll_bytes or len(self._entries) >= ENTRIES_MAX:
            self.roll()
        else:
            self.tick()

    def tick(self) -> None:
        """Roll if the open file is old enough."""
        if self._format is not None and time.monotonic() - self._opened_at >= self._roll_seconds:
            self.roll()

    def roll(self) -> None:
        """Finish the open file: sync, rename, sync the directory, ack."""
        if self._format is None or self._file is None or self._temporary is None:
            return
        self._format.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        final = self._directory / self._temporary.name.removeprefix(".").removesuffix(".tmp")
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
        """Remove the unfinished file; its entries stay pending, and are handed back when the reader is closed."""
        if self._file is not None and self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._file.close()
        self._format = self._file = self._temporary = None
        for entry in reversed(self._entries):
            self._reader.give_back(entry)
        self._entries = []

    def _open(self, entry: Entry) -> None:
        name = f"{self._name}-{entry.partition}-{entry.entry_id}-{uuid.uuid4().hex[:8]}.{self._suffix}"
        self._temporary = self._directory / f".{name}.tmp"
        self._file = open(self._temporary, "xb")  # noqa: SIM115  # open as long as the file grows
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._format = Parquet(self._file) if self._suffix == "parquet" else Ndjson(self._file)
        self._opened_at = time.monotonic()


def sweep(directory: Path) -> int:
    """Remove temporary files that nobody writes any more; return how many."""
    gone = 0
    for path in directory.glob(".*.tmp"):
        if not path.name.endswith(tuple(f".{suffix}.tmp" for suffix in FORMATS)):
            continue
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # Raises where its writer lives.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            gone += 1
    return gone


def sync_directory(directory: Path) -> None:
    """Make a rename last through a power failure (fsync(2) of the directory)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
