"""``inlet`` as a process over the real store: output, exit codes, signals, pipes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inlet import BadRecord, Options, Reader, Record
from inlet.command.output import age, printable
from tests.conftest import Serve
from tests.consumer.support import Spawn, add, command, dead, environment, fill, line, pending, spawning
from tests.support import ROOT, record, wait_until


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


def event_ids(output: str | bytes) -> list[str]:
    return [json.loads(text)["event_id"] for text in output.splitlines()]


def test_read_prints_one_object_with_the_five_members_a_line_and_acks(valkey: str, client: Any, stream: str) -> None:
    client.xadd(stream, {"r": line("a", message='sl/ash "ü" \x1b', metadata={"k": "v"}), "n": 1})
    add(client, stream, "b", "c")
    result = command(valkey, stream, "read", "--group", "g", "--once")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(text) for text in result.stdout.splitlines()]
    assert list(rows[0]) == ["event_id", "timestamp", "service", "message", "metadata"]
    assert rows[0] == {
        "event_id": "a", "timestamp": "2026-01-31T23:59:59Z", "service": "checkout", "message": 'sl/ash "ü" \x1b',
        "metadata": {"k": "v"},
    }  # fmt: skip
    assert ([row["event_id"] for row in rows], pending(client, stream, "g")) == (["a", "b", "c"], 0)
    assert command(valkey, stream, "read", "--group", "g", "--once").stdout == ""


def test_read_from_now_passes_over_the_past(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    add(client, stream, "old")
    process = spawn("-m", "inlet", "read", "--group", "g", "--from", "now", stdout=subprocess.PIPE)
    wait_until(lambda: client.xinfo_groups(stream), "the group")
    add(client, stream, "new")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event_id"] == "new"
    wait_until(lambda: pending(client, stream, "g") == 0, "the ack")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_read_cleanly(
    valkey: str, client: Any, stream: str, spawn: Spawn, number: signal.Signals
) -> None:
    add(client, stream, "a")
    process = spawn("-m", "inlet", "read", "--group", "g", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors, pending(client, stream, "g")) == (0, b"", 0)


def test_read_into_head_ends_quietly_and_what_was_not_written_comes_again(
    valkey: str, client: Any, stream: str
) -> None:
    wanted = fill(client, stream, 5_000)
    script = f"{sys.executable} -m inlet read --group g --once | head -n 3; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", script], env=environment(valkey, stream), cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert (result.stderr, result.stdout.splitlines()[-1]) == ("", "0")
    rest = command(valkey, stream, "read", "--group", "g", "--once", "--claim-idle", "0.01")
    # At least the entry that met the closed pipe, and all after it.
    assert event_ids(rest.stdout)[-1:] == wanted[-1:]
    wait_until(
        lambda: (
            command(valkey, stream, "read", "--group", "g", "--once", "--claim-idle", "0.01").returncode == 0
            and pending(client, stream, "g") == 0
        ),
        "everything acked",
    )


def test_read_stops_after_the_count_and_hands_back_the_rest(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000)
    first = command(valkey, stream, "read", "--group", "g", "--count", "150")
    assert len(first.stdout.splitlines()) == 200, "whole entries"
    second = command(valkey, stream, "read", "--group", "g", "--count", "800")
    assert (len(event_ids(second.stdout)), pending(client, stream, "g")) == (800, 0)


def test_read_with_address_adds_where_the_record_is(valkey: str, client: Any, stream: str) -> None:
    entry_id = add(client, stream, "a", "b")
    result = command(valkey, stream, "read", "--group", "g", "--once", "--address")
    row = json.loads(result.stdout.splitlines()[1])
    assert (row["partition"], row["entry_id"], row["line"]) == (0, entry_id, 1)


def test_read_finds_the_embedded_store_of_the_data_directory(serve: Serve) -> None:
    server = serve()
    body = json.dumps(record("from-the-embedded-store")).encode()
    head = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    assert server.send(head % len(body) + body)[0] == 202
    env = environment("", "")
    env["INLET_DATA_DIR"] = str(server.data_dir)
    words = [sys.executable, "-m", "inlet", "read", "--group", "g", "--once"]
    result = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert event_ids(result.stdout) == ["from-the-embedded-store"]


def test_exec_gives_each_entry_to_the_program_and_acks_on_zero(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    add(client, stream, "a", "b")
    entry_id = add(client, stream, "c")
    out = tmp_path / "out"
    script = f'cat >> {out}; echo "$CONSUMER_GROUP $CONSUMER_PARTITION $CONSUMER_ENTRY_ID" >> {tmp_path}/about'
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--", "sh", "-c", script)
    assert (result.returncode, pending(client, stream, "g")) == (0, 0), result.stderr
    assert event_ids(out.read_text()) == ["a", "b", "c"]
    assert (tmp_path / "about").read_text().splitlines()[1] == f"g 0 {entry_id}"


def test_exec_does_not_ack_what_the_program_fails_on(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--", "sh", "-c", "exit 3")
    assert (result.returncode, pending(client, stream, "g"), "status 3" in result.stderr) == (1, 1, True)


def test_exec_makes_dead_letters_after_the_last_try_and_says_so(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--attempts-max", "1", "--", "false")
    assert (result.returncode, pending(client, stream, "g"), len(dead(client, stream))) == (1, 0, 1)


def test_exec_takes_a_program_that_reads_nothing(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 2_000, 2_000)
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--", "true")
    assert (result.returncode, pending(client, stream, "g")) == (0, 0), result.stderr


def test_tail_filters_by_service_text_and_member(valkey: str, client: Any, stream: str) -> None:
    for number, (service, message, region) in enumerate(
        [("a", "Refused by bank", "eu"), ("b", "refused", "eu"), ("a", "paid", "eu"), ("a", "refused", "us")]
    ):
        text = line(f"e-{number}", service=service, message=message, metadata={"region": region})
        client.xadd(stream, {"r": text, "n": 1})
    client.xadd(stream, {"junk": "of another writer"})

    def seen(*words: str) -> list[str]:
        result = command(valkey, stream, "tail", "--from", "start", "--once", *words)
        assert result.returncode == 0, result.stderr
        return event_ids(result.stdout)

    assert seen() == ["e-0", "e-1", "e-2", "e-3"]
    assert seen("--service", "a", "--text", "refused") == ["e-0", "e-3"]
    assert seen("--service", "a", "--service", "b", "--where", "metadata.region=eu") == ["e-0", "e-1", "e-2"]
    assert seen("--where", "$.service=b") == ["e-1"]
    assert seen("--where", "metadata.nothing") == []
    assert seen("-n", "2") == ["e-2", "e-3"]
    assert seen("-n", "1", "--service", "b") == ["e-1"]
    assert seen("--limit", "3") == ["e-0", "e-1", "e-2"]
    assert seen("--from", "1h") == ["e-0", "e-1", "e-2", "e-3"]
    assert client.xinfo_groups(stream) == [], "looking changes nothing"


def test_tail_begins_with_the_last_records_within_an_entry(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 250)
    result = command(valkey, stream, "tail", "-n", "120", "--once")
    assert event_ids(result.stdout) == [f"e-{number}" for number in range(130, 250)]


def test_tail_shows_what_arrives_from_now_on_until_ctrl_c(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    add(client, stream, "old")
    process = spawn("-m", "inlet", "tail", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    # Only once it listens does "now" have a meaning.
    wait_until(lambda: any(row["cmd"] == "xread" for row in client.client_list()), "tail reads")
    add(client, stream, "new")
    assert json.loads(process.stdout.readline())["event_id"] == "new"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("words", ["tail --from start", "read --group g"])
def test_a_command_ends_when_nobody_reads_any_more_though_nothing_arrives(
    valkey: str, client: Any, stream: str, words: str
) -> None:
    add(client, stream, "a")
    script = f"{sys.executable} -m inlet {words} | head -n 1"
    result = subprocess.run(
        ["bash", "-c", script], env=environment(valkey, stream), cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert (event_ids(result.stdout), result.stderr) == (["a"], "")


def test_term_ends_tail_cleanly(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    add(client, stream, "a")
    process = spawn("-m", "inlet", "tail", "--from", "start", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")


def test_tail_is_for_people_in_a_terminal_and_obeys_no_escape_sequence(
    valkey: str, client: Any, stream: str, spawn: Spawn
) -> None:
    client.xadd(stream, {"r": line("a", message="evil \x1b]0;title\x07"), "n": 1})
    ours, theirs = pty.openpty()
    process = spawn("-m", "inlet", "tail", "--from", "start", "--once", stdout=theirs)
    os.close(theirs)
    output = b""
    while b"eu-1" not in output:
        output += os.read(ours, 1_000)
    os.close(ours)
    assert process.wait(30) == 0
    assert b"checkout" in output
    assert b"evil \\x1b]0;title\\x07" in output


def test_lag_shows_entries_records_age_and_deliveries_of_each_group(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000)
    client.xgroup_create(stream, "g", id="0")
    client.xreadgroup("g", "c", {stream: ">"}, count=3)
    client.xgroup_create(stream, "done", id="$")
    result = command(valkey, stream, "lag", "--json")
    rows = {row["group"]: row for row in map(json.loads, result.stdout.splitlines())}
    row = rows["g"]
    assert (row["unread"], row["pending"], row["records"], row["deliveries"]) == (7, 3, 1_000, 1)
    assert row["oldest_ms"] >= 0
    assert [(item["name"], item["pending"]) for item in row["consumers"]] == [("c", 3)]
    assert (rows["done"]["unread"] or 0, rows["done"]["pending"], rows["done"]["oldest_ms"]) == (0, 0, None)
    text = command(valkey, stream, "lag").stdout
    assert "1,000" in text
    assert "OLDEST" in text


def test_lag_watch_goes_on_until_a_signal(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    client.xgroup_create(stream, "g", id="0", mkstream=True)
    process = spawn("-m", "inlet", "lag", "--watch", "0.1", "--json", stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(process.stdout.readline())["group"] == "g"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_dead_letters_are_listed_shown_replayed_and_dropped(valkey: str, client: Any, stream: str) -> None:
    client.xadd(stream, {"junk": "x"})
    add(client, stream, "a", "b")
    command(valkey, stream, "exec", "--group", "g", "--once", "--attempts-max", "1", "--", "false")
    listed = command(valkey, stream, "dead", "list", "--json")
    rows = [json.loads(text) for text in listed.stdout.splitlines()]
    assert [(row["reason"], row["line"]) for row in rows] == [
        ("missing-field", -1), ("handler-failed", 0), ("handler-failed", 1),
    ]  # fmt: skip
    shown = json.loads(command(valkey, stream, "dead", "show", rows[0]["letter_id"], "--json").stdout)
    assert shown["fields"] == ["junk", "x"]
    assert "status 1" in command(valkey, stream, "dead", "show", rows[1]["letter_id"]).stdout
    replayed = command(valkey, stream, "dead", "replay", "--all", "--reason", "handler-failed", "--json")
    assert json.loads(replayed.stdout) == {"replayed": 2, "failed": 0}
    again = command(valkey, stream, "read", "--group", "g", "--once")
    assert event_ids(again.stdout) == ["a", "b"], "a replayed record is delivered again"
    dropped = command(valkey, stream, "dead", "drop", rows[0]["letter_id"], "--json")
    assert json.loads(dropped.stdout) == {"dropped": 1, "failed": 0}
    assert dead(client, stream) == []


def test_a_replayed_record_is_not_a_duplicate_of_its_dead_letter(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    options = Options(dedup_window_ms=60_000, block_ms=50)

    def refuse(record: Record) -> None:
        raise BadRecord("not today")

    Reader(valkey, stream, "g", options=options).run(refuse, forever=False)
    assert command(valkey, stream, "dead", "replay", "--all").returncode == 0
    seen: list[str] = []
    Reader(valkey, stream, "g", options=options).run(lambda record: seen.append(record.event_id), forever=False)
    assert seen == ["a"]


def many(url: str, stream: str, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command, run one after the other in one process of their own."""
    script = """
import contextlib, io, json, sys
from inlet.command.main import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""
    result = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], env=environment(url, stream), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [(code, out, err) for code, out, err in json.loads(result.stdout)]


WRONG = [
    [], ["frob"], ["read"], ["read", "--group", ""], ["read", "--group", "\n"],
    ["read", "--group", "g", "--count", "0"],
    ["read", "--group", "g", "--consumer", ""], ["read", "--group", "g", "--claim-idle", "0"],
    ["tail", "--from", "yesterday"], ["tail", "--where", "x=1"], ["tail", "--where", "metadata=1"],
    ["tail", "-n", "100001"], ["tail", "-n", "-1"], ["tail", "--stream", "\t"], ["trim"], ["trim", "--retention", "7d"],
    ["trim", "--retention", "age=1d", "--every", "16"], ["lag", "--partitions", "0"], ["lag", "--watch", "0"],
    ["export"], ["export", "--to", "x", "--roll-mib", "0"], ["export", "--to", "x", "--roll-seconds", "0"],
    ["dead", "replay"], ["dead", "drop", "--all", "1-0"], ["dead", "drop", "x"], ["dead", "drop", "1-0"],
    ["exec", "--group", "g", "--", "no-such-program"], ["lag", "--url", "http://nowhere"],
]  # fmt: skip


def test_wrong_usage_is_one_message_with_exit_code_2(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    for words, (code, out, err) in zip(WRONG, many(valkey, stream, WRONG), strict=True):
        wanted = 3 if "--url" in words else 2
        assert (words, code, out, bool(err)) == (words, wanted, "", True)
        assert "Traceback" not in err
    assert client.xinfo_groups(stream) == [], "and nothing was consumed"


@pytest.mark.parametrize(
    "words",
    [
        ["tail"], ["read", "--group", "g"], ["lag"], ["dead", "list"], ["exec", "--group", "g", "--", "cat"],
        ["trim", "--retention", "age=1d"],
    ],
)  # fmt: skip
def test_a_store_that_is_not_there_is_exit_code_3_with_what_to_do(tmp_path: Path, words: list[str]) -> None:
    result = command(f"unix://{tmp_path}/none.sock", "logs", *words)
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)
    assert result.stderr.startswith("inlet: ")
    assert "make run" in result.stderr


def test_a_key_that_is_not_a_stream_is_exit_code_3(valkey: str, client: Any, stream: str) -> None:
    client.set(stream, "x")
    result = command(valkey, stream, "read", "--group", "g", "--once")
    assert (result.returncode, "WRONGTYPE" in result.stderr) == (3, True)


def test_a_wrong_setting_is_exit_code_2_and_names_it(valkey: str, stream: str) -> None:
    result = command("http://nowhere", stream, "lag")
    assert (result.returncode, "REDIS_URL" in result.stderr) == (2, True)


def test_every_command_teaches_with_examples_and_the_root_with_the_exit_codes(valkey: str, stream: str) -> None:
    names = ["tail", "read", "exec", "lag", "dead", "trim", "groups", "export"]
    *texts, root = many(valkey, stream, [*([name, "--help"] for name in names), ["--help"]])
    for name, (code, out, _) in zip(names, texts, strict=True):
        assert (code, f"inlet {name}" in out) == (0, True)
        assert all(len(text) <= 120 for text in out.splitlines())
    codes = root[1].partition("exit codes:")[2]
    assert [text.split()[0] for text in codes.splitlines() if text.strip()] == list("01234")


def test_ages_and_text_for_people() -> None:
    assert [age(value) for value in (None, -5, 1_500, 90_000, 5_400_000, 172_800_000)] == [
        "-", "0.0s", "1.5s", "1.5m", "1.5h", "2.0d",
    ]  # fmt: skip
    assert printable("a\x1b[1m\u202eü") == "a\\x1b[1m?ü"


def test_memory_stays_bounded_while_many_records_wait(valkey: str, client: Any, stream: str, spawn: Spawn) -> None:
    fill(client, stream, 100_000, 1_000)
    process = spawn("-m", "inlet", "read", "--group", "g", stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = 0
    most = 0
    while seen < 100_000:
        process.stdout.readline()
        seen += 1
        if seen % 10_000 == 0:
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, int(status.partition("VmHWM:")[2].split()[0]))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    # The interpreter and its modules take about 45 MiB, 8 MiB may be read ahead, and are held twice while parsed.
    assert most < 120 * 1_024
    assert pending(client, stream, "g") == 0
