"""The two file formats of an export: gzipped NDJSON and Parquet.

What lives here: an entry's records -> bytes of an open file. What must not: files' names, rolling, acks.
"""

from __future__ import annotations

import gzip
from typing import IO, Any, Protocol

import ujson

from inlet.consumer.entries import Entry
from inlet.stream.errors import ConsumerError

FORMATS = ("ndjson.gz", "parquet")
"""Names of the formats; also the suffixes of the files."""
GZIP_LEVEL = 6
"""zlib's default balance of size and speed."""
ROWS_MAX = 20_000
"""Rows of a Parquet row group, held in memory until it is written."""


class Format(Protocol):
    """One open file of one format."""

    def add(self, entry: Entry) -> None:
        """Write the entry's records."""

    def close(self) -> None:
        """Write what is left; the file stays open."""


class Ndjson:
    """Write gzipped NDJSON: one object a line, with the five members and partition, entry_id, line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, filename="", mtime=0)

    def add(self, entry: Entry) -> None:
        """Do as ``Format``."""
        rows = [{**record._asdict(), **address._asdict()} for address, record in entry.items()]
        text = "".join([ujson.dumps(row, ensure_ascii=False, escape_forward_slashes=False) + "\n" for row in rows])
        # Lone surrogates, which only another writer can have put there, become \\udxxx: still JSON.
        self._gzip.write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Do as ``Format``."""
        self._gzip.close()


class Parquet:
    """Write Parquet through pyarrow: the same columns; metadata is a map, timestamp is text, kept as sent."""

    def __init__(self, file: IO[bytes]) -> None:
        pyarrow, parquet = load_pyarrow()
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
        """Do as ``Format``."""
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
        """Do as ``Format``."""
        if self._rows:
            self._write()
        self._writer.close()


def _whole_text(text: str) -> str:
    """Return ``text`` with lone surrogates escaped: Arrow's strings are UTF-8, which has none."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def load_pyarrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet. Raises ConsumerError if they are not installed."""
    try:
        import pyarrow  # type: ignore[import-untyped,import-not-found,unused-ignore]  # optional, and untyped
        import pyarrow.parquet  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise ConsumerError("Parquet needs pyarrow: pip install pyarrow; or use --format ndjson.gz") from None
    return pyarrow, pyarrow.parquet


def writer(name: str, file: IO[bytes]) -> Format:
    """Return the writer of the format ``name``, one of FORMATS."""
    return Parquet(file) if name == "parquet" else Ndjson(file)
