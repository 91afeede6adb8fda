"""Every recipe of docs/clients.md runs as it is printed, or is listed there with the reason why it cannot."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from tests.clients import programs
from tests.clients.recipes import LOGGERS_OF, PAGE, aimed, logger_of, messages, recipe, run, sections
from tests.clients.support import Inlet, Target, Tenant, agent, check_once, run_client
from tests.clients.test_syslog_ng import lines, shipper, texts
from tests.support import ROOT, wait_until

RECORDS = 3
SPOOL = "/var/spool/rsyslog/"
"""Where the page's rsyslog keeps files."""
LOG_PAID = f"""
for number in range({RECORDS}):
    logging.getLogger("shop").info("paid %d", number)
"""
Runner = Callable[[str, Target, Path], list[str]]
"""Runs the recipe of a client against a server, and returns the messages that must be stored."""


def run_logger(client: str, inlet: Target, folder: Path) -> list[str]:
    run(logger_of(client, inlet, folder), RECORDS)
    return messages(RECORDS)


def run_shell(client: str, inlet: Target, folder: Path) -> list[str]:
    run_client(("bash", "-e", "-c", recipe(client, "sh", inlet)), cwd=folder)
    return ["paid"]


def run_python(client: str, inlet: Target, folder: Path, behind: str = "") -> list[str]:
    """Run a program of Python with some lines behind it."""
    text = recipe(client, "python", inlet)
    for module in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the Python package of {module} is not installed here")
    (folder / "program.py").write_text(text + behind)
    run_client((sys.executable, "program.py"), cwd=folder)
    return [f"paid {number}" for number in range(RECORDS)]


def run_python_logging(client: str, inlet: Target, folder: Path) -> list[str]:
    return run_python(client, inlet, folder, LOG_PAID + "logging.shutdown()\n")


def run_otlp_python(client: str, inlet: Target, folder: Path) -> list[str]:
    return run_python(client, inlet, folder, LOG_PAID + "provider.shutdown()\n")


def run_elasticsearch(client: str, inlet: Target, folder: Path) -> list[str]:
    # Its packages of several versions can stand side by side under names with the version.
    installed = next((name for name in ("elasticsearch9", "elasticsearch8") if importlib.util.find_spec(name)), None)
    if installed is None:
        pytest.skip("the Python package of elasticsearch is not installed here")
    text = recipe(client, "python", inlet).replace("from elasticsearch", f"from {installed}")
    (folder / "program.py").write_text(text)
    run_client((sys.executable, "program.py"), cwd=folder)
    return [f"paid {number}" for number in range(RECORDS)]


def run_cloudevents(client: str, inlet: Target, folder: Path) -> list[str]:
    run_python(client, inlet, folder)
    return ['{"amount":12.5}']


def run_node(client: str, inlet: Target, folder: Path, modules: Path, behind: str) -> None:
    (folder / "node_modules").symlink_to(programs.npm_packages(modules))
    (folder / "app.js").write_text(recipe(client, "js", inlet) + behind)
    quiet: dict[str, Any] = dict(programs.QUIET)
    run_client(("node", "app.js"), cwd=folder, **quiet)


def run_otlp_node(client: str, inlet: Target, folder: Path) -> list[str]:
    behind = f"""
for (let number = 0; number < {RECORDS}; number++) logger.emit({{ body: `paid ${{number}}`, severityText: 'INFO' }});
provider.shutdown();
"""
    run_node(client, inlet, folder, ROOT / "tests/clients/node/otlp", behind)
    return [f"paid {number}" for number in range(RECORDS)]


def run_pino_loki(client: str, inlet: Target, folder: Path) -> list[str]:
    behind = f"\nfor (let number = 0; number < {RECORDS}; number++) logger.info(`paid ${{number}}`);\n"
    run_node(client, inlet, folder, ROOT / "tests/clients/node/loki", behind)
    inlet.wait_for(RECORDS)
    found = [record.message for record in inlet.records()]
    assert [json.loads(message)["msg"] for message in found] == [f"paid {number}" for number in range(RECORDS)]
    return found


def run_syslog_ng(client: str, inlet: Target, folder: Path) -> list[str]:
    with shipper(inlet, folder) as connection:
        connection.sendall(lines(range(RECORDS)))
        inlet.wait_for(RECORDS)
    return texts(RECORDS)


