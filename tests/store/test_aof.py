"""wsgi.store.aof and wsgi.store.logfile over real files, and what the store says of them at a start."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from wsgi.store import aof, logfile
from wsgi.store.embedded import EmbeddedStore
from wsgi.store.errors import StoreError
from wsgi.store.sync_loop import FILES_DIRECTORY, MANIFEST


@pytest.fixture
def store() -> Iterator[EmbeddedStore]:
    """A store that has run and holds one entry."""
    top = Path(tempfile.mkdtemp(prefix="inlet-"))
    store = EmbeddedStore(top / "data")
    store.start()
    redis.Redis.from_url(store.url).xadd("logs", {"r": "one"})
    store.stop()
    yield store
    store.stop()
    shutil.rmtree(top)


def test_files_without_a_manifest_were_overwritten_by_an_empty_store(store: EmbeddedStore) -> None:
    """Regression: valkey-server starts empty there, and truncates the first file."""
    before = aof.sizes(store.data_dir)
    manifest = store.data_dir / FILES_DIRECTORY / MANIFEST
    content = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(StoreError, match="would start empty") as caught:
        store.start()
    assert "\n" not in caught.value.detail
    assert "appendonly.aof.1.incr.aof" in caught.value.detail
    assert aof.sizes(store.data_dir) == before
    manifest.write_bytes(content)
    store.start()
    assert redis.Redis.from_url(store.url).xlen("logs") == 1


def test_a_lone_base_file_of_a_later_rewrite_is_not_started_over_either(store: EmbeddedStore) -> None:
    directory = store.data_dir / FILES_DIRECTORY
    for path in directory.iterdir():
        path.unlink()
    (directory / "appendonly.aof.2.base.rdb").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"appendonly\.aof\.2\.base\.rdb: 1 bytes"):
        store.start()


def test_what_a_kill_in_the_very_first_start_leaves_is_no_obstacle(store: EmbeddedStore) -> None:
    directory = store.data_dir / FILES_DIRECTORY
    (directory / MANIFEST).unlink()
    (directory / "appendonly.aof.1.incr.aof").write_bytes(b"")
    store.start()
    assert redis.Redis.from_url(store.url).xlen("logs") == 0


def test_the_newest_file_is_that_with_the_highest_number(tmp_path: Path) -> None:
    assert aof.newest(tmp_path) is None
    directory = tmp_path / FILES_DIRECTORY
    directory.mkdir()
    for number in (9, 10, 2):
        (directory / f"appendonly.aof.{number}.incr.aof").touch()
    (directory / "appendonly.aof.11.base.rdb").touch()
    newest = aof.newest(tmp_path)
    assert newest is not None
    assert newest.name == "appendonly.aof.10.incr.aof"


def test_a_dropped_tail_was_not_reported(store: EmbeddedStore, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: it stood in valkey.log alone, without its size."""
    with open(store.data_dir / FILES_DIRECTORY / "appendonly.aof.1.incr.aof", "ab") as file:
        file.write(b"*5\r\n$4\r\nXADD\r\n$4\r\nlo")
    store.start()
    assert [line.levelno for line in caplog.records if " 20 bytes were dropped" in line.getMessage()] == [logging.ERROR]
    store.stop()
    caplog.clear()
    store.start()
    assert "dropped" not in caplog.text


def test_a_log_is_renamed_at_its_bound_and_not_one_byte_before(tmp_path: Path) -> None:
    path = tmp_path / "valkey.log"
    path.touch()
    for size, renamed in ((logfile.LOG_BYTES_MAX - 1, False), (logfile.LOG_BYTES_MAX, True)):
        with open(path, "ab") as file:
            file.truncate(size)
        logfile.rotate(path)
        assert path.exists() is not renamed
    assert [found.name for found in tmp_path.iterdir()] == ["valkey.log.1"]


def test_only_so_many_old_logs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "valkey.log"
    for number in range(logfile.OLD_FILES + 2):
        with open(path, "wb") as file:
            file.write(b"%d" % number)
            file.truncate(logfile.LOG_BYTES_MAX)
        logfile.rotate(path)
    kept = {found.name: found.read_bytes()[:1] for found in tmp_path.iterdir()}
    assert kept == {"valkey.log.1": b"4", "valkey.log.2": b"3", "valkey.log.3": b"2"}


def test_a_start_rotates_a_full_log(store: EmbeddedStore) -> None:
    with open(store.log_path, "ab") as log:
        log.truncate(logfile.LOG_BYTES_MAX)
    store.start()
    assert store.log_path.stat().st_size < logfile.LOG_BYTES_MAX
    assert store.log_path.with_name("valkey.log.1").exists()
