"""How commands end over the real store: closed pipes, programs that cannot be started, exit codes, numbers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.consumer.support import Spawn, add, command, dead, pending, spawning
from tests.support import DEADLINE_SECONDS, wait_until

QUICK = ("--claim-idle", "0.2", "--attempts-max", "1")
"""A single failed attempt makes a dead letter at once."""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


# Pipes whose reader is gone -------------------------------------------------------------------------------------------


def ended_without_a_reader(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Close the pipe that a process prints to, and wait for its end: exit status, and stderr."""
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, errors


@pytest.mark.parametrize("words", [(), ("--once",), ("--once", "--json")])
def test_exec_into_a_closed_pipe_starts_no_program_and_ends_quietly(
    valkey: str, client: Any, stream: str, spawn: Spawn, words: tuple[str, ...]
) -> None:
    for number in range(3):
        add(client, stream, f"e-{number}")
    process = spawn("-m", "inlet", "exec", "--group", "g", *QUICK, *words, "--", "cat", **PIPES)
    assert (ended_without_a_reader(process), dead(client, stream)) == ((0, b""), [])
    rest = command(valkey, stream, "exec", "--group", "g", "--once", "--", "cat")
    assert (rest.stdout.count("\n"), pending(client, stream, "g")) == (3, 0), "handed back, without a wait"


@pytest.mark.parametrize("last", ["exec cat", "cat; exit 141", "cat; exit 1"])
def test_a_program_that_fails_because_the_pipe_closed_costs_no_attempt(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path, last: str
) -> None:
    for number in range(3):
        add(client, stream, f"e-{number}")
    # The reader goes while the first program runs. Other programs than cat say so in their own ways.
    program = f"touch {tmp_path}/began; until [ -e {tmp_path}/gone ]; do sleep 0.05; done; trap '' PIPE; {last}"
    program = program.replace("trap '' PIPE; exec", "exec")
    process = spawn("-m", "inlet", "exec", "--group", "g", *QUICK, "--", "sh", "-c", program, **PIPES)
    wait_until((tmp_path / "began").exists, "the program")
    assert process.stdout is not None
    process.stdout.close()
    (tmp_path / "gone").touch()
    status, errors = ended_without_a_reader(process)
    assert (status, dead(client, stream)) == (0, []), errors
    assert b"inlet:" not in errors
    rest = command(valkey, stream, "exec", "--group", "g", "--once", "--", "cat")
    assert (rest.stdout.count("\n"), pending(client, stream, "g")) == (3, 0)


def test_a_broken_pipe_within_a_program_is_its_own_failure(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    result = command(valkey, stream, "exec", "--group", "g", *QUICK, "--once", "--", "sh", "-c", "kill -PIPE $$")
    assert (result.returncode, len(dead(client, stream))) == (1, 1), result.stderr
    assert "SIGPIPE" in result.stderr


# Programs that cannot be started --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [("#!/nonexistent/interpreter\n", 127), ("#!/bin/sh\nnonexistent-command\n", 127), ("#!/bin/sh\n/etc\n", 126)],
)
def test_a_program_that_cannot_be_started_ends_exec_and_costs_no_attempt(
    valkey: str, client: Any, stream: str, tmp_path: Path, text: str, status: int
) -> None:
    for number in range(3):
        add(client, stream, f"e-{number}")
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o755)
    for _ in range(2):
        result = command(valkey, stream, "exec", "--group", "g", *QUICK, "--", str(program))
        [said] = [line for line in result.stderr.splitlines() if line.startswith("inlet: ")]
        assert (result.returncode, pending(client, stream, "g"), dead(client, stream)) == (1, 3, []), result.stderr
        assert str(program) in said
        assert f"status {status}" in said
    program.write_text("#!/bin/sh\ncat\n")
    rest = command(valkey, stream, "exec", "--group", "g", "--once", "--", str(program))
    assert (rest.returncode, rest.stdout.count("\n"), pending(client, stream, "g")) == (0, 3, 0)


@pytest.mark.parametrize("name", ["/nonexistent/program", "nonexistent-program", "/etc/passwd", "/tmp"])
def test_a_program_that_is_missing_at_the_start_is_wrong_usage(
    valkey: str, client: Any, stream: str, name: str
) -> None:
    add(client, stream, "a")
    result = command(valkey, stream, "exec", "--group", "g", "--", name)
    assert (result.returncode, len(result.stderr.splitlines()), client.xinfo_groups(stream)) == (2, 1, [])


# Exit codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("read", "--group", "g"), ("exec", "--group", "g"), ("export",)])
def test_once_says_by_its_exit_code_that_something_became_a_dead_letter(
    valkey: str, client: Any, stream: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    more = {"export": ("--to", str(tmp_path)), "exec": ("--", "true")}.get(words[0], ())
    add(client, stream, "a")
    client.xadd(stream, {"junk": "of another writer"})
    codes = [command(valkey, stream, *words, "--once", *more).returncode for _ in range(2)]
    assert (codes, len(dead(client, stream))) == ([1, 0], 1)


NUMBERS = [
    ("read", "--claim-idle"), ("exec", "--claim-idle"), ("exec", "--timeout"), ("exec", "--grace"),
    ("export", "--claim-idle"), ("export", "--roll-seconds"), ("export", "--roll-mib"), ("trim", "--every"),
    ("lag", "--watch"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_a_number_that_is_none_is_wrong_usage(
    valkey: str, client: Any, stream: str, tmp_path: Path, name: str, option: str
) -> None:
    required = {
        "read": ("--group", "g", "--once"), "exec": ("--group", "g", "--once"), "lag": (),
        "export": ("--to", str(tmp_path), "--once"), "trim": ("--retention", "entries=5"),
    }  # fmt: skip
    for value in ("nan", "inf", "-inf", "1e400", "x"):
        result = command(
            valkey, stream, name, *required[name], f"{option}={value}", *(("--", "true") * (name == "exec"))
        )
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), (value, result.stderr)
        assert option in result.stderr
