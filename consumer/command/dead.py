"""``dead``: list, show, replay and drop dead letters.

What lives here: the commands. What must not: a letter's layout (``consumer.deadletter``).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from typing import Any

from consumer import deadletter
from consumer.command import common
from consumer.deadletter import Letter, dead_key
from consumer.errors import Fault, StoreRefuses
from consumer.link import Link

DESCRIPTION = """What could not be handled is in <stream>:dead, with the reason. Look at it, mend the cause, replay it.

  python -m consumer dead list
  python -m consumer dead show 1760000000000-0
  python -m consumer dead replay 1760000000000-0     append it to the stream again, then drop the letter
  python -m consumer dead replay --all --reason handler-failed
  python -m consumer dead drop --all --group mail

A replayed record is a new entry at the stream's end, so every group gets it, those that had handled it too.
Reasons: missing-field, count-mismatch, invalid-line (no record at all); handler-failed, consumer-died, bad-record.
"""
PAGE = 100
"""Letters read at a time."""
_LETTER_ID = re.compile(r"\d{1,20}-\d{1,20}")


def register(commands: Any) -> None:
    """Add ``dead`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    dead = commands.add_parser(
        "dead", help="what could not be handled: list, show, replay, drop",
        description=DESCRIPTION, formatter_class=kind,
    )  # fmt: skip
    actions = dead.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, text, run in (
        ("list", "one line a letter", run_list),
        ("show", "all of a letter", run_show),
        ("replay", "append to the stream again", run_replay),
        ("drop", "delete for good", run_drop),
    ):
        action = actions.add_parser(name, help=text, description=DESCRIPTION, formatter_class=kind)
        if name != "list":
            action.add_argument("ids", nargs="*" if name != "show" else "+", metavar="ID", help="as `dead list` gives")
        if name != "show":
            action.add_argument("--reason", help="only letters with this one")
            action.add_argument("--group", help="only letters of this consumer group")
        if name in ("replay", "drop"):
            action.add_argument("--all", action="store_true", help="all letters, or all that the filters leave")
        common.place_options(action)
        action.set_defaults(run=run)


def letters(link: Link, key: str, arguments: argparse.Namespace) -> Iterator[Letter]:
    """The letters asked for, oldest first; those that come in meanwhile are left alone."""
    rows = link.one("XREVRANGE", dead_key(key), "+", "-", "COUNT", 1)
    if not rows:
        return
    start, end = "-", bytes(rows[0][0]).decode()
    while rows := link.one("XRANGE", dead_key(key), start, end, "COUNT", PAGE):
        for row in rows:
            letter = deadletter.read(row)
            if _wanted(letter.reason, arguments.reason) and _wanted(letter.group, arguments.group):
                yield letter
        start = "(" + bytes(rows[-1][0]).decode()


def _wanted(value: str, only: str | None) -> bool:
    return only is None or value == only


def chosen(link: Link, where: common.Place, arguments: argparse.Namespace) -> Iterator[tuple[str, Letter]]:
    """The letters named by their IDs, or all; with the key of their stream. Raises Usage, StoreRefuses."""
    if bool(arguments.ids) == bool(getattr(arguments, "all", False)):
        raise common.Usage("name letters by their IDs, or say --all")
    if not arguments.ids:
        for key in where.keys:
            for letter in letters(link, key, arguments):
                yield key, letter
        return
    for letter_id in arguments.ids:
        if not _LETTER_ID.fullmatch(letter_id):
            raise common.Usage(f"{common.printable(letter_id)} is no ID of a letter; `dead list` shows them")
        found = [
            (key, deadletter.read(row))
            for key in where.keys
            for row in link.one("XRANGE", dead_key(key), letter_id, letter_id)
        ]
        if not found:
            raise common.Usage(f"there is no dead letter {letter_id}")
        yield from found


def run_list(arguments: argparse.Namespace) -> int:
    """``dead list``."""
    where = common.place(arguments, os.environ)
    link = common.link(where)
    for key in where.keys:
        for letter in letters(link, key, arguments):
            place = f"{letter.entry_id} line {letter.line}" if letter.line >= 0 else letter.entry_id
            text = (
                f"{letter.letter_id}  {letter.reason}  group {letter.group}  {letter.stream} {place}  "
                f"deliveries {letter.deliveries}  {letter.detail}"
            )
            common.say(as_json(letter, whole=False), common.printable(text), arguments)
    return common.OK


def run_show(arguments: argparse.Namespace) -> int:
    """``dead show``."""
    where = common.place(arguments, os.environ)
    for _, letter in chosen(common.link(where), where, arguments):
        value = as_json(letter, whole=True)
        text = "\n".join(f"{name + ':':<12}{common.printable(str(member))}" for name, member in value.items())
        common.say(value, text + "\n", arguments)
    return common.OK


def as_json(letter: Letter, *, whole: bool) -> dict[str, Any]:
    """A letter's members; bytes that are no UTF-8 are shown with replacement characters."""
    value: dict[str, Any] = letter._asdict()
    record, fields = value.pop("record"), value.pop("fields")
    if whole:
        value["record"] = record.decode(errors="replace")
        if fields:
            value["fields"] = [item.decode(errors="replace") for item in fields]
    return value


def run_replay(arguments: argparse.Namespace) -> int:
    """``dead replay``."""
    return _each(arguments, "replayed", deadletter.replay)


def run_drop(arguments: argparse.Namespace) -> int:
    """``dead drop``."""
    return _each(arguments, "dropped", lambda key, letter: [("XDEL", dead_key(key), letter.letter_id)])


def _each(arguments: argparse.Namespace, done: str, commands: Any) -> int:
    where = common.place(arguments, os.environ)
    link = common.link(where)
    progress, count = common.Progress(done), 0
    for key, letter in chosen(link, where, arguments):
        replies = link.many(commands(key, letter))
        inner = replies[-1] if isinstance(replies[-1], list) else []
        fault = next((reply for reply in inner if isinstance(reply, Fault)), None)
        if fault is not None:
            raise StoreRefuses(f"the store refuses: {fault.text}")
        count += 1
        progress.show(count)
    progress.end()
    common.say({done: count}, f"{count:,} {done}", arguments)
    return common.OK
