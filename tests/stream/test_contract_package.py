"""inlet.stream as the server sees it: importing it loads neither the consumer library nor the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from tests.support import ROOT

MODULES = sorted(f"inlet.stream.{path.stem}" for path in (ROOT / "inlet/stream").glob("[!_]*.py"))


def test_every_module_of_the_contract_loads_without_a_reader() -> None:
    script = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    script += "print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", script, *MODULES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(shown.stdout)
    assert set(MODULES) <= set(loaded)
    assert [name for name in loaded if name.startswith(("inlet.consumer", "inlet.command", "wsgi"))] == []


@pytest.mark.parametrize("name", ["keys", "entry", "place", "retention", "errors", "record"])
def test_a_pure_module_of_the_contract_loads_no_redis_client(name: str) -> None:
    script = f"import sys, inlet.stream.{name}; print('redis' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_the_fields_of_an_entry_are_those_of_the_protocol() -> None:
    assert (FIELD_RECORDS, FIELD_COUNT) == (b"r", b"n")
