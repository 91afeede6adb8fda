"""``groups``: list the consumer groups that hold a stream back, and forget one.

What lives here: the commands. What must not: how groups are remembered (``inlet.stream.trimming``).
"""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from inlet.command import common, output
from inlet.stream import groups
from inlet.stream.client import StoreClient
from inlet.stream.errors import ConsumerError

DESCRIPTION = """List or forget consumer groups.

Each group is remembered, in <stream>:groups, from when it is first seen. What a remembered group has not acked is never
trimmed. If the store loses the group, as after a failover to a replica that had not yet heard of it, nothing at all is
trimmed until its consumer creates it again or you forget it.

  inlet groups list
  inlet groups forget billing     destroy the group and forget it; stop its consumers first
"""


@dataclass
class Known:
    """One group on one partition. ``first_seen_ms``: ms since 1970; None if no keeper has seen the group yet.

    ``group``: as an argument of a process (os.fsencode gives its bytes); JSON escapes what is not UTF-8 (``\\udcff``).

    ``missing``: it is remembered, and the store does not have it, so nothing of the stream is trimmed.
    """

    partition: int
    key: str
    group: str
    missing: bool
    first_seen_ms: int | None


def register(commands: Any) -> None:
    """Add ``groups`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "groups", help="list or forget consumer groups", description=DESCRIPTION, formatter_class=kind
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="print one line a group", description=DESCRIPTION, formatter_class=kind)
    forget = actions.add_parser(
        "forget", help="destroy a group and forget it", description=DESCRIPTION, formatter_class=kind
    )
    forget.add_argument("group", metavar="GROUP")
    for action, run in ((listing, run_list), (forget, run_forget)):
        common.target_options(action)
        action.set_defaults(run=run)


def rows(client: StoreClient, where: common.Target) -> list[Known]:
    """Return a row for every group of every partition, present or remembered."""
    found: list[Known] = []
    for partition, key in enumerate(where.keys):
        seen = groups.remembered(client, key)
        present = {bytes(row["name"]) for row in groups.group_rows(client, key)}
        for name in sorted(present | seen.keys()):
            found.append(Known(partition, key, os.fsdecode(name), name not in present, seen.get(name)))
    return found


def word(group: str) -> str:
    """Return the group as a word to paste into a shell: quoted, as ``$'...'`` if it holds what cannot be printed."""
    if group.isprintable():
        return shlex.quote(group)
    plain = [chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(group)]
    return f"$'{''.join(plain)}'"


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``groups list``."""
    where = common.target(arguments, os.environ)
    client = common.connect(where)
    now = client.one("TIME")
    found = rows(client, where)
    if arguments.json:
        output.write(b"".join(output.line(asdict(row)) for row in found))
        return common.OK
    text = ["PARTITION    STATE       SEEN  GROUP"] if found else []
    for row in found:
        seen = None if row.first_seen_ms is None else int(now[0]) * 1000 - row.first_seen_ms
        text.append(
            f"{row.partition:>9}{'missing' if row.missing else 'present':>9}{output.age(seen):>11}  {word(row.group)}"
        )
    output.write(("\n".join(text or ["no group has read this stream yet"]) + "\n").encode(errors="replace"))
    return common.OK


def run_forget(arguments: argparse.Namespace) -> int:
    """Run ``groups forget``."""
    where = common.target(arguments, os.environ)
    client = common.connect(where)
    name = os.fsencode(arguments.group)
    done = {key: groups.forget(client, key, name) for key in where.keys}
    if not any(found.remembered or found.destroyed for found in done.values()):
        raise ConsumerError(f"no group {arguments.group!a} is there or remembered; see `inlet groups list`")
    for key, found in done.items():
        what = "destroyed and forgotten" if found.destroyed else "forgotten; it was missing from the store"
        output.say({"key": key, "group": arguments.group, **found._asdict()}, f"{key}: {what}", arguments)
    return common.OK
