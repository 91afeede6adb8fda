"""``inlet groups`` and what ``inlet lag`` says of groups, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from inlet.stream.client import StoreClient
from inlet.stream.keeper import Keeper
from inlet.stream.retention import Retention
from tests.consumer.support import command, environment, fill
from tests.stream.support import read_all
from tests.support import ROOT


def keep(url: str, stream: str) -> int:
    """One look of a keeper; the entries that it trimmed."""
    client = StoreClient(url)
    keeper = Keeper(client, [stream], Retention(entries=10))
    kept = keeper.tick()
    assert kept is not None
    keeper.release()
    client.close()
    return kept[0].trimmed


def test_a_group_is_listed_from_its_creation_and_as_missing_once_the_store_has_lost_it(
    valkey: str, client: Any, stream: str
) -> None:
    def listed() -> list[tuple[str, bool, bool]]:
        lines = command(valkey, stream, "groups", "list", "--json").stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        return [(row["group"], row["missing"], row["first_seen_ms"] is not None) for row in rows]

    assert command(valkey, stream, "groups", "list").stdout == "no group has read this stream yet\n"
    fill(client, stream, 100, 1)
    read_all(valkey, stream, "mail")
    assert listed() == [("mail", False, False)]
    assert keep(valkey, stream) == 90
    assert listed() == [("mail", False, True)]
    client.xgroup_destroy(stream, "mail")
    assert listed() == [("mail", True, True)]
    assert "missing" in command(valkey, stream, "groups", "list").stdout


def test_a_group_is_forgotten_only_by_name_and_then_holds_nothing_back(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 100, 1)
    read_all(valkey, stream, "mail")
    client.xgroup_create(stream, "reports", id="0")
    assert keep(valkey, stream) == 0
    nobody = command(valkey, stream, "groups", "forget", "report")
    assert (nobody.returncode, "'report'" in nobody.stderr) == (1, True)
    assert keep(valkey, stream) == 0
    done = command(valkey, stream, "groups", "forget", "reports")
    assert (done.returncode, done.stdout) == (0, f"{stream}: destroyed and forgotten\n")
    assert keep(valkey, stream) == 90
    client.xgroup_destroy(stream, "mail")
    assert keep(valkey, stream) == 0
    done = command(valkey, stream, "groups", "forget", "mail")
    assert (done.returncode, done.stdout) == (0, f"{stream}: forgotten; it was missing from the store\n")


def test_lag_names_the_group_that_holds_the_stream_back_and_what_to_do(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 100, 1)
    read_all(valkey, stream, "mail")
    keep(valkey, stream)

    def lag(*words: str) -> str:
        return command(valkey, stream, "lag", *words).stdout

    assert stream not in lag(), "nothing is behind"
    client.xgroup_create(stream, "reports", id="0")
    assert lag().endswith(f"{stream}: group 'reports' has acked the least\n")
    client.xgroup_destroy(stream, "mail")
    text = lag()
    assert f"{stream}: group 'mail' is missing from the store" in text
    assert "inlet groups forget mail" in text
    rows = {row["group"]: row for row in map(json.loads, lag("--json").splitlines())}
    assert {name: (row["missing"], row["holds_back"]) for name, row in rows.items()} == {
        "mail": (True, True), "reports": (False, False),
    }  # fmt: skip


def test_lag_of_a_group_that_does_not_exist_says_so(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1, 1)
    read_all(valkey, stream, "mail")
    assert "group 'nosuch' has not read this stream" in command(valkey, stream, "lag", "--group", "nosuch").stdout


@pytest.mark.parametrize(
    "name", [b"\xff\xfe1'\\", b"two words", b"it's $HOME", b"line\nbreak", "größe".encode(), b"n" * 60, b"tab\t'"]
)
def test_a_group_of_any_name_is_forgotten_by_what_the_list_prints(
    valkey: str, client: Any, stream: str, name: bytes
) -> None:
    fill(client, stream, 1)
    for group in (name, b"other"):
        client.xgroup_create(stream, group, id="0")
    rows = command(valkey, stream, "groups", "list").stdout.splitlines()[1:]
    [word] = [words for row in rows if (words := row.split(maxsplit=3)[3]) != "other"]
    script = f"{sys.executable} -m inlet groups forget {word}"
    subprocess.run(["bash", "-c", script], env=environment(valkey, stream), cwd=ROOT, timeout=60, check=True)
    assert [row["name"] for row in client.xinfo_groups(stream)] == [b"other"]


def test_a_group_that_is_not_utf_8_is_forgotten_by_its_member_of_json(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1)
    client.xgroup_create(stream, b"\xffg", id="0")
    [row] = [json.loads(line) for line in command(valkey, stream, "groups", "list", "--json").stdout.splitlines()]
    assert os.fsencode(row["group"]) == b"\xffg"
    done = command(valkey, stream, "groups", "forget", row["group"], "--json")
    assert (done.returncode, json.loads(done.stdout)["group"]) == (0, row["group"]), done.stderr
    assert client.xinfo_groups(stream) == []
