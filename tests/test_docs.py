"""The docs are true: examples run, tables match the code. ``python -m tests.test_docs`` writes the settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, ROOT, Server, stored_lines
from wsgi.problems import PROBLEMS, SERVER_REASONS
from wsgi.settings import Settings
from wsgi.variables import env_name

DOCS = ROOT / "docs"
BEGIN, END = "<!-- settings: written by tests/test_docs.py -->", "<!-- end of settings -->"


def settings_section() -> str:
    """The settings of docs/operations.md, from their definitions."""
    parts = [BEGIN]
    for field, info in Settings.model_fields.items():
        text = " ".join((info.description or "").split())
        what, default, consequence, unsure = re.fullmatch(  # type: ignore[union-attr]  # a miss is a failure
            r"(.+?) (Default: .+?) (Consequence: .+?) (If unsure: .+)", text
        ).groups()
        bounds = " to ".join(
            f"{value:,}"
            for name in ("ge", "le")
            for value in [next((getattr(bound, name) for bound in info.metadata if hasattr(bound, name)), None)]
            if value is not None
        )
        parts.append(f"### `{env_name(field)}`\n\n{what}{f' From {bounds}.' if bounds else ''}\n")
        parts.append(f"- {default}\n- {consequence}\n- {unsure}\n")
    return "\n".join([*parts, END])


def operations() -> str:
    return (DOCS / "operations.md").read_text()


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_operations_lists_every_setting_as_it_is_defined() -> None:
    found = operations()
    section = found[found.index(BEGIN) : found.index(END) + len(END)]
    assert section == settings_section(), "run: python -m tests.test_docs"


def test_the_error_table_of_the_protocol_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \| (yes|no) \|", (DOCS / "protocol.md").read_text(), re.MULTILINE)
    assert sorted((int(status), reason, retry == "yes") for status, reason, retry in rows) == sorted(
        (problem.status, reason, problem.retryable) for reason, problem in PROBLEMS.items()
    )
    assert all(PROBLEMS[reason].status == status for status, reason in SERVER_REASONS.items())


def test_operations_has_every_metric() -> None:
    program = "from wsgi import metrics; print(metrics.exposition().decode())"
    text = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name for name in re.findall(r"^# HELP (\S+)", text, re.MULTILINE) if not name.endswith("_created")}
    assert names
    assert names == set(re.findall(r"^\| `(inlet_\w+)`", operations(), re.MULTILINE))


def test_the_curl_lines_of_the_readme_work(serve: Serve, client: Any) -> None:
    server = serve("--workers", "1")
    readme = (ROOT / "README.md").read_text()
    single, *more = [block for block in fenced(readme, "sh") + re.findall(r"```sh\n(  .*?)```", readme, re.DOTALL)
                     if "curl " in block]  # fmt: skip
    assert run_shell(single, server).endswith('\r\n\r\n{"status":"queued"}')
    answer = json.loads(run_shell(more[0], server))
    assert (answer["accepted"], answer["rejected"]) == (1, 1)


def run_shell(block: str, server: Server) -> str:
    """Run a block of the README against this server."""
    program = block.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-c", program], capture_output=True, timeout=DEADLINE_SECONDS, check=True)
    return done.stdout.decode()


def test_the_python_consumer_of_the_protocol_reads_splits_and_acks(serve: Serve, tmp_path: Path) -> None:
    import httpx
    import redis

    server = serve("--workers", "1", INLET_DATA_DIR=str(tmp_path / "data"))
    lines = [
        json.dumps({"event_id": f"e-{n}", "timestamp": "2026-01-31T23:59:59Z", "service": "s", "message": f"m{n}"})
        for n in range(3)
    ]
    for body in ("\n".join(lines[:2]), lines[2]):
        headers = {"Content-Type": "application/x-ndjson"}
        assert httpx.post(server.url + "/ingest", content=body, headers=headers, timeout=30).status_code == 202
    (program,) = fenced((DOCS / "protocol.md").read_text(), "python")
    assert len([line for line in program.splitlines() if line]) <= 12
    done = subprocess.run(
        [sys.executable, "-c", program.replace("block=5000", "block=100")],
        cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["e-0 s m0", "e-1 s m1", "e-2 s m2"]
    with redis.Redis(unix_socket_path=str(tmp_path / "data" / "valkey.sock")) as client:
        assert client.xpending("logs", "readers")["pending"] == 0
        assert len(stored_lines(client, "logs")) == 3


@pytest.mark.parametrize("path", sorted([*DOCS.glob("*.md"), ROOT / "README.md"]), ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


if __name__ == "__main__":
    page = operations()
    before, after = page[: page.index(BEGIN)], page[page.index(END) + len(END) :]
    (DOCS / "operations.md").write_text(before + settings_section() + after)
