"""The headline of a result: one picture, one short table, and what they do not say, for the README.

What lives here: ``varied.svg``, ``varied.md``, and putting the latter between two marks of a page. What must not: the
whole report (``bench.report``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench import machine, picture
from bench.figures import OURS, P99, RECORDS, RPS, Run, cell, faults, of, peers, shown
from bench.peers import BULK, OPEN, PEERS, SINGLE
from bench.plan import Load

FIRST = Load(SINGLE, 64).name
"""The load that orders the table and decides who is in it."""
BEGIN, END = "<!-- headline: python -m bench report -->", "<!-- /headline -->"
LIMITS = (
    "The load generator, the service and the store share the machine's cores, over loopback and without TLS. CPU per "
    "request carries over to another machine; rates do not.",
    "Rates are those of a saturated server. For what a producer waits at an ordinary load, see the open loop.",
    "The other services store the bytes they received and check less of a record. Inlet, and granian, which runs "
    "Inlet's application, check every member and write each record anew.",
    "The store is empty, on the same machine, and syncs its file every second. Nothing here is about a slow disk, a "
    "full store, or a failover.",
    "The Python services depend on how CPython was built (5 to 15% between builds on this machine); the Go and Rust "
    "services do not.",
)
"""What the figures do not say."""


def _columns() -> tuple[tuple[str, str, str, str, float], ...]:
    """Heading, load, metric, format, factor."""
    singles = [(f"{n} connections", Load(SINGLE, n).name, RPS, "{:,.0f}", 1.0) for n in (4, 16, 64, 256)]
    return (
        *singles,
        ("CPU us/request at 64", FIRST, "cpu_us_per_request", "{:.1f}", 1.0),
        ("bulks of 100, records/s", Load(BULK, 16).name, RECORDS, "{:,.0f}", 1.0),
        ("p99 ms, open loop", Load(OPEN, 64).name, P99, "{:.2f}", 1e-3),
    )


def names(runs: list[Run]) -> list[str]:
    """Return the peers of the headline, fastest first: those that store what they answer, and one row of Inlet."""
    return [
        name
        for name in peers(runs, FIRST)
        if name in PEERS and PEERS[name].stores and not name.startswith(f"{OURS}_")
        if not faults(of(runs, FIRST, name))
    ]


def table(runs: list[Run]) -> list[str]:
    """Return the short table, as lines of Markdown: requests/s by connections, and the three other figures."""
    columns = [column for column in _columns() if of(runs, column[1], OURS)]
    lines = [
        f"| | {' | '.join(heading for heading, *_ in columns)} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for name in names(runs):
        cells = (cell(shown(runs, load, name, metric), form, factor) for _, load, metric, form, factor in columns)
        bold = "**" if name == OURS else ""
        lines.append(f"| {bold}{name}{bold} | {' | '.join(cells)} |")
    return lines


def origin(document: dict[str, Any]) -> str:
    """Return where, when and on what the result was measured, as one sentence without its full stop."""
    box, options = document["machine"], document["options"]
    rounds = len({run["round"] for run in document["runs"]})
    return (
        f"{document['date'][:10]}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores, "
        f"{box['memory_mb']} MB, Linux {box['kernel']}{machine.interpreter(document)}; "
        f"medians of {rounds} round{'' if rounds == 1 else 's'} of {options['seconds']} s"
    )


def block(document: dict[str, Any], folder: str = "") -> str:
    """Return the picture, the table and what they do not say, as Markdown; ``folder`` is where the picture is."""
    limits = "\n".join(f"- {line}" for line in LIMITS)
    return (
        f"![Requests per second on varied records, by service]({folder}varied.svg)\n\n"
        "One record a request, no two alike, answered once the store has replied: requests/s by the number of "
        "connections. Bulks are over 16 connections; the open loop is at half of what go_goredis can answer.\n\n"
        + "\n".join(table(document["runs"]))
        + f"\n\n{origin(document)}.\n\nWhat these figures do not say:\n\n{limits}\n"
    )


def _built(box: dict[str, Any]) -> str:
    build = str(box.get("python_build", ""))
    return f"built {build}" if build else "(build unknown)"


def drawing(document: dict[str, Any]) -> str:
    """Return the picture as SVG."""
    runs = document["runs"]
    charts = []
    for load in (Load(SINGLE, 64), Load(SINGLE, 256)):
        found = [(name, shown(runs, load.name, name, RPS)) for name in names(runs)]
        bars = sorted(((name, value) for name, value in found if value is not None), key=lambda bar: -bar[1])
        if bars:
            charts.append(picture.Chart(f"Requests/s, varied records, {load.connections} connections", bars))
    box = document["machine"]
    notes = (
        f"{document['date'][:10]}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores, which the load "
        "generator and the store share.",
        f"Python {document['versions']['python']} {_built(box)}. Rates of a saturated server, not waits.",
    )
    return picture.svg(charts, {OURS}, notes)


def write(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write the picture and the table into a folder; their paths. Nothing where the load was not run on Inlet."""
    if OURS not in names(document["runs"]):
        return []
    folder.joinpath("varied.svg").write_text(drawing(document))
    folder.joinpath("varied.md").write_text(block(document))
    return [folder / "varied.md", folder / "varied.svg"]


def insert(document: dict[str, Any], folder: Path, page: Path) -> None:
    """Put the headline between the marks BEGIN and END of a page; ValueError if it has none."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the headline: {BEGIN} ... {END}")
    where = os.path.relpath(folder, page.parent)
    inner = block(document, "" if where == "." else f"{where}/")
    page.write_text(f"{before}{begin}\n{inner}{end}{after}")
