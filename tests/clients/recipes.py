"""The recipes of docs/clients.md as the tests run them: extracted, and pointed at the server under test.

What lives here: reading the page, and turning a recipe into a program with the test's own records behind it. What must
not: what a client must have stored.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients import programs
from tests.clients.support import CLIENT_SECONDS, Inlet, Target, outage, run_client
from tests.support import ROOT, wait_until

PAGE = ROOT / "docs/clients.md"
DRIVERS = ROOT / "tests/clients/drivers"
"""What is put behind a recipe: it logs ``RECORDS`` records, and waits before record ``PAUSE_AT`` for a line."""
LOGGERS = ROOT / "tests/clients/node/loggers"
SUFFIX = ' ü€😀 "quoted" \\ /\ttab\nnext line'
"""What every message ends with."""
MEMBERS: dict[str, Any] = {
    "nested": {"a": {"b": [1, "zwei", None]}, "empty": {}},
    "text": "ü€😀 <&> \"quoted\" \\ \u2028 \u007f \b",
    "flag": True, "ratio": 0.25, "big": 9007199254740991, "nothing": None, "blank": "", "list": [1, [2], {"x": "y"}],
    "long": "x" * 3_000, "with.dot": "d", "with space": "s",
}  # fmt: skip
"""What every record carries besides."""
FLAT = {
    "nested.a.b": '[1,"zwei",null]', "nested.empty": "{}", "text": MEMBERS["text"], "flag": "true", "ratio": "0.25",
    "big": "9007199254740991", "nothing": "null", "blank": "", "list": '[1,[2],{"x":"y"}]', "long": MEMBERS["long"],
    "with.dot": "d", "with space": "s",
}  # fmt: skip
"""The same as it is stored."""


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str


class Program(NamedTuple):
    """How a client is started."""

    words: tuple[str, ...]
    cwd: Path
    env: dict[str, str]


@cache
def sections() -> dict[str, tuple[Block, ...]]:
    """Every client of the page -> its blocks."""
    found = {}
    for section in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0].strip()
        found[name] = tuple(Block(*block) for block in re.findall(r"^```(\w+)\n(.*?)^```", section, re.M | re.S))
    return found


def recipe(client: str, language: str, inlet: Target | None = None) -> str:
    """Return the first block of a client in this language, pointed at ``inlet``."""
    text = next(block.text for block in sections()[client] if block.language == language)
    return text if inlet is None else aimed(text, inlet)


def aimed(text: str, inlet: Target) -> str:
    """Replace the page's address by the server's, and the page's key by its key."""
    return text.replace("8000", str(inlet.port)).replace("INLET_KEY", inlet.key or "INLET_KEY")


def messages(records: int, start: int = 0) -> list[str]:
    """Return what a driver logs."""
    return [f"m-{number}{SUFFIX}" for number in range(start, start + records)]


def settings(records: int, pause_at: int = 0) -> dict[str, str]:
    """Return a driver's environment."""
    return {
        "RECORDS": str(records),
        "PAUSE_AT": str(pause_at),
        "SUFFIX": SUFFIX,
        "MEMBERS": json.dumps(MEMBERS),
        **programs.QUIET,
    }


def python_logger(client: str, inlet: Target, folder: Path) -> Program:
    """Return the recipe of a logger of Python, its driver behind it."""
    name = re.sub(r"\W", "_", client.lower())
    driver = (DRIVERS / f"{name}.py.in").read_text()
    (folder / "program.py").write_text(recipe(client, "python", inlet) + "\n\n" + driver)
    shutil.copy(ROOT / "examples/logging_handler.py", folder)
    return Program((sys.executable, "program.py"), folder, {})


def node_logger(client: str, inlet: Target, folder: Path) -> Program:
    """Return the recipe of a logger of Node, its driver behind it."""
    modules = programs.npm_packages(LOGGERS)
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(modules)
    driver = (DRIVERS / "node.js").read_text()
    (folder / "app.js").write_text(recipe(client, "js", inlet) + "\n" + driver)
    shutil.copy(ROOT / "examples/pino_transport.mjs", folder)
    shell = [block.text for block in sections()[client] if block.language == "sh"]
    if shell:
        return Program(("bash", "-o", "pipefail", "-c", aimed(shell[0], inlet)), folder, {})
    return Program(("node", "app.js"), folder, {})


def go_logger(client: str, inlet: Target, folder: Path) -> Program:
    """Return the recipe of zap or zerolog, built with the driver; built once for both and for every test."""
    source = programs.CACHE / "go-source"
    source.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "tests/clients/go").iterdir():
        shutil.copy(path, source)
    for block in (*sections()["zap"], *sections()["zerolog"]):
        (source / block.text.split()[1]).write_text(block.text)
    env = {"LOGGER": client, "INLET_URL": f"{inlet.url}/ingest/json", "INLET_KEY": inlet.key}
    return Program((str(programs.go_program(source, "go-loggers")),), folder, env)


LOGGERS_OF = {
    "python-json-logger": python_logger, "structlog": python_logger,
    "winston": node_logger, "pino": node_logger, "pino-http-send": node_logger,
    "zap": go_logger, "zerolog": go_logger,
}  # fmt: skip
"""Client -> what makes a program of its recipe."""


def logger_of(client: str, inlet: Target, folder: Path) -> Program:
    """Return the recipe of a logger as a program."""
    return LOGGERS_OF[client](client, inlet, folder)


def run(program: Program, records: int, **env: str) -> subprocess.CompletedProcess[str]:
    """Let a logger log so many records and end. ``FAILURE``: an error with its traceback besides."""
    everything: dict[str, Any] = {**program.env, **settings(records), **env}
    return run_client(program.words, cwd=program.cwd, **everything)


def run_through_outage(inlet: Inlet, program: Program, records: int, first: int) -> tuple[int, str]:
    """Let a logger log ``first`` records, kill the store, let it log the rest meanwhile, and end by itself.

    Returns its exit status and output.
    """
    output = program.cwd / "client.log"
    with open(output, "wb") as log:
        process = subprocess.Popen(
            program.words, cwd=program.cwd, env={**os.environ, **program.env, **settings(records, first)},
            stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(
            lambda: process.poll() is not None or inlet.count() >= first,
            f"the first records; the client: {output.read_text()}",
        )
        with outage(inlet):
            assert process.stdin is not None
            process.stdin.write(b"go on\n")
            process.stdin.close()
        status = process.wait(CLIENT_SECONDS)
    finally:
        process.kill()
        process.wait()
    return status, output.read_text()
