"""The oracle: the answers that clients got against what the stream holds.

What lives here: reading the stream back, and the judgement. What must not: faults, load, deadlines, consumers.

    202                                       in the stream, exactly once
    4xx, or a 503 that says "not stored"      not in it
    any other 5xx, a reset, a timeout         in it at most once

and whatever is in it was sent, and is what was sent, byte for byte (``content``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import redis
import ujson

from tests.faults import content
from tests.faults.load import Answer

PAGE_ENTRIES = 1_000
"""Entries of one XRANGE: a stopped or slow store never has to build one huge reply."""
LAST_ID = b"18446744073709551615-18446744073709551615"
"""The largest entry ID, which the fault "the stream's last ID is taken" takes."""


class Address(NamedTuple):
    """Where a record is: the stream's key, the entry's ID, the line from 0."""

    stream: str
    entry_id: str
    line: int


class Verdict(NamedTuple):
    """Counts of records. ``lost``, ``doubled``, ``false_refusals``, ``strangers`` and ``altered`` must be 0."""

    answered: int  # with a 202
    found: int  # of these, in the stream
    lost: int  # of these, not in the stream
    doubled: int  # of all that were sent, in the stream more than once
    false_refusals: int  # reported as not stored, and in the stream
    unknown_found: int  # outcome unknown to the client, and in the stream
    strangers: int  # in the stream, and never sent
    altered: int = 0  # in the stream, and not as they were sent

    def faults(self, *, may_lose: bool = False) -> str:
        """What breaks the promise, in words; empty if nothing does."""
        wrong = {
            "lost": 0 if may_lose else self.lost,
            "doubled": self.doubled,
            "refused, but stored": self.false_refusals,
            "never sent, but stored": self.strangers,
            "not stored as sent": self.altered,
        }
        return ", ".join(f"{count} {what}" for what, count in wrong.items() if count)


def judge(answers: Iterable[Answer], stored: Iterable[str], altered: int = 0) -> Verdict:
    """Compare the answers with ``stored``, the event ids of the stream, each as often as it is there."""
    count = Counter(stored)
    promised, refused, unknown = set[str](), set[str](), set[str]()
    for answer in answers:
        promised.update(answer.promised)
        refused.update(answer.refused)
        unknown.update(answer.unknown)
    lost = sum(event_id not in count for event_id in promised)
    return Verdict(
        answered=len(promised),
        found=len(promised) - lost,
        lost=lost,
        doubled=sum(times > 1 for times in count.values()),
        false_refusals=len(refused & count.keys()),
        unknown_found=len(unknown & count.keys()),
        strangers=len(count.keys() - promised - refused - unknown),
        altered=altered,
    )


def judge_lines(answers: Iterable[Answer], lines: Iterable[bytes]) -> Verdict:
    """Compare the answers with the stream's lines, each as often as it is there, and each line with what was sent."""
    ids = list[str]()
    altered = 0
    for line in lines:
        event_id = event_id_of(line)
        ids.append(event_id)
        altered += line != content.line(event_id)
    return judge(answers, ids, altered)


def event_id_of(line: bytes) -> str:
    """The event id of a line; the line itself, as text, if it is none."""
    try:
        return str(ujson.loads(line)[0])
    except (ValueError, IndexError, KeyError, TypeError):
        return repr(line)


def read_lines(client: Any, *streams: str, after: str = "-") -> Iterator[tuple[Address, bytes]]:
    """Every line of the streams, in order, from ``after`` on, as XRANGE takes it.

    Entries that are not Inlet's are passed over. Raises AssertionError where an entry is not whole.
    """
    for stream in streams:
        start, more = after.encode(), True
        while more:
            page = client.xrange(stream, min=start, count=PAGE_ENTRIES)
            more = len(page) == PAGE_ENTRIES
            for entry_id, fields in page:
                start = b"(" + entry_id
                more = more and entry_id != LAST_ID  # nothing can come after it, and XRANGE refuses to look
                if b"r" not in fields:  # A test's own entry.
                    continue
                lines = fields[b"r"].split(b"\n")
                assert len(lines) == int(fields[b"n"]), "an entry whose n is not the number of its lines"
                for number, line in enumerate(lines):
                    yield Address(stream, entry_id.decode(), number), line


def read_back(client: Any, *streams: str) -> Iterator[str]:
    """The event id of every record in the streams, in order. Raises AssertionError where an entry is not whole."""
    return (event_id_of(line) for _, line in read_lines(client, *streams))


def connect(path: str, **options: Any) -> Any:
    """redis-py on a unix socket, one connection, never sending anything twice."""
    return redis.Redis(
        unix_socket_path=path, single_connection_client=False, protocol=2, socket_timeout=30,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0), **options,
    )  # fmt: skip
