"""wsgi.sink.flight: a batch as commands, and its outcome from their replies. No store."""

from __future__ import annotations

import hiredis
import pytest

from tests.sink.support import Sink, refused
from wsgi.problems import SinkError
from wsgi.sink.batch import Batch
from wsgi.sink.batches import Ticket
from wsgi.sink.durability import REPLICATED, STORED, SYNCED
from wsgi.sink.flight import GATHER_BYTES, Flight, xadd
from wsgi.sink.waits import Waits

WAITS = Waits(replicas=1, commit_timeout_ms=1_000)
MISSING = SinkError("sink-outcome-unknown", "no answer")


def flight(*lines: bytes, level: int = STORED, entry_bytes_max: int = 4) -> tuple[Batch, Flight]:
    """A batch with a request for each line, and its flight."""
    batch = Batch(b"s", lambda batch, watch: batch)
    batch.main.lines, batch.main.starts = list(lines), list(range(len(lines)))
    batch.bytes = sum(map(len, lines))
    return batch, Flight(batch, level, WAITS, entry_bytes_max)


def taken(subject: Flight) -> list[bytes]:
    """Everything that is to be sent, as it is given."""
    found = []
    while command := subject.take():
        found.append(command)
    return found


def outcomes(batch: Batch) -> list[str | None]:
    """Each entry's ID, or the reason of its error."""
    return [each.entry_id if each.error is None else each.error.reason for each in batch.main.outcomes]


def test_a_packed_xadd_is_resp() -> None:
    assert xadd(b"logs", [b"a", b"bc"]) == (
        b"*7\r\n$4\r\nXADD\r\n$4\r\nlogs\r\n$1\r\n*\r\n$1\r\nr\r\n$4\r\na\nbc\r\n$1\r\nn\r\n$1\r\n2\r\n"
    )


def test_small_commands_go_together_with_the_one_that_waits() -> None:
    _, subject = flight(b"aaaa", b"bbbb", level=SYNCED)
    assert taken(subject) == [
        xadd(b"s", [b"aaaa"]) + xadd(b"s", [b"bbbb"]) + b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n0\r\n$3\r\n750\r\n"
    ]


@pytest.mark.parametrize(("size", "entry_bytes_max"), [(10, 1_000), (1_000, 10_000), (1_000, 500_000)])
def test_commands_are_packed_as_they_are_sent_and_the_lines_are_let_go(size: int, entry_bytes_max: int) -> None:
    """Regression: a batch of 5 MB was packed at once, which doubled it and held the loop."""
    lines = [b"%0*d" % (size, number) for number in range(5_000_000 // size // 10)]
    batch, subject = flight(*lines, entry_bytes_max=entry_bytes_max)
    first = subject.take()
    assert batch.main.lines
    assert subject.taken < subject.expected
    rest = taken(subject)
    longest = max(GATHER_BYTES, entry_bytes_max) + entry_bytes_max + 1_000
    assert all(len(command) < longest for command in [first, *rest])
    assert not batch.main.lines
    reader = hiredis.Reader()
    for command in [first, *rest]:
        reader.feed(command)
    sent = [line for _ in range(subject.expected) for line in reader.gets()[4].split(b"\n")]
    assert sent == lines


def test_an_error_reply_an_unknown_one_and_an_entry_that_was_never_sent_are_three_things() -> None:
    batch, subject = flight(*(b"%0100000d" % number for number in range(5)), entry_bytes_max=100_000)
    for _ in range(4):
        subject.take()
    subject.replies = [b"1-1", hiredis.ReplyError("OOM command not allowed"), b"1-2"]
    subject.settle(MISSING)
    assert outcomes(batch) == ["1-1", "sink-unavailable", "1-2", "sink-outcome-unknown", "sink-unavailable"]
    assert (subject.stored, subject.dropped) == (2, 3)
    assert subject.error is not None
    assert "OOM" in subject.error.detail
    assert (batch.done, batch.failed) == (True, True)


@pytest.mark.parametrize(
    ("level", "reply", "reason"),
    [
        (SYNCED, [1, 0], None),
        (SYNCED, [0, 0], "durability-timeout"),
        (REPLICATED, 1, None),
        (REPLICATED, 0, "durability-timeout"),
        (SYNCED, hiredis.ReplyError("ERR appendonly is disabled"), "durability-timeout"),
        (REPLICATED, hiredis.ReplyError("UNBLOCKED instance state changed"), "durability-timeout"),
        (REPLICATED, None, "durability-timeout"),  # the connection broke before it came
    ],
)
def test_what_is_stored_and_not_confirmed_is_a_timeout_of_the_level(
    level: int, reply: object, reason: str | None
) -> None:
    batch, subject = flight(b"aaaa", level=level)
    taken(subject)
    subject.replies = [b"1-1"] if reply is None else [b"1-1", reply]
    subject.settle(MISSING if reply is None else None)
    assert outcomes(batch) == ["1-1"]
    assert (batch.level_error.reason if batch.level_error else None) == reason
    assert batch.failed is (reason is not None)
    assert subject.error is None


def test_a_batch_at_received_is_done_before_its_replies_which_are_counted_later() -> None:
    batch, subject = flight(b"aaaa", b"bbbb", level=0)
    taken(subject)
    subject.answer(batch)
    assert (batch.done, batch.failed, outcomes(batch)) == (True, False, ["", ""])
    subject.replies = [b"1-1", hiredis.ReplyError("ERR no")]
    subject.settle()
    assert (subject.stored, subject.dropped) == (1, 1)
    assert outcomes(batch) == ["", ""]


def test_a_request_with_a_refused_entry_and_an_unknown_one_was_told_that_nothing_was_stored() -> None:
    """Regression: the reason was that of the first entry that failed."""
    batch, subject = flight(b"aaaa", b"bbbb")
    ticket = Ticket(Sink("unix:///nonexistent", "s").batches.lane(STORED), batch, batch.main, 0, 2)
    taken(subject)
    subject.replies = [hiredis.ReplyError("OOM command not allowed")]
    subject.settle(MISSING)
    with refused("sink-outcome-unknown", match="^no answer$"):
        ticket.commit()


OWN = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "WRONGTYPE Operation against a key holding the wrong kind of value script: 0f, on @user_script:1.",
    "ERR The stream has exhausted the last possible ID, unable to add more items",
    "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    "NOPERM No permissions to access a key",
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    "NOPERM User inlet has no permissions to access the 'logs' key",
]
OF_ALL = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM User inlet has no permissions to run the 'xadd' command",
    "NOPERM this user has no permissions to run the 'xadd' command",
    "READONLY You can't write against a read only replica.",
    "NOAUTH Authentication required.",
    "ERR unknown command 'XADD'",
    "NOSCRIPT No matching script.",
]


