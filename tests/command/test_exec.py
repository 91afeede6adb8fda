"""``inlet exec`` over the real store: deadlines, stops, and programs that misbehave; and stops of the other readers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inlet.command.programs import KILL_SECONDS, Program, RunLimits
from inlet.stream.errors import ConsumerError
from tests.consumer.support import Spawn, add, command, dead, fill, pending, spawning
from tests.support import DEADLINE_SECONDS, wait_until

FOREVER = "100000"
"""Seconds: for whatever must not happen by the clock within a test."""
PATIENT = ("--claim-idle", "86400", "--timeout", "80000")
"""Nothing is claimed and nothing times out."""


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


def shell(script: str) -> list[str]:
    return ["--", "sh", "-c", script]


def executing(spawn: Spawn, *words: str, script: str, **more: Any) -> subprocess.Popen[bytes]:
    return spawn("-m", "inlet", "exec", "--group", "g", *words, *shell(script), **more)


def running(words: list[str], timeout: float = DEADLINE_SECONDS) -> contextlib.closing[Program]:
    """A program that may take so many seconds, and is never stopped."""
    return contextlib.closing(Program(words, RunLimits(timeout, 0), lambda: False))


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(path: Path, count: int) -> list[int]:
    """The numbers in a file, once it has so many lines."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, f"{count} pids in {path}")
    return [int(text) for text in path.read_text().split()]


def seen(path: Path) -> list[str]:
    """The event_ids that a program appended."""
    return [json.loads(text)["event_id"] for text in path.read_text().splitlines()] if path.exists() else []


# Deadlines ------------------------------------------------------------------------------------------------------------


def test_three_hanging_programs_do_not_keep_a_new_entry_waiting(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    for _ in range(3):
        add(client, stream, "hang")
    out = tmp_path / "out"
    script = f"grep -q hang && {{ echo $$ >> {tmp_path}/hanging; exec sleep {FOREVER}; }}; echo x >> {out}"
    words = ("--claim-idle", "3", "--timeout", "1")
    processes = [executing(spawn, *words, script=script, stderr=subprocess.PIPE) for _ in range(3)]
    hanging = pids(tmp_path / "hanging", 3)
    add(client, stream, "new")
    wait_until(out.exists, "the new entry")
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, errors
    wait_until(lambda: not any(map(alive, hanging)), "the hanging programs ended")
    assert dead(client, stream) == []


def test_a_run_past_its_deadline_is_a_failed_attempt_and_its_whole_group_ends(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    add(client, stream, "a")
    script = f"trap '' TERM; sleep {FOREVER} & echo $! >> {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait; wait"
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--timeout", "0.5", *shell(script))
    assert (result.returncode, pending(client, stream, "g")) == (1, 1)
    assert "sh was ended after 0.5 s (--timeout)" in result.stderr
    assert not any(map(alive, pids(tmp_path / "pids", 2)))


def test_a_program_that_ends_on_term_may_clean_up(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    add(client, stream, "a")
    script = f"trap 'echo clean > {tmp_path}/clean; exit 0' TERM; sleep {FOREVER} & wait"
    result = command(valkey, stream, "exec", "--group", "g", "--once", "--timeout", "0.5", *shell(script))
    # Its status does not count any more: many programs exit with 0 on TERM, with their work undone.
    assert (result.returncode, pending(client, stream, "g"), (tmp_path / "clean").exists()) == (1, 1, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--timeout", "0"], 2), (["--timeout", "60"], 2), (["--timeout", "59.9"], 0),
        (["--timeout", "20", "--claim-idle", "20"], 2), (["--grace", "-1"], 2), (["--grace", "0"], 0),
        (["--grace", "86400"], 0), (["--grace", "86401"], 2),
    ],
)  # fmt: skip
def test_the_deadline_is_below_the_claim_and_both_are_bounded(
    valkey: str, stream: str, words: list[str], code: int
) -> None:
    result = command(valkey, stream, "exec", "--group", "g", "--once", *words, "--", "true")
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1 if code else 0), result.stderr


# Stops ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_may_finish_within_the_grace(
    client: Any, stream: str, spawn: Spawn, tmp_path: Path, number: signal.Signals
) -> None:
    add(client, stream, "a")
    add(client, stream, "b")
    script = f"touch {tmp_path}/began; until [ -e {tmp_path}/go ]; do sleep 0.05; done; cat >> {tmp_path}/out"
    process = executing(spawn, "--grace", FOREVER[:-1], *PATIENT, script=script, stderr=subprocess.PIPE)
    wait_until((tmp_path / "began").exists, "the program")
    process.send_signal(number)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, errors, seen(tmp_path / "out")) == (0, b"", ["a"]), "and no second one is begun"
    assert pending(client, stream, "g") == 1