def run_rsyslog(client: str, inlet: Target, folder: Path) -> list[str]:
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
    if program is None or not list(Path("/usr/lib").glob("*/rsyslog/omelasticsearch.so")):
        pytest.skip("rsyslog and its omelasticsearch are not installed here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    configuration = folder / "rsyslog.conf"
    own = f'global(workDirectory="{folder}")\n'
    configuration.write_text(
        own + recipe(client, "conf", inlet).replace("5514", str(port)).replace(SPOOL, f"{folder}/")
    )
    log = folder / "rsyslog.log"
    with agent((program, "-n", "-f", str(configuration), "-i", str(folder / "pid")), cwd=folder, log=log) as process:

        def connected() -> socket.socket | None:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), 5)
            return None

        with wait_until(connected, "rsyslog listens") as connection:
            for number in range(RECORDS):
                connection.sendall(f"<134>Jan 31 23:59:59 web-1 checkout: paid {number}\n".encode())
            inlet.wait_for(RECORDS)
    return [f"paid {number}" for number in range(RECORDS)]


RUN: dict[str, Runner] = {
    **dict.fromkeys(LOGGERS_OF, run_logger),
    "curl": run_shell,
    "syslog-ng": run_syslog_ng,
    "rsyslog": run_rsyslog,
    "OpenTelemetry for Python": run_otlp_python,
    "OpenTelemetry for Node": run_otlp_node,
    "elasticsearch (Python)": run_elasticsearch,
    "splunk-handler (Python)": run_python_logging,
    "Docker, GELF's log driver": run_shell,
    "datadog-api-client (Python)": run_python,
    "python-logging-loki": run_python_logging,
    "pino-loki": run_pino_loki,
    "CloudEvents (Python)": run_cloudevents,
}
"""Client -> what runs its recipe."""
WITHOUT_RECIPE = {"logging.handlers.HTTPHandler"}
"""Clients that do not work, which the page says."""


def cannot_run() -> set[str]:
    """The clients that the page lists as not run."""
    table = PAGE.read_text().partition("## Recipes that CI does not run")[2]
    return {name for name in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) if name not in ("client", "---")}


def test_every_client_of_the_page_is_run_or_listed_as_not_run() -> None:
    assert sections().keys() == {*RUN, *cannot_run(), *WITHOUT_RECIPE}
    assert not RUN.keys() & cannot_run()


@pytest.fixture(scope="module")
def tenants() -> Iterator[dict[str, Tenant]]:
    """A key, and a stream, for each client."""
    with Inlet(tenants=tuple(RUN)) as inlet:
        yield inlet.tenants


@pytest.mark.parametrize("client", RUN)
def test_a_recipe_runs_as_it_is_printed(client: str, tenants: dict[str, Tenant], tmp_path: Path) -> None:
    wanted = RUN[client](client, tenants[client], tmp_path)
    records = tenants[client].wait_for(len(wanted))
    check_once([record.message for record in records], wanted)


@pytest.mark.parametrize("client", sorted(sections()))
def test_a_recipe_names_the_key_and_is_short(client: str) -> None:
    for block in sections()[client]:
        if block.language != "go":
            assert len([line for line in block.text.splitlines() if line.strip()]) <= 20
    if client not in WITHOUT_RECIPE | {"zap", "zerolog", "GitHub webhooks"}:
        assert any("INLET_KEY" in block.text for block in sections()[client])


@pytest.mark.parametrize("client", ["Vector", "Filebeat", "Datadog agent", "Promtail", "OpenTelemetry Collector"])
def test_a_recipe_that_cannot_run_is_at_least_valid_yaml(client: str) -> None:
    assert isinstance(yaml.safe_load(recipe(client, "yaml")), dict)


def test_a_recipe_that_cannot_run_is_at_least_valid_json() -> None:
    assert isinstance(json.loads(recipe("Docker, Splunk's log driver", "json")), dict)


def test_each_recipe_has_the_page_s_address(tenants: dict[str, Tenant]) -> None:
    tenant = tenants["curl"]
    for blocks in sections().values():
        for block in blocks:
            assert "8000" not in aimed(block.text, tenant).replace(str(tenant.port), "")
