"""inlet.consumer.export over the real store: whole files or none, acked after the rename, kill -9 at any point."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlet.consumer.export import Exporter, sweep
from inlet.consumer.reader import Reader
from tests.consumer.support import QUICK, add, command, environment, fill, pending, spawning
from tests.support import ROOT, wait_until


def rows(directory: Path) -> list[dict[str, Any]]:
    """All rows of all finished files; every one of them must be whole."""
    found: list[dict[str, Any]] = []
    for path in sorted(directory.glob("*.ndjson.gz")):
        found += [json.loads(text) for text in gzip.decompress(path.read_bytes()).splitlines()]
    return found


def enough(directory: Path, files: int) -> Callable[[], bool]:
    return lambda: len(list(directory.glob("*.gz"))) >= files


def temporary(directory: Path) -> list[Path]:
    return list(directory.glob(".*.tmp"))


def test_everything_is_exported_once_and_acked(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    wanted = fill(client, stream, 5_000)
    client.xadd(stream, {"junk": "x"})
    result = command(valkey, stream, "export", "--to", str(tmp_path / "out"), "--once", "--json")
    assert result.returncode == 1, "another writer's entry became a dead letter"
    [said] = [json.loads(text) for text in result.stdout.splitlines()]
    assert (said["records"], Path(said["file"]).parent) == (5_000, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["event_id"] for row in found] == wanted
    assert list(found[0]) == [
        "event_id", "timestamp", "service", "message", "metadata", "partition", "entry_id", "line",
    ]  # fmt: skip
    assert (pending(client, stream, "export"), temporary(tmp_path / "out")) == (0, [])


def test_parquet_has_the_same_rows(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    wanted = fill(client, stream, 2_500)
    result = command(valkey, stream, "export", "--to", str(tmp_path), "--format", "parquet", "--once")
    assert result.returncode == 0, result.stderr
    [path] = tmp_path.glob("*.parquet")
    table = parquet.read_table(path).to_pylist()
    assert [row["event_id"] for row in table] == wanted
    assert (table[101]["line"], table[0]["metadata"], table[0]["timestamp"]) == (
        1, [("region", "eu-1")], "2026-01-31T23:59:59Z",
    )  # fmt: skip
    assert pending(client, stream, "export") == 0


def test_files_are_rolled_by_size(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    fill(client, stream, 5_000)
    result = command(valkey, stream, "export", "--to", str(tmp_path), "--roll-mib", "0.1", "--once")
    assert result.returncode == 0
    assert len(list(tmp_path.glob("*.ndjson.gz"))) >= 4
    assert len(rows(tmp_path)) == 5_000


def test_files_are_rolled_by_age_also_while_nothing_arrives(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    with spawning(valkey, stream) as spawn:
        words = ("export", "--to", str(tmp_path), "--roll-seconds", "0.5")
        process = spawn("-m", "inlet", *words, stdout=subprocess.PIPE)
        add(client, stream, "a")
        wait_until(lambda: len(rows(tmp_path)) == 1, "the first file")
        wait_until(lambda: pending(client, stream, "export") == 0, "its ack")
        add(client, stream, "b")
        wait_until(lambda: len(rows(tmp_path)) == 2, "the second file")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_stop_finishes_the_open_file(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    add(client, stream, "a")
    with spawning(valkey, stream) as spawn:
        process = spawn("-m", "inlet", "export", "--to", str(tmp_path), stdout=subprocess.PIPE)
        wait_until(lambda: temporary(tmp_path), "the open file")
        assert (rows(tmp_path), pending(client, stream, "export")) == ([], 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert ([row["event_id"] for row in rows(tmp_path)], pending(client, stream, "export")) == (["a"], 0)


def test_kill_9_leaves_no_half_file_and_loses_nothing(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    wanted = fill(client, stream, 60_000)
    words = ("-m", "inlet", "export", "--to", str(tmp_path), "--consumer", "c", "--roll-mib", "0.5")
    with spawning(valkey, stream) as spawn:
        for files in (1, 4, 7):
            process = spawn(*words, stdout=subprocess.DEVNULL)
            wait_until(enough(tmp_path, files), "some files")
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            assert rows(tmp_path), "whole files only: half a one would not decompress"
    result = command(valkey, stream, *words[2:], "--once")
    assert result.returncode == 0, result.stderr
    found = Counter((row["entry_id"], row["line"], row["event_id"]) for row in rows(tmp_path))
    assert sorted(event_id for _, _, event_id in found) == sorted(wanted), "each, once its address is looked at"
    assert (pending(client, stream, "export"), temporary(tmp_path)) == (0, [])


def test_the_temporary_file_of_a_living_exporter_is_left_alone(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    add(client, stream, "a")
    (tmp_path / ".of-the-dead.ndjson.gz.tmp").write_bytes(b"half")
    (tmp_path / ".of-another-program.tmp").write_bytes(b"")
    with Reader(valkey, stream, "export", options=QUICK) as reader:
        exporter = Exporter(reader, tmp_path, stream)
        exporter.add(next(iter(reader)))
        assert sweep(tmp_path) == 1
        assert len(temporary(tmp_path)) == 2
        exporter.roll()
    assert [row["event_id"] for row in rows(tmp_path)] == ["a"]


def test_what_cannot_be_written_stays_pending_and_is_exit_code_1(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    add(client, stream, "a")
    (tmp_path / "file").write_text("not a directory")
    result = command(valkey, stream, "export", "--to", str(tmp_path / "file"), "--once")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    again = command(valkey, stream, "export", "--to", str(tmp_path / "out"), "--once")
    assert (again.returncode, len(rows(tmp_path / "out"))) == (0, 1)


GONE = "the directory is gone"


@pytest.mark.parametrize("name", [(), ("--consumer", "c")])
@pytest.mark.parametrize("began", [True, False])
def test_entries_come_back_after_their_directory_vanished(
    valkey: str, client: Any, stream: str, tmp_path: Path, began: bool, name: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    with spawning(valkey, stream) as spawn:
        words = ("export", "--to", str(out), "--roll-seconds", "2", *name)
        process = spawn("-m", "inlet", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if began:
            wanted = fill(client, stream, 1_000)
            wait_until(lambda: temporary(out) and pending(client, stream, "export") == 10, "the open file")
            shutil.rmtree(out)
        else:
            wait_until(lambda: client.exists(stream) and client.xinfo_groups(stream), "the group")
            shutil.rmtree(out)
            wanted = fill(client, stream, 1_000)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, len(errors.splitlines())) == (1, 1), errors
    assert f"{out}: {GONE}" in errors.decode()
    # This one waits far longer for entries of a living exporter. These were handed back.
    again = ("--roll-seconds", "3600", *name)
    result = command(valkey, stream, "export", "--to", str(out), *again, "--once")
    assert result.returncode == 0, result.stderr
    assert (Counter(row["event_id"] for row in rows(out)), pending(client, stream, "export")) == (Counter(wanted), 0)


@pytest.mark.parametrize("name", [(), ("--consumer", "c")])
def test_entries_of_a_killed_exporter_come_back_whatever_the_next_ones_roll_seconds(
    valkey: str, client: Any, stream: str, tmp_path: Path, name: tuple[str, ...]
) -> None:
    wanted = fill(client, stream, 1_000)
    out = tmp_path / "out"
    words = ("export", "--to", str(out), *name)
    with spawning(valkey, stream) as spawn:
        process = spawn("-m", "inlet", *words, "--roll-seconds", "600")
        wait_until(lambda: temporary(out) and pending(client, stream, "export") == 10, "the open file")
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    shutil.rmtree(out)

    def is_done() -> bool:
        # Those of a lasting name come at once, others after a wait.
        result = command(valkey, stream, *words, "--roll-seconds", "0.1", "--claim-idle", "0.3", "--once")
        assert result.returncode == 0, result.stderr
        return bool(name) or pending(client, stream, "export") == 0

    wait_until(is_done, "the export of all")
    assert (Counter(row["event_id"] for row in rows(out)), pending(client, stream, "export")) == (Counter(wanted), 0)


@pytest.mark.parametrize("what", ["the directory is gone", "the open file was removed"])
def test_a_directory_or_file_that_vanished_is_noticed_long_before_the_roll(
    valkey: str, client: Any, stream: str, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"
    add(client, stream, "a")
    with spawning(valkey, stream) as spawn:
        words = ("export", "--to", str(out), "--roll-seconds", "86400")
        process = spawn("-m", "inlet", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        [open_file] = wait_until(lambda: temporary(out), "the open file")
        if what == GONE:
            shutil.rmtree(out)
        else:
            open_file.unlink()
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, f"{out}: {what}" in errors.decode()) == (1, True), errors
    result = command(valkey, stream, *words, "--once")
    assert (result.returncode, [row["event_id"] for row in rows(out)]) == (0, ["a"]), result.stderr


def test_a_stop_while_the_directory_is_gone_loses_nothing(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    wanted = fill(client, stream, 1_000)
    out = tmp_path / "out"
    with spawning(valkey, stream) as spawn:
        process = spawn("-m", "inlet", "export", "--to", str(out), stderr=subprocess.PIPE)
        wait_until(lambda: temporary(out) and pending(client, stream, "export") == 10, "the open file")
        shutil.rmtree(out)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, GONE in errors.decode(), pending(client, stream, "export")) == (1, True, 10)
    assert command(valkey, stream, "export", "--to", str(out), "--once").returncode == 0
    assert [row["event_id"] for row in rows(out)] == wanted


def test_a_stop_ends_an_export_whose_list_of_files_nobody_reads(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(ours, b"x" * select.PIPE_BUF)
    os.set_blocking(ours, True)
    with spawning(valkey, stream) as spawn:
        process = spawn("-m", "inlet", "export", "--to", str(tmp_path), "--roll-seconds", "0.1", stdout=ours)
        add(client, stream, "a")
        wait_until(enough(tmp_path, 1), "the file")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    os.close(ours)
    os.close(theirs)
    assert pending(client, stream, "export") == 0


def test_a_lone_surrogate_of_another_writer_does_not_stop_the_export(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    client.xadd(stream, {"r": b'["a","t","s","\\ud800",{}]', "n": 1})
    for suffix in ("ndjson.gz", "parquet"):
        words = ("export", "--to", str(tmp_path), "--format", suffix, "--group", suffix, "--once")
        assert command(valkey, stream, *words).returncode == 0
    assert rows(tmp_path)[0]["message"] == "\ud800"


def test_an_unknown_format_is_refused(valkey: str, stream: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format"):
        Exporter(Reader(valkey, stream, "g"), tmp_path, "x", suffix="csv")


@pytest.mark.parametrize("words", [["export", "--once", "--to", "out"], ["trim", "--retention", "entries=1"]])
def test_long_work_shows_its_progress_in_a_terminal(
    valkey: str, client: Any, stream: str, tmp_path: Path, words: list[str]
) -> None:
    fill(client, stream, 2_000)
    if words[0] == "trim":
        client.xgroup_create(stream, "g", id="0")
        read = client.execute_command("XREADGROUP", "GROUP", "g", "c", "COUNT", 10_000, "STREAMS", stream, ">")
        found = next(iter(read.values()))[0] if isinstance(read, dict) else read[0][1]
        client.xack(stream, "g", *[entry[0] for entry in found])
    ours, theirs = pty.openpty()
    words = [str(tmp_path / word) if word == "out" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "inlet", *words], cwd=ROOT, env=environment(valkey, stream), stderr=theirs,
        stdout=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 65_536)
    os.close(ours)
    assert done.returncode == 0
    assert (b"exported: " if words[0] == "export" else b"trimmed: ") in shown