def test_past_the_grace_the_program_is_ended_and_its_entry_handed_back_without_an_attempt(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    add(client, stream, "a")
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep {FOREVER} & echo $! >> {tmp_path}/pid; wait; wait"
    words = ("--grace", "0.2", *PATIENT, "--attempts-max", "1")
    for _ in range(3):
        process = executing(spawn, *words, script=script, stderr=subprocess.PIPE)
        started = pids(tmp_path / "pid", 2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, errors
        assert not any(map(alive, started))
        (tmp_path / "pid").unlink()
    script = f'echo "$CONSUMER_ATTEMPT $CONSUMER_LINES" > {tmp_path}/about'
    result = command(valkey, stream, "exec", "--group", "g", "--once", *PATIENT, *shell(script))
    assert (result.returncode, pending(client, stream, "g"), dead(client, stream)) == (0, 0, []), result.stderr
    assert (tmp_path / "about").read_text() == "1 0-0\n"


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_the_program_at_once(
    client: Any, stream: str, spawn: Spawn, tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    add(client, stream, "a")
    script = f"trap '' TERM INT; echo $$ > {tmp_path}/pid; while :; do sleep 1; done"
    process = executing(spawn, "--grace", "86400", *PATIENT, script=script, stderr=subprocess.PIPE)
    [pid] = pids(tmp_path / "pid", 1)
    for number in numbers:
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(number)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, alive(pid)) == (0, False)
    assert dead(client, stream) == []


def test_kill_9_leaves_neither_the_program_nor_what_it_started(
    client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    add(client, stream, "a")
    script = f"trap '' TERM; sleep {FOREVER} & echo $! > {tmp_path}/pid; echo $$ >> {tmp_path}/pid; wait; wait"
    process = executing(spawn, *PATIENT, script=script)
    started = pids(tmp_path / "pid", 2)
    assert all(map(alive, started))
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_SECONDS)
    wait_until(lambda: not any(map(alive, started)), "the end of the program and of its child")


def test_kill_9_at_any_moment_leaves_no_program(client: Any, stream: str, spawn: Spawn, tmp_path: Path) -> None:
    for number in range(1_000):
        add(client, stream, f"e-{number}")
    started = tmp_path / "pids"
    script = f"echo $$ >> {started}; [ $(($$ % 3)) = 0 ] || exit 0; sleep {FOREVER} & echo $! >> {started}; wait"
    for kill in range(8):
        before = started.read_text().count("\n") if started.exists() else 0
        process = executing(spawn, *PATIENT, script=script)
        pids(started, before + 1)
        time.sleep(0.003 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_SECONDS)
    wait_until(lambda: not any(map(alive, pids(started, 8))), "the end of all of them")


def test_a_guard_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with running(["/bin/sh", "-c", "cat >&2"]) as program:
        guard = program._guard
        guard.kill()
        guard.wait()
        program.run(b"", {})
        assert program._guard.poll() is None


def test_programs_in_a_row_leave_no_descriptor_and_no_process() -> None:
    with running(["/bin/true"]) as program:
        program.run(b"x\n", {})
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            program.run(b"x\n" * 100_000, {})
        assert len(os.listdir("/proc/self/fd")) == before
    assert program._guard.returncode == 0


# Programs that misbehave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exec <&-; exit 0", 0), ("exit 0", 0), ("exec <&-; exit 3", 3), ("head -n 1 > /dev/null", 0),
        (f"sleep {FOREVER} & exit 0", 0), (f"sleep {FOREVER} & exit 4", 4), (f"sleep {FOREVER} <&0 & exit 0", 0),
        ("kill -9 $$", -9),
    ],
)  # fmt: skip
def test_a_program_need_not_read_and_what_it_leaves_behind_keeps_nobody_waiting(
    tmp_path: Path, script: str, status: int
) -> None:
    data = b"x" * 1_000_000 + b"\n"
    with running(["/bin/sh", "-c", script]) as program:
        if not status:
            program.run(data, {})
            return
        with pytest.raises(ConsumerError, match="killed by SIGKILL" if status < 0 else f"exited with status {status}"):
            program.run(data, {})


def test_what_a_program_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    with running(["/bin/sh", "-c", f"sleep {FOREVER} & echo $! > {tmp_path}/pid"]) as program:
        program.run(b"", {})
    [pid] = pids(tmp_path / "pid", 1)
    wait_until(lambda: not alive(pid), "the end of the background process")


def test_a_program_whose_output_nobody_reads_meets_its_deadline(client: Any, stream: str, spawn: Spawn) -> None:
    add(client, stream, "a")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = executing(spawn, "--once", "--timeout", "1", script="exec yes", **pipes)
    process.wait(DEADLINE_SECONDS)
    assert process.stderr is not None
    assert (process.returncode, pending(client, stream, "g")) == (1, 1)
    assert b"--timeout" in process.stderr.read()


