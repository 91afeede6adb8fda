"""tests.audit tells a vulnerability from a database out of reach, and bandit's exceptions have reasons.

pip-audit's answers are recorded: of version 2.10.1, with a reachable database, an index without data, and no network.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import audit
from tests.support import ROOT

CLEAN: dict[str, Any] = {"name": "falcon", "version": "4.4.0", "vulns": []}
BAD: dict[str, Any] = {
    "name": "gunicorn", "version": "19.9.0",
    "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["22.0.0"], "aliases": [], "description": "d"},
              {"id": "CVE-2024-2", "fix_versions": [], "aliases": [], "description": "d"}],
}  # fmt: skip
SKIPPED = {"name": "redis", "skip_reason": "Dependency not found on PyPI and could not be audited: redis (8.1.0)"}
NO_NETWORK = (
    "Traceback (most recent call last):\n  File \"x\", line 1\nrequests.exceptions.ConnectionError: HTTPSConnectionPool"
    "(host='index.example', port=443): Max retries exceeded with url: /falcon/4.4.0/json\n"
)
Answering = Callable[..., tuple[int, str]]


@pytest.fixture
def answering(tmp_path: Path) -> Answering:
    """Run the audit over a program that answers like this."""

    def run(rows: Any = None, *, status: int, stderr: str = "", packages: int | None = None) -> tuple[int, str]:
        out = "" if rows is None else json.dumps({"dependencies": rows, "fixes": []})
        program = tmp_path / "pip_audit.py"
        program.write_text(
            f"import sys\nsys.stdout.write({out!r})\nsys.stderr.write({stderr!r})\nsys.exit({status})\n"
        )
        names = ["a==1"] * (len(rows or ()) if packages is None else packages)
        return audit.audit(names, [sys.executable, str(program)])

    return run


def test_no_vulnerability_passes(answering: Answering) -> None:
    assert answering([CLEAN, CLEAN], status=0) == (0, "pip-audit: 2 packages, no known vulnerability")


def test_a_vulnerability_fails_and_is_named(answering: Answering) -> None:
    status, text = answering([CLEAN, BAD], status=1, stderr="Found 2 known vulnerabilities in 1 package")
    assert status == 1
    assert text.splitlines()[1:] == [
        "gunicorn 19.9.0: PYSEC-2024-1, fixed in 22.0.0", "gunicorn 19.9.0: CVE-2024-2, fixed in no version",
    ]  # fmt: skip
    # Also where nothing could be said of others.
    assert answering([SKIPPED, BAD], status=1)[0] == 1


def test_a_database_out_of_reach_passes_and_says_so(answering: Answering) -> None:
    status, text = answering(status=1, stderr=NO_NETWORK)
    assert (status, text) == (0, "pip-audit: its database cannot be reached from here; nothing was checked")


def test_an_index_without_data_passes_and_says_so(answering: Answering) -> None:
    """Regression: pip-audit itself says "No known vulnerabilities found" then, and exits with 0."""
    status, text = answering([SKIPPED, SKIPPED], status=0, stderr="No known vulnerabilities found")
    assert status == 0
    assert text.endswith("nothing was checked")


def test_a_package_that_alone_cannot_be_checked_fails(answering: Answering) -> None:
    assert answering([CLEAN, SKIPPED], status=0) == (1, "pip-audit: could not check redis")
    assert answering([CLEAN], status=0, packages=2) == (1, "pip-audit: could not check every package")


@pytest.mark.parametrize("stderr", ["ERROR: requirement file is invalid", "No module named pip_audit", ""])
def test_any_other_failure_fails(answering: Answering, stderr: str) -> None:
    status, text = answering(status=1, stderr=stderr)
    assert (status, stderr in text) == (1, True)


def test_the_real_program_without_a_network_passes_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    status, text = audit.audit(["falcon==4.4.0"])
    assert (status, text) == (0, "pip-audit: its database cannot be reached from here; nothing was checked")


def test_all_that_a_deployment_installs_is_audited() -> None:
    packages = audit.installed((ROOT / "requirements.txt").read_text())
    names = [package.partition("==")[0] for package in packages]
    assert {"gunicorn", "annotated-types", "pydantic-core", "redis"} <= set(names)
    assert not {"pytest", "mypy", "cryptography"} & set(names)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line.replace("_", "-") in packages, f"{line} is not what is installed"


def test_bandit_finds_nothing_and_a_weakness_would_show(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bandit", "-q", "-c", str(ROOT / "pyproject.toml"), "-r"]
    done = subprocess.run(
        [*words, "app.py", "gunicorn.conf.py", "inlet", "wsgi"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "weak.py").write_text("import hashlib, subprocess\nsubprocess.run('x', shell=True)\nhashlib.md5(b'')\n")
    assert subprocess.run([*words, str(tmp_path)], capture_output=True, check=False).returncode == 1


def test_every_exception_for_bandit_has_a_reason() -> None:
    paths = [*ROOT.glob("*.py"), *(ROOT / "inlet").rglob("*.py"), *(ROOT / "wsgi").rglob("*.py")]
    found = [line for path in paths for line in path.read_text().splitlines() if re.search(r"#.*\bnosec\b", line)]
    assert found
    for line in found:
        assert re.search(r"  # nosec B\d{3}  # \w+", line), line
    text = (ROOT / "pyproject.toml").read_text()
    skips = tomllib.loads(text)["tool"]["bandit"]["skips"]
    for skip in skips:
        assert re.search(rf'"{skip}",  # \w+', text), skip
    assert len(skips) <= 2
