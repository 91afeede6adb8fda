"""Where ``tail`` begins: ``--from`` and ``--last`` as entry IDs.

What lives here: positions within the partitions. What must not: following, printing.
"""

from __future__ import annotations

import argparse
import re

from inlet.command import common
from inlet.command.filters import Keep
from inlet.consumer.entries import Entry, parse
from inlet.stream.client import StoreClient
from inlet.stream.retention import parse_id

COUNT = 16
"""Entries of each partition that one read asks for: up to 16 MiB if all are of the largest size, usually under 1."""
_SPAN = re.compile(r"(\d{1,9})(s|m|h|d)")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ENTRY_ID = re.compile(r"\d{1,20}(-\d{1,20})?")


def begin(
    client: StoreClient, where: common.Target, arguments: argparse.Namespace, keep: Keep
) -> tuple[dict[str, str], list[Entry]]:
    """Return where to continue in each partition and, with ``-n``, the entries of the last records. Raises Usage."""
    positions = dict.fromkeys(where.keys, "0-0")
    if arguments.last is not None:
        # The end first, then what came before it: nothing is shown twice or skipped.
        positions = newest(client, where)
        entries = last(client, where, positions, arguments.last, keep)
        return positions, entries
    start = arguments.start
    if start == "now":
        return newest(client, where), []
    if span := _SPAN.fullmatch(start):
        seconds = int(span[1]) * _SPAN_SECONDS[span[2]]
        now = int(client.one("TIME")[0])
        return dict.fromkeys(where.keys, f"{max(0, now - seconds) * 1000}-0"), []
    if _ENTRY_ID.fullmatch(start):
        return dict.fromkeys(where.keys, _before(start)), []
    if start != "start":
        raise common.Usage("--from must be now, start, a time ago (30s, 15m, 2h, 7d) or an entry ID")
    return positions, []


def newest(client: StoreClient, where: common.Target) -> dict[str, str]:
    """Return the last entry ID of each partition."""
    replies = client.many([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in where.keys])
    return {key: rows[0][0].decode() if rows else "0-0" for key, rows in zip(where.keys, replies, strict=True)}


def last(client: StoreClient, where: common.Target, ends: dict[str, str], count: int, keep: Keep) -> list[Entry]:
    """Return entries with the last ``count`` records that match, oldest first."""
    found: list[Entry] = []
    for partition, key in enumerate(where.keys):
        left, end = count, ends[key]
        while left > 0:
            rows = client.one("XREVRANGE", key, end, "-", "COUNT", COUNT)
            if not rows:
                break
            for entry_id, fields in rows:
                entry = parse(partition, entry_id, fields)
                matching = [pair for pair in zip(entry.lines, entry.records, strict=True) if keep(pair[1])][-left:]
                if matching and left > 0:
                    left -= len(matching)
                    found.append(entry._replace(lines=[at for at, _ in matching], records=[it for _, it in matching]))
            end = "(" + rows[-1][0].decode()
    found.sort(key=lambda entry: parse_id(entry.entry_id))
    surplus = sum(len(entry.records) for entry in found) - count
    while surplus > 0:
        cut = min(surplus, len(found[0].records))
        found[0] = found[0]._replace(lines=found[0].lines[cut:], records=found[0].records[cut:])
        surplus -= cut
        if not found[0].records:
            found.pop(0)
    return found


def _before(entry_id: str) -> str:
    """Return the ID just before: XREAD reads what comes after."""
    first, second = parse_id(entry_id)
    if second:
        return f"{first}-{second - 1}"
    return f"{first - 1}-18446744073709551615" if first else "0-0"