def test_a_program_that_is_gone_ends_exec_and_costs_no_attempt(
    valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    for number in range(4):
        add(client, stream, f"e-{number}")
    program = tmp_path / "program"
    for left in (3, 2, 1):
        # It handles one entry, and is gone at the next.
        program.write_text('#!/bin/sh\nrm "$0"\n')
        program.chmod(0o755)
        result = command(
            valkey, stream, "exec", "--group", "g", "--attempts-max", "1", *PATIENT, "--", str(program)
        )  # fmt: skip
        assert (result.returncode, pending(client, stream, "g")) == (1, left), result.stderr
        assert result.stderr.startswith(f"inlet: {program}: not found")
    result = command(valkey, stream, "exec", "--group", "g", "--once", *PATIENT, "--", "true")
    assert (result.returncode, pending(client, stream, "g"), dead(client, stream)) == (0, 0, [])


# Attempts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [("--consumer", "c"), ()])
def test_exec_once_run_five_times_buries_nothing(valkey: str, client: Any, stream: str, name: tuple[str, ...]) -> None:
    for number in range(20):
        add(client, stream, f"e-{number}")
    for _ in range(6):
        command(valkey, stream, "exec", "--group", "g", "--once", *name, "--", "false")
    assert (dead(client, stream), pending(client, stream, "g")) == ([], 20)


def test_the_program_finds_out_which_attempt_it_is(valkey: str, client: Any, stream: str, tmp_path: Path) -> None:
    add(client, stream, "a")
    script = f'echo "$CONSUMER_ATTEMPT" >> {tmp_path}/attempts; exit 1'
    words = ("exec", "--group", "g", "--once", "--claim-idle", "0.5", "--attempts-max", "3")

    def buried() -> bool:
        command(valkey, stream, *words, *shell(script))
        return bool(dead(client, stream))

    wait_until(buried, "the letter")
    assert (tmp_path / "attempts").read_text().split() == ["1", "2", "3"]


@pytest.mark.parametrize("fails", ["exit 1", "kill -9 $$", f"sleep {FOREVER}"])
def test_only_the_record_that_fails_becomes_a_letter(
    valkey: str, client: Any, stream: str, tmp_path: Path, fails: str
) -> None:
    event_ids = [f"e-{number}" for number in range(10)]
    add(client, stream, *event_ids)
    script = f'cat > {tmp_path}/in; echo "$CONSUMER_LINES" >> {tmp_path}/lines; grep -q e-7 {tmp_path}/in && {fails}; '
    script += f"cat {tmp_path}/in >> {tmp_path}/out"
    words = ("exec", "--group", "g", "--once", "--attempts-max", "1", "--timeout", "1.5")
    result = command(valkey, stream, *words, *shell(script))
    assert (result.returncode, pending(client, stream, "g")) == (1, 0), result.stderr
    assert [fields[b"line"] for fields in dead(client, stream)] == [b"7"]
    assert sorted(seen(tmp_path / "out")) == sorted(set(event_ids) - {"e-7"})
    assert (tmp_path / "lines").read_text().split()[:3] == ["0-9", "0-4", "5-9"]


# Stops of what only reads ---------------------------------------------------------------------------------------------

IDLE = [["read", "--group", "g"], ["tail", "--from", "start"], ["exec", "--group", "g", "--", "cat"], ["export"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", IDLE, ids=lambda words: str(words[0]))
def test_an_idle_command_in_a_pipe_ends_on_a_signal(
    client: Any, stream: str, spawn: Spawn, tmp_path: Path, words: list[str], number: signal.Signals
) -> None:
    more = ["--to", str(tmp_path)] if words[0] == "export" else []
    process = spawn("-m", "inlet", *words, *more, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: waiting_reads(client, stream, words[0]), "the command is idle")
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, errors) == (0, b"")
    assert time.monotonic() - began < DEADLINE_SECONDS / 4


def fill_up(pipe: int) -> None:
    """Wait until a pipe takes no more."""

    def is_full() -> bool:
        before = waiting_bytes(pipe)
        time.sleep(0.3)
        return before > 32_768 and waiting_bytes(pipe) == before

    wait_until(is_full, "the pipe is full")


def waiting_bytes(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def waiting_reads(client: Any, stream: str, command_name: str) -> bool:
    """Whether the command waits in the store: of this test's stream, the store says only whether it has a group."""
    wanted = "xread" if command_name == "tail" else "xreadgroup"
    grouped = wanted == "xread" or (client.exists(stream) and bool(client.xinfo_groups(stream)))
    return grouped and any(row["cmd"] == wanted for row in client.client_list())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_read_whose_pipe_is_full_ends_on_a_signal_and_writes_whole_lines_only(
    valkey: str, client: Any, stream: str, spawn: Spawn, number: signal.Signals
) -> None:
    wanted = fill(client, stream, 3_000)
    process = spawn("-m", "inlet", "read", "--group", "g", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    fill_up(process.stdout.fileno())
    process.send_signal(number)
    process.wait(DEADLINE_SECONDS)
    output = process.stdout.read()
    assert (process.returncode, output[-1:]) == (0, b"\n")
    rest = command(valkey, stream, "read", "--group", "g", "--once").stdout
    found = {json.loads(text)["event_id"] for text in [*output.decode().splitlines(), *rest.splitlines()]}
    assert (found, pending(client, stream, "g")) == (set(wanted), 0), "what was not written was handed back"


def test_the_stop_of_a_program_that_ignores_term_is_bounded(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep {FOREVER}"
    with running(["/bin/sh", "-c", script], 0.5) as program:
        began = time.monotonic()
        with pytest.raises(ConsumerError, match="--timeout"):
            program.run(b"", {})
        assert time.monotonic() - began >= 0.5 + KILL_SECONDS
