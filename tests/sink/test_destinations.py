"""A batch groups its lines by destination, and a commit writes an entry to each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sink.support import Sink, refused
from tests.support import entries

pytestmark = pytest.mark.usefixtures("driven")


def test_a_commit_writes_one_entry_to_each_destination(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream)
    other = f"{stream}:other"
    tickets = [
        subject.append([b"1"]),
        subject.append([b"a", b"b"], destination=other.encode()),
        subject.append([b"2"]),
        subject.append([b"c"], destination=other.encode()),
    ]
    for ticket in tickets:
        ticket.commit()
    (here, first), (there, second) = entries(client, stream)[0], entries(client, other)[0]
    assert (first[b"r"], second[b"r"]) == (b"1\n2", b"a\nb\nc")
    assert (client.xlen(stream), client.xlen(other)) == (1, 1)
    addresses = [ticket.addresses() for ticket in tickets]
    assert addresses == [
        [(here, 0, False)], [(there, 0, False), (there, 1, False)], [(here, 1, False)], [(there, 2, False)],
    ]  # fmt: skip


def test_a_destination_that_fails_refuses_only_what_goes_there(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream, entry_bytes_max=4)
    other = f"{stream}:other"
    client.set(other, "a string")
    good, bad = subject.append([b"1111", b"2222"]), subject.append([b"3"], destination=other.encode())
    good.commit()
    with refused("sink-misconfigured", match="WRONGTYPE"):
        bad.commit()
    assert [fields[b"r"] for _, fields in entries(client, stream)] == [b"1111", b"2222"]
    assert good.addresses() == [(entry_id, 0, False) for entry_id, _ in entries(client, stream)]
    client.delete(other)


def test_the_bounds_of_a_batch_cover_all_destinations(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream, inflight_bytes_max=8)
    subject.append([b"aaaa"])
    subject.append([b"bbbb"], destination=b"other")
    with refused("overloaded", match="2 unfinished requests of 8 bytes"):
        subject.append([b"c"])
