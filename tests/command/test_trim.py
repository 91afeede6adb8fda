"""``inlet trim`` as a process: output, exit codes, the lease."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

from tests.consumer.support import add, command, fill, read_all, spawning
from tests.support import wait_until


def test_the_command_trims_what_is_acked_and_refuses_the_rest_with_exit_code_4(
    valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 1_000, 1)
    dry = command(valkey, stream, "trim", "--retention", "entries=100", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"key": stream, "trims": [], "full": True}
    refused = command(valkey, stream, "trim", "--retention", "entries=100")
    assert (refused.returncode, client.xlen(stream)) == (4, 1_000)
    assert "full" in refused.stdout
    read_all(valkey, stream)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--json")
    assert (done.returncode, json.loads(done.stdout)["trimmed"], client.xlen(stream)) == (0, 900, 100)
    assert client.exists(f"{stream}:keeper") == 0


def test_the_command_drops_unread_entries_only_with_unread_drop(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000, 1)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--unread", "drop")
    assert (done.returncode, client.xlen(stream), "900 UNREAD entries dropped" in done.stdout) == (0, 100, True)


def test_the_command_leaves_the_stream_to_the_keeper_that_has_the_lease(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    client.set(f"{stream}:keeper", "another", px=60_000)
    result = command(valkey, stream, "trim", "--retention", "entries=100")
    assert (result.returncode, "another keeper" in result.stderr) == (4, True)


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
