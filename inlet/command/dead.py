"""``dead``: list, show, replay and drop dead letters.

What lives here: the commands. What must not: a letter's layout (``inlet.consumer.deadletter``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from inlet.command import common, output
from inlet.consumer import deadletter
from inlet.consumer.deadletter import Letter
from inlet.stream.client import StoreClient
from inlet.stream.errors import ConsumerError
from inlet.stream.keys import dead_key

DESCRIPTION = """Work with dead letters: records that could not be handled, in <stream>:dead with the reason.

Look at them, fix the cause, replay them.

  inlet dead list
  inlet dead show 1760000000000-0
  inlet dead replay 1760000000000-0     append it to the stream again and drop the letter
  inlet dead replay --all --reason handler-failed
  inlet dead drop --all --group mail

A replayed record is a new entry at the end of the stream, so every group gets it, including those that handled it.
Reasons: missing-field, count-mismatch, invalid-line (not a record); handler-failed, consumer-died, bad-record.
"""
PAGE = 100
"""Letters read at a time."""


def register(commands: Any) -> None:
    """Add ``dead`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    dead = commands.add_parser(
        "dead", help="list, show, replay, or drop dead letters",
        description=DESCRIPTION, formatter_class=kind,
    )  # fmt: skip
    actions = dead.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, text, run in (
        ("list", "print one line a letter", run_list),
        ("show", "print a whole letter", run_show),
        ("replay", "append letters to the stream again", run_replay),
        ("drop", "delete letters", run_drop),
    ):
        action = actions.add_parser(name, help=text, description=DESCRIPTION, formatter_class=kind)
        if name != "list":
            action.add_argument("ids", nargs="*" if name != "show" else "+", metavar="ID", help="from `dead list`")
        if name != "show":
            action.add_argument("--reason", help="only letters with this reason")
            action.add_argument("--group", help="only letters of this consumer group")
        if name in ("replay", "drop"):
            action.add_argument("--all", action="store_true", help="all letters that match the filters")
        common.target_options(action)
        action.set_defaults(run=run)


def letters(client: StoreClient, key: str, arguments: argparse.Namespace) -> Iterator[Letter]:
    """Yield the letters that match the filters, oldest first; not those that arrive meanwhile."""
    for row in common.rows(client, dead_key(key), PAGE):
        letter = deadletter.read(row)
        if _wanted(letter.reason, arguments.reason) and _wanted(letter.group, arguments.group):
            yield letter


def _wanted(value: str, only: str | None) -> bool:
    return only is None or value == only


def chosen(client: StoreClient, where: common.Target, arguments: argparse.Namespace) -> Iterator[tuple[str, Letter]]:
    """Yield the letters named by ID, or all, each with the store key of its stream. Raises Usage, StoreRefuses."""
    if bool(arguments.ids) == bool(getattr(arguments, "all", False)):
        raise common.Usage("name letters by ID, or use --all")
    if not arguments.ids:
        for key in where.keys:
            for letter in letters(client, key, arguments):
                yield key, letter
        return
    for letter_id in arguments.ids:
        if not common.ENTRY_ID.fullmatch(letter_id):
            raise common.Usage(f"{output.printable(letter_id)} is not a letter's ID; `inlet dead list` prints them")
        found = [
            (key, deadletter.read(row))
            for key in where.keys
            for row in client.one("XRANGE", dead_key(key), letter_id, letter_id)
        ]
        if not found:
            raise common.Usage(f"there is no dead letter {letter_id}")
        yield from found


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``dead list``."""
    where = common.target(arguments, os.environ)
    client = common.connect(where)
    for key in where.keys:
        for letter in letters(client, key, arguments):
            place = f"{letter.entry_id} line {letter.line}" if letter.line >= 0 else letter.entry_id
            text = (
                f"{letter.letter_id}  {letter.reason}  group {letter.group}  {letter.stream} {place}  "
                f"attempts {letter.attempts}  {letter.detail}"
            )
            output.say(as_json(letter, whole=False), output.printable(text), arguments)
    return common.OK


def run_show(arguments: argparse.Namespace) -> int:
    """Run ``dead show``."""
    where = common.target(arguments, os.environ)
    for _, letter in chosen(common.connect(where), where, arguments):
        value = as_json(letter, whole=True)
        text = "\n".join(f"{name + ':':<12}{output.printable(str(member))}" for name, member in value.items())
        output.say(value, text + "\n", arguments)
    return common.OK


def as_json(letter: Letter, *, whole: bool) -> dict[str, Any]:
    """Return a letter's members; bytes that are not UTF-8 become replacement characters."""
    value: dict[str, Any] = letter._asdict()
    record, fields = value.pop("record"), value.pop("fields")
    if whole:
        value["record"] = record.decode(errors="replace")
        if fields:
            value["fields"] = [item.decode(errors="replace") for item in fields]
    return value


def run_replay(arguments: argparse.Namespace) -> int:
    """Run ``dead replay``."""
    return _each(arguments, "replayed", deadletter.replay)


def run_drop(arguments: argparse.Namespace) -> int:
    """Run ``dead drop``."""
    return _each(arguments, "dropped", lambda key, letter: ("XDEL", dead_key(key), letter.letter_id))


def _each(arguments: argparse.Namespace, done: str, command: Callable[[str, Letter], tuple[Any, ...]]) -> int:
    where = common.target(arguments, os.environ)
    client = common.connect(where)
    progress, count, failed = output.Progress(done), 0, 0
    for key, letter in chosen(client, where, arguments):
        try:
            words = command(key, letter)
        except ConsumerError as error:
            # This letter's own fault; what the store refuses ends the command instead, since it would refuse them all.
            progress.end()
            output.warn(f"not {done}: {error.detail}")
            failed += 1
            continue
        # 0: another command was faster.
        count += client.one(*words)
        progress.show(count)
    progress.end()
    output.say({done: count, "failed": failed}, f"{count:,} {done}" + f", {failed:,} not" * bool(failed), arguments)
    return common.FAILED if failed else common.OK
