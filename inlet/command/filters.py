"""Filters of records: ``--service``, ``--text`` and ``--where``.

What lives here: the options and what they mean. What must not: reading, printing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from inlet.command import common, output
from inlet.stream.record import Record

Keep = Callable[[Record], bool]


def filter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select records."""
    parser.add_argument(
        "--service", action="append", default=[], metavar="NAME", help="only this service; may be repeated"
    )
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="only messages that contain this")
    parser.add_argument(
        "--where", action="append", default=[], metavar="PATH=VALUE",
        help="only where a member has the value: service=..., metadata.region=...; PATH alone: where it exists",
    )  # fmt: skip


def filters(arguments: argparse.Namespace) -> Keep:
    """Return the test that all filters make together; one of several ``--service`` is enough. Raises Usage."""
    services = frozenset(arguments.service)
    texts = [text.casefold() for text in arguments.text]
    paths = [_path(condition) for condition in arguments.where]

    def keep(record: Record) -> bool:
        if services and record.service not in services:
            return False
        if texts:
            message = record.message.casefold()
            if not all(text in message for text in texts):
                return False
        return all(test(record) for test in paths)

    return keep


def _path(condition: str) -> Keep:
    path, equals, wanted = condition.partition("=")
    member, _, key = path.removeprefix("$").removeprefix(".").partition(".")
    if member not in Record._fields or (member == "metadata") != bool(key):
        raise common.Usage(
            f"--where {output.printable(condition)}: PATH is event_id, timestamp, service, message or metadata.KEY"
        )

    def test(record: Record) -> bool:
        value = record.metadata.get(key) if key else getattr(record, member)
        return value is not None and (not equals or value == wanted)

    return test
