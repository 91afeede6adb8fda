"""``inlet trim`` as a process: output, exit codes, the lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from typing import Any

import pytest

from inlet.stream.trimming import LEASE_MS
from tests.consumer.support import add, command, fill, spawning
from tests.stream.support import read_all
from tests.support import wait_until


def test_the_command_trims_what_is_acked_and_refuses_the_rest_with_exit_code_4(
    valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 1_000, 1)
    dry = command(valkey, stream, "trim", "--retention", "entries=100", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {
        "key": stream, "trimmed": 0, "dropped": 0, "full": True, "held": {"kind": "nobody", "group": ""},
        "estimated": False,
    }  # fmt: skip
    refused = command(valkey, stream, "trim", "--retention", "entries=100")
    assert (refused.returncode, client.xlen(stream)) == (4, 1_000)
    assert "full" in refused.stdout
    assert "no group has read the stream" in refused.stdout
    read_all(valkey, stream)
    dry = command(valkey, stream, "trim", "--retention", "entries=100", "--dry-run")
    assert (dry.stdout, client.xlen(stream)) == (f"{stream}: would trim 900 entries\n", 1_000)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--json")
    assert (done.returncode, json.loads(done.stdout)["trimmed"], client.xlen(stream)) == (0, 900, 100)
    assert client.exists(f"{stream}:keeper") == 0


def test_the_command_drops_unread_entries_only_with_unread_drop(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000, 1)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--unread", "drop")
    assert (done.returncode, client.xlen(stream), "900 UNREAD entries dropped" in done.stdout) == (0, 100, True)


def test_a_dry_run_says_exactly_what_would_go_and_who_holds_the_rest(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 100, 1)
    ids = [entry_id for entry_id, _ in client.xrange(stream)]
    client.xgroup_create(stream, "mail", id=ids[29])

    def dry(*words: str) -> str:
        return command(valkey, stream, "trim", "--dry-run", *words).stdout

    assert dry("--retention", "age=1d") == f"{stream}: would trim 0 entries\n"
    assert dry("--retention", "entries=80") == f"{stream}: would trim 20 entries\n"
    text = dry("--retention", "entries=10")
    assert text.startswith(f"{stream}: would trim 30 entries; would stay full of entries")
    assert "group 'mail' has acked the least" in text
    dropping = dry("--retention", "entries=10", "--unread", "drop")
    assert dropping == f"{stream}: would trim 30 entries and drop 60 UNREAD entries\n"
    assert "would trim about 30 entries" in dry("--retention", "memory=1")
    client.hset(f"{stream}:groups", "lost", 1)
    assert "would trim 0 entries; group 'lost' is missing" in dry("--retention", "entries=100,age=1s")
    assert client.xlen(stream) == 100


def test_the_command_leaves_the_stream_to_the_keeper_that_has_the_lease(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.1):
            client.set(f"{stream}:keeper", "another", px=LEASE_MS)

    thread = threading.Thread(target=hold)
    thread.start()
    wait_until(lambda: client.exists(f"{stream}:keeper"), "the lease")
    result = command(valkey, stream, "trim", "--retention", "entries=100")
    over.set()
    thread.join()
    assert (result.returncode, "another keeper" in result.stderr) == (4, True)


@pytest.mark.parametrize(("every", "accepted"), [("4", True), ("4.1", False), ("0.1", True), ("0.09", False)])
def test_a_keeper_looks_at_least_twice_in_a_lease(valkey: str, stream: str, every: str, accepted: bool) -> None:
    words = ("trim", "--retention", "entries=100", "--every", every)
    assert command(valkey, stream, *words).returncode == (0 if accepted else 2)


def test_trim_watch_clears_its_progress_before_it_prints(valkey: str, client: Any, stream: str) -> None:
    """Regression: in a terminal, the result was printed behind the progress."""
    fill(client, stream, 1_000, 1)
    read_all(valkey, stream)
    reader, writer = os.openpty()
    with spawning(valkey, stream) as spawn:
        words = ("trim", "--retention", "entries=100", "--watch", "--every", "0.1")
        process = spawn("-m", "inlet", *words, stdout=writer, stderr=writer)
        seen = b""
        while b"900 entries trimmed" not in seen:
            seen += os.read(reader, 4_096)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    os.close(reader)
    os.close(writer)
    assert b"\x1b[Ktrimmed: " in seen
    assert b"\r\x1b[K" + f"{stream}: 900".encode() in seen


def test_trim_watch_keeps_the_stream_within_its_bounds_until_term(valkey: str, client: Any, stream: str) -> None:
    with spawning(valkey, stream) as spawn:
        words = ("trim", "--retention", "entries=100", "--watch", "--every", "0.1")
        process = spawn("-m", "inlet", *words, stdout=subprocess.PIPE)
        fill(client, stream, 1_000, 1)
        read_all(valkey, stream)
        wait_until(lambda: client.xlen(stream) == 100, "the trim")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert (process.returncode, client.exists(f"{stream}:keeper")) == (0, 0)
