"""``inlet dead``: each letter is replayed once, and none is lost to an error."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from inlet import BadRecord, Reader, Record
from tests.consumer.support import QUICK, Spawn, add, command, dead, spawning
from tests.faults.proxy import AFTER, Proxy
from tests.support import stored_lines, wait_until

LETTERS = 500


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


def bury(url: str, client: Any, stream: str, letters: int) -> None:
    """So many dead letters, of the records ``e-0`` and up; the stream is empty afterwards."""
    for first in range(0, letters, 100):
        add(client, stream, *[f"e-{number}" for number in range(first, min(first + 100, letters))])

    def refuse(record: Record) -> None:
        raise BadRecord("no")

    Reader(url, stream, "g", options=QUICK).run(refuse, forever=False)
    client.xtrim(stream, maxlen=0, approximate=False)
    assert len(dead(client, stream)) == letters


def event_ids(client: Any, stream: str) -> Counter[str]:
    """How often each record is in the stream."""
    return Counter(line[0] for line in stored_lines(client, stream))


def test_two_replays_at_once_append_each_record_once(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    bury(valkey, client, stream, LETTERS)
    words = ("-m", "inlet", "dead", "replay", "--all", "--json")
    processes = [spawn(*words, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(json.loads(output)["replayed"] for output in outputs) == LETTERS
    assert event_ids(client, stream) == {f"e-{number}": 1 for number in range(LETTERS)}
    assert dead(client, stream) == []


@pytest.mark.parametrize("id_max", [False, True])
def test_a_replay_that_the_store_refuses_keeps_the_letter(valkey: str, client: Any, stream: str, id_max: bool) -> None:
    bury(valkey, client, stream, 3)
    client.delete(stream)
    if id_max:
        client.xadd(stream, {"r": "x", "n": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
    else:
        client.set(stream, "not a stream")
    result = command(valkey, stream, "dead", "replay", "--all")
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)
    assert len(dead(client, stream)) == 3
    client.delete(stream)
    assert command(valkey, stream, "dead", "replay", "--all").returncode == 0
    assert event_ids(client, stream) == {"e-0": 1, "e-1": 1, "e-2": 1}


def test_a_replay_whose_reply_is_lost_can_be_repeated(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    bury(valkey, client, stream, LETTERS)
    proxy = Proxy(valkey.removeprefix("unix://"))
    try:
        url = f"redis://127.0.0.1:{proxy.port}"
        process = spawn("-m", "inlet", "dead", "replay", "--all", "--url", url, stderr=subprocess.DEVNULL)
        wait_until(lambda: len(dead(client, stream)) < LETTERS, "some are replayed")
        proxy.mode = AFTER
        assert process.wait(60) == 3, "the replay was cut"
    finally:
        proxy.close()
    assert command(valkey, stream, "dead", "replay", "--all").returncode == 0
    assert event_ids(client, stream) == {f"e-{number}": 1 for number in range(LETTERS)}


def test_a_letter_of_too_many_fields_is_shown_and_not_replayed(valkey: str, client: Any, stream: str) -> None:
    client.xadd(stream, {f"name-{number}": "x" for number in range(2_000)})
    Reader(valkey, stream, "g", options=QUICK).run(print, forever=False)
    # A letter behind it, which it must not keep from being replayed.
    add(client, stream, "a")
    command(valkey, stream, "exec", "--group", "g", "--once", "--attempts-max", "1", "--", "false")
    client.xtrim(stream, maxlen=0, approximate=False)
    result = command(valkey, stream, "dead", "replay", "--all")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "1 replayed, 1 not\n", 1)
    assert "too many fields" in result.stderr
    assert event_ids(client, stream) == {"a": 1}
    [row] = [json.loads(text) for text in command(valkey, stream, "dead", "list", "--json").stdout.splitlines()]
    shown = json.loads(command(valkey, stream, "dead", "show", row["letter_id"], "--json").stdout)
    assert len(shown["fields"]) == 4_000


@pytest.mark.parametrize("fields", [{"reason": "x", "line": -1}, {"reason": "x", "line": 3}])
def test_a_damaged_letter_is_not_replayed_and_stays(
    valkey: str, client: Any, stream: str, fields: dict[str, Any]
) -> None:
    """Regression: a letter without any fields was deleted, and nothing was appended."""
    client.xadd(f"{stream}:dead", fields)
    result = command(valkey, stream, "dead", "replay", "--all")
    assert (result.returncode, result.stdout) == (1, "0 replayed, 1 not\n")
    assert "is damaged" in result.stderr
    assert (client.xlen(f"{stream}:dead"), client.xlen(stream)) == (1, 0)
