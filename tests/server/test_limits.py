"""Limits: bounded, explained, and refused where they contradict each other. And the server speaks of no application."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from wsgi.server import limits as module
from wsgi.server.limits import LIMIT_MAX, Limits
from wsgi.server.worker import PhasedWorker

FOLDER = Path(module.__file__).parent


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_a_limit_has_bounds(name: str) -> None:
    for value in (-1, LIMIT_MAX + 1, float("nan"), "1", None, True):
        wrong: Any = {name: value}
        with pytest.raises(ValueError, match=name):
            replace(Limits(), **wrong)


def test_each_limit_says_unit_and_consequence() -> None:
    (body,) = (
        node.body for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.ClassDef)
    )
    for at, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            text = body[at + 1]
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            assert re.match(r"(Bytes|Seconds|Connections)\b", str(text.value.value)), ast.unparse(node)


def test_limits_that_contradict_each_other_are_refused() -> None:
    assert Limits(payload_bytes_max=1_000, held_bytes_max=1_000).held_bytes_max == 1_000
    with pytest.raises(ValueError, match="held_bytes_max=999"):
        Limits(payload_bytes_max=1_000, held_bytes_max=999)


def test_configure_sets_what_it_is_given() -> None:
    class Configured(PhasedWorker):
        """A class of its own, so that no other is changed."""

    given = Limits(head_seconds=3)
    Configured.configure(limits=given)
    Configured.configure(refuse=lambda status, detail, environ: ("400 Bad Request", [], b""))
    assert Configured.limits is given
    assert Configured.refuse(400, "", {}) == ("400 Bad Request", [], b"")
    assert PhasedWorker.limits == Limits()


def test_the_server_speaks_of_no_application() -> None:
    words = re.compile(r"inlet|redis|valkey|falcon|\brecords?\b|problem document", re.IGNORECASE)
    for path in FOLDER.glob("*.py"):
        assert not words.search(path.read_text()), path.name
        assert len(path.read_text().splitlines()) <= 400


def test_no_module_of_the_server_imports_itself_through_others() -> None:
    graph = {
        path.stem: set(re.findall(r"from wsgi\.server\.(\w+) import", path.read_text())) for path in FOLDER.glob("*.py")
    }
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
