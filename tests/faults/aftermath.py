"""After the fault: the system accepts a record again, and a consumer group gets all that the stream holds.

What lives here: one more request, and one Reader that reads every stream from its beginning. What must not: faults, and
the judgement of what the stream should hold (``oracle``).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import redis
import ujson

from inlet import Reader
from inlet.stream.errors import InletError
from tests.faults import content
from tests.faults.load import ANSWER_SECONDS, exchange, post, understand
from tests.faults.oracle import Address, read_lines
from tests.faults.rig import Rig
from tests.support import wait_until

GROUP = "oracle"
ACCEPT_SECONDS = 60.0
"""How long the system may take until it accepts: generous, since machines are shared."""
_names = itertools.count()


def accepts(rig: Rig) -> None:
    """Send one record after the other until one is answered 202. Raises AssertionError if none is."""
    accepted = lambda: send(rig, [f"{rig.load.name}-after-{next(_names)}"]) == 202  # noqa: E731
    wait_until(accepted, "a record is accepted afterwards", ACCEPT_SECONDS)


def send(rig: Rig, ids: list[str]) -> int:
    """Send one request with these records, note its answer with the load's, and return its status; 0 without one."""
    began = time.time()
    try:
        with socket.create_connection((rig.server.host, rig.server.port), ANSWER_SECONDS) as connection:
            status, body, _ = exchange(connection, post([content.sent(event_id) for event_id in ids]))
    except OSError:
        rig.load.note_reset(tuple(ids), began)
        return 0
    rig.load.answers.append(understand(status, body, tuple(ids), (), began))
    return status


def delivered(url: str, client: Any, *streams: str) -> tuple[int, str]:
    """Read each stream as a new group; how many records it got, and what is wrong with them, in words.

    It must get each line of the stream once, at its address, byte for byte, and decoded to what the line says.
    """
    count, missing, more, other = 0, 0, 0, 0
    for stream in streams:
        with contextlib.suppress(redis.ResponseError):  # It exists.
            client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        # Only now that the group is there: no keeper trims what it has not acked.
        held = dict(read_lines(client, stream))
        got = dict(read_as_group(url, stream))
        count += len(got)
        missing += len(held.keys() - got.keys())
        more += len(got.keys() - held.keys())
        other += sum(got[address] != (line, ujson.loads(line)) for address, line in held.items() if address in got)
    wrong = {"not delivered": missing, "delivered, but not in the stream": more, "delivered otherwise": other}
    return count, ", ".join(f"{number} {what}" for what, number in wrong.items() if number)


def read_as_group(url: str, stream: str, group: str = GROUP) -> Iterator[tuple[Address, tuple[bytes, list[Any]]]]:
    """What ``inlet.Reader`` hands out until there is no more: each record's address, its line, and its members."""
    try:
        with Reader(url, stream, group) as reader:
            for entry in reader.entries(forever=False):
                for (_, entry_id, line), record in entry.items():
                    yield Address(stream, entry_id, line), (entry.raw(line), list(record))
                reader.ack(entry)
    except InletError as error:
        raise AssertionError(f"the group cannot read {stream}: {error}") from error
