"""``python -m bench``: peers, compare, report, memory. What lives here: the command line, nothing else."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

from bench import compare, headline, memory, peers, plan, report
from bench.peers import PEERS

RESULTS = peers.ROOT / "bench" / "results"


def _names(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description="Inlet's benchmark; see bench/README.md")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("peers", help="build the peers (needs go, cargo, and their registries)")
    one = commands.add_parser("compare", help="measure peers against each other, interleaved")
    one.add_argument("--quick", action="store_true", help="a short run, to see what has become slower")
    one.add_argument("--plan", action="store_true", help="print the plan and its expected time, and stop")
    one.add_argument("--seconds", type=int, help="of each measured run")
    one.add_argument("--rounds", type=int)
    one.add_argument("--minutes", type=float, help="start no round that would end later")
    one.add_argument("--json", type=Path, help="file for the result")
    one.add_argument("--peers", type=_names, help="a list; default: those of the plan that are built")
    one.add_argument("--loads", type=_names, help="a list: names of loads, or how planned ones' names start")
    one.add_argument("--rate", type=float, help="of the open loop; default: half of go_goredis")
    one.add_argument("--mixed-rate", type=float, help="small requests a second")
    two = commands.add_parser("report", help="tables (Markdown) and pictures (SVG) of a result")
    two.add_argument("json", type=Path)
    two.add_argument("--into", type=Path, help=f"a page to put the headline into, between {headline.BEGIN} and its end")
    three = commands.add_parser("memory", help="Inlet's memory over a million varied requests, some of them refused")
    three.add_argument("--requests", type=int, default=memory.REQUESTS)
    three.add_argument("--connections", type=int, default=64)
    three.add_argument("--seconds", type=int, default=memory.STEP_SECONDS, help="of load between two readings")
    three.add_argument("--json", type=Path, default=RESULTS / "memory.json")
    return top


def _options(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> plan.Options:
    """Return what to run; ends with a message if a word names nothing."""
    base = plan.quick() if arguments.quick else plan.Options()
    given = {name: getattr(arguments, name) for name in vars(base)}
    options = replace(base, **{name: value for name, value in given.items() if value is not None})
    known = (*PEERS, plan.XADD_BOUND)
    unknown = [name for name in options.peers if name not in known]
    if unknown:
        top.error(f"unknown: {', '.join(unknown)}; peers are {', '.join(known)}")
    unbuilt = [name for name in options.peers if name in PEERS and not PEERS[name].is_built()]
    if unbuilt:
        top.error(f"not built: {', '.join(unbuilt)}; run `python -m bench peers`")
    try:
        plan.selected(options.loads)
    except ValueError as error:
        top.error(f"unknown load: {error}; loads are {', '.join(load.name for load, _ in plan.PLAN)}, and their like")
    return options


def _compare(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> int:
    options = _options(arguments, top)
    print("\n".join(plan.described(options)), flush=True)
    if not arguments.plan:
        # A quick run's figures are not kept, so that they never replace those of a whole run.
        path = arguments.json or (peers.BUILD / "quick" if arguments.quick else RESULTS) / "compare.json"
        document = compare.compare(options, path)
        for written in report.write(document, path):
            print(written)
    return 0


def _report(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> int:
    document = json.loads(arguments.json.read_text())
    write = memory.write if "readings" in document else report.write
    for path in write(document, arguments.json):
        print(path)
    if arguments.into:
        try:
            headline.insert(document, arguments.json.parent, arguments.into)
        except ValueError as error:
            top.error(str(error))
    return 0


def main(words: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    top = parser()
    arguments = top.parse_args(words)
    if arguments.command == "peers":
        failed = peers.build()
        print(f"not built: {', '.join(failed)}" if failed else "all peers are built")
        return 1 if failed else 0
    if arguments.command == "compare":
        return _compare(arguments, top)
    if arguments.command == "report":
        return _report(arguments, top)
    return memory.run(arguments.requests, arguments.connections, arguments.seconds, arguments.json)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # ends peers and store on the way out, as Ctrl-C does
    sys.exit(main())
