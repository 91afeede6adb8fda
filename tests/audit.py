"""pip-audit over what a deployment installs; ``python -m tests.audit``, part of ``make lint``.

What lives here: which packages are audited, and what pip-audit's answer means. What must not: other checks.

pip-audit exits with 1 for a vulnerability and for a database that it cannot reach, and with 0 where its index has no
data on any package. Each of these is something else here: a vulnerability fails, a database out of reach is reported
and passes, and so does an index without data.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

PIP_AUDIT = (sys.executable, "-m", "pip_audit")
AUDIT_SECONDS_MAX = 300
"""Seconds for all packages: one request each."""
NOT_REACHED = re.compile(r"requests\.exceptions\.|Could not connect|ServiceError|ConnectionError")
"""In the last lines of a pip-audit that found no database."""
DETAIL_LINES = 3
"""Lines of an unknown failure that are printed."""


def installed(requirements: str) -> list[str]:
    """Return ``name==version`` of every package that these requirements lead to, as installed here."""
    found: dict[str, str] = {}
    todo = [Requirement(line) for line in requirements.splitlines() if line and not line.startswith("#")]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        todo += map(Requirement, distribution.requires or ())
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def audit(packages: Sequence[str], program: Sequence[str] = PIP_AUDIT) -> tuple[int, str]:
    """Run pip-audit on exactly these packages; return the exit status to end with, and one line or more."""
    with tempfile.NamedTemporaryFile("w", prefix="inlet-audit-", suffix=".txt") as file:
        file.write("\n".join(packages))
        file.flush()
        words = [*program, "--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json",
                 "--progress-spinner", "off"]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=AUDIT_SECONDS_MAX, check=False)
        except subprocess.TimeoutExpired:
            return 0, f"pip-audit: no answer in {AUDIT_SECONDS_MAX} s; nothing was checked"
    try:
        rows: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if NOT_REACHED.search(done.stderr):
            return 0, "pip-audit: its database cannot be reached from here; nothing was checked"
        last = " / ".join(done.stderr.strip().splitlines()[-DETAIL_LINES:])
        return 1, f"pip-audit failed with status {done.returncode}: {last}"
    return verdict(rows, len(packages))


def verdict(rows: list[dict[str, Any]], packages: int) -> tuple[int, str]:
    """Judge pip-audit's report: its dependencies, each with ``vulns`` or a ``skip_reason``."""
    vulnerable = [
        f"{row['name']} {row['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'no version'}"
        for row in rows
        for vuln in row.get("vulns", ())
    ]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    if vulnerable:
        return 1, "\n".join(["pip-audit: known vulnerabilities", *vulnerable])
    if rows and len(skipped) == len(rows):
        return 0, "pip-audit: the index that is reached from here has no data on vulnerabilities; nothing was checked"
    if skipped or len(rows) < packages:
        return 1, f"pip-audit: could not check {', '.join(skipped) or 'every package'}"
    return 0, f"pip-audit: {len(rows)} packages, no known vulnerability"


def main() -> int:
    """Audit the packages of requirements.txt and all that they need."""
    status, text = audit(installed((ROOT / "requirements.txt").read_text()))
    print(text, file=sys.stderr if status else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main())
