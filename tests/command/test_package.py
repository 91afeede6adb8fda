"""The package that people install: what is in the wheel, and that it works where the checkout is not on the path."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "app.py", "gunicorn.conf.py", "inlet", "wsgi", "tests", "bench")
"""All that lies beside the package in a checkout, so that a wheel that takes too much shows."""
SETUPTOOLS_MIN = (77, 0)
"""Oldest setuptools that builds the project (pyproject.toml); an older one is replaced by pip, over the network."""


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INLET_", "PYTHON"))}
    result = subprocess.run(
        words, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=110, check=False
    )
    assert result.returncode == 0, result.stderr or result.stdout
    return result


def builds_here() -> bool:
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= SETUPTOOLS_MIN


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` makes, built in a copy: setuptools leaves files where it builds."""
    directory = tmp_path_factory.mktemp("package")
    checkout = directory / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "build", "target")
            )
        else:
            shutil.copy(ROOT / name, checkout)
    isolation = ["--no-build-isolation"] if builds_here() else []
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", *isolation)
    run(*pip, "--wheel-dir", str(directory), ".", cwd=checkout)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the wheel was installed into, without the checkout on the path."""
    prefix = tmp_path_factory.mktemp("prefix")
    words = ("install", "--no-deps", "--no-index", "--ignore-installed", "--prefix", str(prefix), str(wheel))
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *words, cwd=prefix)
    return prefix


def site_packages(prefix: Path) -> Path:
    [found] = prefix.glob("lib/python*/site-packages")
    return found


def test_the_wheel_holds_every_module_of_inlet_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [entry_points] = [archive.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "inlet").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == {*modules, "inlet/py.typed"}
    assert entry_points.split() == ["[console_scripts]", "inlet", "=", "inlet.command.main:main"]


def test_the_installed_command_runs_without_the_checkout(installed: Path) -> None:
    help_text = run(str(installed / "bin/inlet"), "--help", cwd=installed, PYTHONPATH=str(site_packages(installed)))
    assert help_text.stdout.startswith("usage: inlet ")


def test_the_installed_library_imports_without_the_checkout(installed: Path) -> None:
    script = "import inlet; from inlet import AsyncReader, Reader; print(inlet.__file__)"
    shown = run(sys.executable, "-c", script, cwd=installed, PYTHONPATH=str(site_packages(installed)))
    assert Path(shown.stdout.strip()) == site_packages(installed) / "inlet/__init__.py"


def test_an_install_adds_one_name_to_import(installed: Path) -> None:
    names = {path.name for path in site_packages(installed).iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"inlet"}


def test_the_package_requires_what_it_imports_and_the_server_is_tested_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    for requirement in project["dependencies"]:
        name, _, oldest = requirement.partition(">=")
        assert tuple(map(int, oldest.split("."))) <= tuple(map(int, pinned[name].split(".")[:3])), name
