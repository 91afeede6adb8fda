"""``inlet rejected``: records that the server refused are listed, shown and dropped; hostile bytes stay bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from inlet.command.rejected import PAGE
from inlet.stream.rejected import TEXT_BYTES_MAX, Rejected, fields, rejected
from tests.consumer.support import command, connect, environment
from tests.consumer.test_acl import RULE
from tests.support import ROOT
from wsgi.store.embedded import EmbeddedStore

HOSTILE = b'{"event_id":"\x1b[2J","x":"\xff\0\r\n\xc2\x9b31m\xe2\x80\xae"'


def put(client: Any, stream: str, *rows: Rejected, receiver: str = "native") -> list[str]:
    """Keep these; their IDs."""
    return [
        client.execute_command("XADD", f"{stream}:rejected", "*", *fields(row, receiver)).decode() for row in rows
    ]


def numbered(rows: int) -> list[Rejected]:
    return [rejected("invalid-record", f"d-{n}", f"e-{n}", b"%d" % n) for n in range(rows)]


def listed(valkey: str, stream: str, *words: str) -> list[dict[str, Any]]:
    result = command(valkey, stream, "rejected", "list", "--json", *words)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_stream_without_any_lists_nothing(valkey: str, stream: str) -> None:
    assert listed(valkey, stream) == []
    result = command(valkey, stream, "rejected", "drop", "--all")
    assert (result.returncode, result.stdout) == (0, "0 dropped\n")


def test_list_prints_one_line_a_record_oldest_first(valkey: str, client: Any, stream: str) -> None:
    first, second = put(
        client, stream, rejected("invalid-record", "missing: service", "e-1", b"{}"),
        Rejected("record-too-large", "too long", None, b"x" * TEXT_BYTES_MAX),
    )  # fmt: skip
    result = command(valkey, stream, "rejected", "list")
    assert result.stdout.splitlines() == [
        f"{first}  invalid-record  native  event_id e-1  2 bytes  missing: service",
        f"{second}  record-too-large  native  over {TEXT_BYTES_MAX} bytes  too long",
    ]
    assert listed(valkey, stream)[0] == {
        "entry_id": first, "reason": "invalid-record", "detail": "missing: service", "receiver": "native",
        "event_id": "e-1", "size": 2,
    }  # fmt: skip


@pytest.mark.parametrize("records", [PAGE, PAGE + 1])
def test_list_reads_every_page_and_limit_the_newest(valkey: str, client: Any, stream: str, records: int) -> None:
    put(client, stream, *numbered(records))
    put(client, stream, rejected("malformed-record", "no", None, b"{"))
    put(client, stream, *numbered(2))
    events = [f"e-{n}" for n in range(records)]
    assert [row["event_id"] for row in listed(valkey, stream)] == [*events, None, "e-0", "e-1"]
    assert [row["event_id"] for row in listed(valkey, stream, "--limit", "4")] == [events[-1], None, "e-0", "e-1"]
    assert len(listed(valkey, stream, "--limit", str(records + 2))) == records + 2
    assert len(listed(valkey, stream, "--limit", str(records + 4))) == records + 3
    assert [row["event_id"] for row in listed(valkey, stream, "--reason", "malformed-record")] == [None]
    found = listed(valkey, stream, "--reason", "invalid-record", "--limit", "3")
    assert [row["event_id"] for row in found] == [events[-1], "e-0", "e-1"]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5"])
def test_a_limit_is_a_number_of_one_or_more(valkey: str, stream: str, limit: str) -> None:
    assert command(valkey, stream, "rejected", "list", "--limit", limit).returncode == 2


def test_show_prints_the_whole_record_and_says_where_it_is_cut(valkey: str, client: Any, stream: str) -> None:
    whole, cut, unknown = put(
        client, stream, rejected("invalid-record", "missing: service", "e-1", b'{"event_id":"e-1"}'),
        rejected("record-too-large", "d", None, b"x" * (TEXT_BYTES_MAX + 1)),
        Rejected("record-too-large", "d", None, b"y" * TEXT_BYTES_MAX),
    )  # fmt: skip
    result = command(valkey, stream, "rejected", "show", whole)
    assert result.stdout == (
        f"entry_id:   {whole}\nreason:     invalid-record\ndetail:     missing: service\nreceiver:   native\n"
        'event_id:   e-1\nsize:       18\ntruncated:  False\ntext:       {"event_id":"e-1"}\n\n'
    )
    shown = command(valkey, stream, "rejected", "show", "--json", whole, cut, unknown, cut).stdout.splitlines()
    rows = [json.loads(line) for line in shown]
    assert [(row["size"], row["truncated"]) for row in rows] == [(18, False), (TEXT_BYTES_MAX + 1, True), (None, True)]
    assert [len(row["text"]) for row in rows] == [18, TEXT_BYTES_MAX, TEXT_BYTES_MAX]


def test_no_byte_of_a_record_reaches_the_terminal_raw(valkey: str, client: Any, stream: str) -> None:
    row = Rejected("invalid\x1b[2J", "\x9b31m\u202e", "\x1b]0;title\x07", HOSTILE, len(HOSTILE))
    [entry_id] = put(client, stream, row, receiver="native\x1b[2J")
    for words in (["list"], ["show", entry_id]):
        output = command(valkey, stream, "rejected", *words).stdout
        assert all(char.isprintable() or char == "\n" for char in output), output
        assert len(output.splitlines()) == (1 if words == ["list"] else 9)
    shown = json.loads(command(valkey, stream, "rejected", "show", "--json", entry_id).stdout)
    assert shown["text"] == HOSTILE.decode(errors="replace")


def test_raw_prints_exactly_the_bytes_that_were_sent(valkey: str, client: Any, stream: str) -> None:
    [entry_id] = put(client, stream, rejected("malformed-record", "d", None, HOSTILE))
    result = subprocess.run(
        [sys.executable, "-m", "inlet", "rejected", "show", "--raw", entry_id],
        env=environment(valkey, stream), cwd=ROOT, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == (HOSTILE, b"")


def test_drop_deletes_the_named_and_keeps_the_others(valkey: str, client: Any, stream: str) -> None:
    ids = put(client, stream, *numbered(4))
    result = command(valkey, stream, "rejected", "drop", ids[0], ids[2], ids[0])
    assert (result.returncode, result.stdout) == (0, "2 dropped\n")
    assert [row["entry_id"] for row in listed(valkey, stream)] == [ids[1], ids[3]]


@pytest.mark.parametrize("records", [PAGE, PAGE + 1])
def test_drop_all_deletes_all_or_those_with_a_reason(valkey: str, client: Any, stream: str, records: int) -> None:
    put(client, stream, *numbered(records), rejected("malformed-record", "no", None, b"{"))
    result = command(valkey, stream, "rejected", "drop", "--all", "--reason", "invalid-record", "--json")
    assert json.loads(result.stdout) == {"dropped": records}
    assert [row["reason"] for row in listed(valkey, stream)] == ["malformed-record"]
    assert command(valkey, stream, "rejected", "drop", "--all").stdout == "1 dropped\n"
    assert client.xlen(f"{stream}:rejected") == 0


def test_what_is_not_there_or_not_named_is_wrong_usage(valkey: str, client: Any, stream: str) -> None:
    put(client, stream, *numbered(1))
    for words, message in (
        (["show", "17-0"], "there is no rejected record 17-0"),
        (["drop", "17-0"], "there is no rejected record 17-0"),
        (["show", "\x1b[2J"], "\\x1b[2J is not an ID"),
        (["drop"], "name records by ID, or use --all"),
        (["drop", "--all", "17-0"], "name records by ID, or use --all"),
        (["drop", "17-0", "--reason", "x"], "--reason goes with --all"),
    ):
        result = command(valkey, stream, "rejected", *words)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), words
        assert message in result.stderr
    assert len(listed(valkey, stream)) == 1


def test_a_tenants_stream_is_named_by_the_option(valkey: str, client: Any, stream: str) -> None:
    put(client, f"{stream}-tenant", *numbered(1))
    assert listed(valkey, stream) == []
    assert len(listed(valkey, stream, "--stream", f"{stream}-tenant")) == 1


def test_a_key_that_is_no_stream_is_the_stores_refusal(valkey: str, client: Any, stream: str) -> None:
    client.set(f"{stream}:rejected", "x")
    result = command(valkey, stream, "rejected", "list")
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)


def test_what_another_writer_put_there_is_shown_as_far_as_it_goes(valkey: str, client: Any, stream: str) -> None:
    for size in ("x", "-1", "9" * 30, "\u0663"):
        client.xadd(f"{stream}:rejected", {"size": size, "other": "\xff"})
    assert {(row["reason"], row["size"], row["event_id"]) for row in listed(valkey, stream)} == {("", None, None)}
    assert command(valkey, stream, "rejected", "list").returncode == 0


def test_a_consumers_rights_are_enough(own_store: EmbeddedStore) -> None:
    with connect(own_store.url) as client:
        words = RULE.replace("\\\n", " ").split()
        client.execute_command("ACL", "SETUSER", "consumer", "on", ">secret", *words)
        first, _ = put(client, "logs", *numbered(2))
    url = own_store.url.replace("unix://", "unix://consumer:secret@")
    assert len(listed(url, "logs", "--limit", "5")) == len(listed(url, "logs")) == 2
    assert command(url, "logs", "rejected", "show", first).returncode == 0
    assert command(url, "logs", "rejected", "drop", first).stdout == "1 dropped\n"
    assert command(url, "logs", "rejected", "drop", "--all").stdout == "1 dropped\n"
