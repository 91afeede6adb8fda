"""``rejected``: list, show and drop the records that the server refused.

What lives here: the commands. What must not: an entry's layout (``inlet.stream.rejected``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from inlet.command import common, output
from inlet.stream import rejected
from inlet.stream.client import StoreClient
from inlet.stream.keys import rejected_key
from inlet.stream.rejected import RejectedEntry

DESCRIPTION = f"""Look at records that the server refused, kept in <stream>:rejected with the reason.

The server keeps them only with INLET_KEEP_REJECTED=1. The {rejected.ENTRIES_MAX:,} newest are kept, of each up to
{rejected.TEXT_BYTES_MAX:,} bytes.

  inlet rejected list --limit 20                the 20 newest, oldest first
  inlet rejected list --reason invalid-record
  inlet rejected show 1760000000000-0
  inlet rejected show 1760000000000-0 --raw > record.json
  inlet rejected drop 1760000000000-0
  inlet rejected drop --all

They cannot be replayed: fix the producer, and send them again.
"""
PAGE = 200
"""Entries read or deleted at a time: about a megabyte of the longest ones."""


def register(commands: Any) -> None:
    """Add ``rejected`` to the command line."""
    help_of_all = {"description": DESCRIPTION, "formatter_class": argparse.RawDescriptionHelpFormatter}
    command = commands.add_parser("rejected", help="list, show, or drop records that the server refused", **help_of_all)
    actions = command.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    listing = actions.add_parser("list", help="print one line a record", **help_of_all)
    listing.add_argument("--limit", type=_limit, metavar="N", help="only the N newest; default: all")
    listing.add_argument("--reason", help="only records refused for this reason")
    showing = actions.add_parser("show", help="print a whole record", **help_of_all)
    showing.add_argument("ids", nargs="+", metavar="ID", help="from `rejected list`")
    showing.add_argument("--raw", action="store_true", help="print only the record's bytes, as they were sent")
    dropping = actions.add_parser("drop", help="delete records", **help_of_all)
    dropping.add_argument("ids", nargs="*", metavar="ID", help="from `rejected list`")
    dropping.add_argument("--all", action="store_true", help="all, or all with the reason")
    dropping.add_argument("--reason", help="with --all: only records refused for this reason")
    for action, run in ((listing, run_list), (showing, run_show), (dropping, run_drop)):
        common.target_options(action)
        action.set_defaults(run=run)


def _limit(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def entries(
    client: StoreClient, key: str, reason: str | None, *, newest_first: bool = False
) -> Iterator[RejectedEntry]:
    """Yield the entries of a stream of rejected records; not those that arrive meanwhile."""
    for row in common.rows(client, key, PAGE, newest_first=newest_first):
        entry = rejected.read(row)
        if reason in (None, entry.reason):
            yield entry


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``rejected list``."""
    where = common.target(arguments, os.environ)
    client, key = common.connect(where), rejected_key(where.stream)
    found = entries(client, key, arguments.reason, newest_first=arguments.limit is not None)
    if arguments.limit is not None:
        # No more than the server keeps, so they fit into memory.
        found = reversed(list(islice(found, min(arguments.limit, rejected.ENTRIES_MAX))))
    for entry in found:
        size = f"over {len(entry.text)}" if entry.size is None else str(entry.size)
        event_id = "" if entry.event_id is None else f"  event_id {entry.event_id}"
        text = f"{entry.entry_id}  {entry.reason}  {entry.receiver}{event_id}  {size} bytes  {entry.detail}"
        output.say(_members(entry, text=False), output.printable(text), arguments)
    return common.OK


def run_show(arguments: argparse.Namespace) -> int:
    """Run ``rejected show``."""
    where = common.target(arguments, os.environ)
    for entry in _named(common.connect(where), rejected_key(where.stream), arguments.ids):
        if arguments.raw:
            output.write(entry.text)
            continue
        value = _members(entry, text=True)
        shown = {name: member for name, member in value.items() if member is not None}
        lines = [f"{name + ':':<12}{output.printable(str(member))}" for name, member in shown.items()]
        output.say(value, "\n".join([*lines, ""]), arguments)
    return common.OK


def run_drop(arguments: argparse.Namespace) -> int:
    """Run ``rejected drop``."""
    if bool(arguments.ids) == arguments.all:
        raise common.Usage("name records by ID, or use --all")
    if arguments.reason is not None and not arguments.all:
        raise common.Usage("--reason goes with --all")
    where = common.target(arguments, os.environ)
    client, key = common.connect(where), rejected_key(where.stream)
    chosen = entries(client, key, arguments.reason) if arguments.all else _named(client, key, arguments.ids)
    progress, count = output.Progress("dropped"), 0
    while some := [entry.entry_id for entry in islice(chosen, PAGE)]:
        count += client.one("XDEL", key, *some)
        progress.show(count)
    progress.end()
    output.say({"dropped": count}, f"{count:,} dropped", arguments)
    return common.OK


def _named(client: StoreClient, key: str, ids: list[str]) -> Iterator[RejectedEntry]:
    """Yield the entries with these IDs, each once. Raises Usage."""
    for entry_id in dict.fromkeys(ids):
        if not common.ENTRY_ID.fullmatch(entry_id):
            raise common.Usage(f"{output.printable(entry_id)} is not an ID; `inlet rejected list` prints them")
        row = client.one("XRANGE", key, entry_id, entry_id)
        if not row:
            raise common.Usage(f"there is no rejected record {entry_id}")
        yield rejected.read(row[0])


def _members(entry: RejectedEntry, *, text: bool) -> dict[str, Any]:
    """Return an entry's members, ``text`` last if wanted; bytes that are not UTF-8 become replacement characters."""
    value: dict[str, Any] = entry._asdict()
    record = value.pop("text")
    if text:
        value["truncated"] = entry.size is None or entry.size > len(record)
        value["text"] = record.decode(errors="replace")
    return value
