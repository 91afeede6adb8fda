"""``python -m bench``: peers, compare, report, memory. What lives here: the command line, nothing else."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from bench import compare, memory, peers, report
from bench.peers import BULK, MIXED, OPEN, PEERS, SINGLE

RESULTS = peers.ROOT / "bench" / "results"
KINDS = (SINGLE, BULK, OPEN, MIXED)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description="Inlet's benchmark; see bench/README.md")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("peers", help="build the peers (needs go, cargo, and their registries)")
    one = commands.add_parser("compare", help="measure peers against each other, interleaved")
    one.add_argument("--seconds", type=int, default=5, help="of each measured run")
    one.add_argument("--connections", type=_numbers, default=(16, 64, 256), help="of single records, a list")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--json", type=Path, default=RESULTS / "compare.json", help="file for the result")
    one.add_argument("--peers", type=_names, default=(), help="a list; default: all that are built")
    one.add_argument("--loads", type=_names, default=KINDS, help=f"of {','.join(KINDS)}")
    one.add_argument("--rate", type=float, default=0.0, help="of the open loop; default: half of go_goredis")
    one.add_argument("--mixed-rate", type=float, default=compare.MIXED_RATE, help="small requests a second")
    two = commands.add_parser("report", help="tables (Markdown) and a picture (SVG) of a result")
    two.add_argument("json", type=Path)
    three = commands.add_parser("memory", help="Inlet's memory over a million requests")
    three.add_argument("--requests", type=int, default=memory.REQUESTS)
    three.add_argument("--connections", type=int, default=64)
    three.add_argument("--seconds", type=int, default=memory.STEP_SECONDS, help="of load between two readings")
    three.add_argument("--json", type=Path, default=RESULTS / "memory.json")
    return top


def _compare(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> int:
    known = (*PEERS, compare.XADD_BOUND)
    chosen = arguments.peers or tuple(name for name in known if name not in PEERS or PEERS[name].is_built())
    unknown = [name for name in chosen if name not in known] + [kind for kind in arguments.loads if kind not in KINDS]
    unbuilt = [name for name in chosen if name in PEERS and not PEERS[name].is_built()]
    if unknown:
        top.error(f"unknown: {', '.join(unknown)}; peers are {', '.join(known)}; loads {', '.join(KINDS)}")
    if unbuilt:
        top.error(f"not built: {', '.join(unbuilt)}; run `python -m bench peers`")
    options = compare.Options(
        arguments.seconds,
        arguments.connections,
        arguments.rounds,
        chosen,
        arguments.loads,
        arguments.rate,
        arguments.mixed_rate,
    )
    document = compare.compare(options, arguments.json)
    report.write(document, arguments.json)
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
        document = json.loads(arguments.json.read_text())
        write = memory.write if "readings" in document else report.write
        for path in write(document, arguments.json):
            print(path)
        return 0
    return memory.run(arguments.requests, arguments.connections, arguments.seconds, arguments.json)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # ends peers and store on the way out, as Ctrl-C does
    sys.exit(main())