@pytest.mark.parametrize("text", [*OWN, *OF_ALL])
def test_an_error_that_is_about_one_key_says_nothing_of_the_store(text: str) -> None:
    batch, subject = flight(b"aaaa")
    batch.part(b"other").lines, batch.part(b"other").starts = [b"bbbb", b"cccc"], [0, 1]
    batch.bytes += 8
    subject = Flight(batch, STORED, WAITS, 4)
    taken(subject)
    subject.replies = [b"1-1", hiredis.ReplyError(text), hiredis.ReplyError(text)]
    subject.settle()
    assert batch.failed
    assert [key for key, _ in subject.faults] == ([b"other"] if text in OWN else [])
    assert (subject.error is None) is (text in OWN)
    assert (subject.stored, subject.dropped) == (1, 2)


def test_a_lost_script_was_not_executed_and_the_connection_is_to_be_made_anew() -> None:
    batch, subject = flight(b"aaaa")
    taken(subject)
    subject.replies = [hiredis.ReplyError("NOSCRIPT No matching script. Please use EVAL.")]
    subject.settle()
    assert (outcomes(batch), subject.unloaded) == (["sink-unavailable"], True)


def test_the_duplicates_of_a_reply_have_the_first_address_and_the_others_the_lines_that_are_left() -> None:
    batch, subject = flight(*(b"%d" % number for number in range(6)), entry_bytes_max=1_000)
    taken(subject)
    subject.replies = [[b"5-0", 1, b"1-1", 7, 4, b"5-0", 0]]
    subject.settle()
    (outcome,) = batch.main.outcomes
    everything = [("5-0", 0), ("1-1", 7), ("5-0", 1), ("5-0", 2), ("5-0", 0), ("5-0", 3)]
    for start in range(6):
        for stop in range(start + 1, 7):
            assert [each[:2] for each in outcome.addresses(start, stop)] == everything[start:stop]
    assert [each.duplicate for each in outcome.addresses(0, 6)] == [False, True, False, False, True, False]
    assert (subject.stored, subject.duplicate, subject.dropped) == (4, 2, 0)


def test_a_commit_of_duplicates_alone_has_no_entry_and_has_not_failed() -> None:
    batch, subject = flight(b"aaaa", b"bbbb", entry_bytes_max=1_000)
    taken(subject)
    subject.replies = [[None, 0, b"1-1", 7, 1, b"2-1", 0]]
    subject.settle()
    (outcome,) = batch.main.outcomes
    assert outcome.addresses(0, 2) == [("1-1", 7, True), ("2-1", 0, True)]
    assert (batch.failed, subject.stored, subject.duplicate) == (False, 0, 2)
