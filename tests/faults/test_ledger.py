"""The ledger of the soak finds what breaks a promise: each once, over a real store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import content
from tests.faults.consumer import ALTERED, POISON
from tests.faults.crew import Crew
from tests.faults.ledger import Ledger
from tests.faults.load import Answer
from tests.faults.rig import STREAM, Store

A, B = "load-1-a", "load-1-b"
BAD = f"load-1{POISON}bad-0"


class Books:
    """A ledger, and what the processes beside it would have written."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.client = store.client()
        self.crew = Crew(store.url, STREAM, directory, random.Random(0))
        self.ledger = Ledger(self.client, STREAM, self.crew)

    def store(self, *ids: str) -> None:
        """As Inlet would."""
        for event_id in ids:
            self.client.xadd(STREAM, {"r": content.line(event_id), "n": 1})

    def handle(self, *lines: str) -> None:
        """As a consumer would."""
        with open(self.crew.directory / "0-0.log", "a") as log:
            log.writelines(f"{line}\n" for line in lines)

    def bury(self, event_id: str) -> None:
        """As a reader would."""
        letter = {"reason": "bad-record", "detail": "poison", "record": content.line(event_id)}
        self.client.xadd(f"{STREAM}:dead", letter)

    def wrong(self, promised: str = "", refused: str = "", unknown: str = "") -> list[str]:
        """What the ledger says once the load has ended; the ids are separated by blanks."""
        answers = [Answer(202, "", 1.0, 2.0, *(tuple(ids.split()) for ids in (promised, refused, unknown)))]
        self.ledger.balance("load-1", answers)
        self.ledger.settle()
        return self.ledger.wrong


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    store = Store({})
    try:
        store.start()
        yield Books(store, tmp_path / "crew")
    finally:
        store.close()


def test_records_that_are_stored_and_handled_or_buried_for_a_reason_are_right(books: Books) -> None:
    books.store(A, B, BAD)
    books.handle(A, B, A)
    books.bury(BAD)
    assert books.wrong(promised=f"{A} {BAD}", unknown=B) == []
    assert books.ledger.waiting() == 0
    assert (books.ledger.count["handled records"], books.ledger.count["handled again"]) == (2, 1)
    assert books.ledger.letters == {"bad: bad-record": 1}


def test_a_record_that_waits_for_its_handler_is_counted_and_blamed_in_the_end(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.store(A)
    assert books.wrong(promised=A) == []
    assert (books.ledger.waiting(), books.ledger.settle()) == (1, False)
    monkeypatch.setattr("tests.faults.ledger.LATE_SECONDS", -1)
    books.ledger.settle()
    assert books.ledger.wrong == [f"1 not handled within -1 s, as {A}"]


def test_a_record_that_was_answered_202_and_is_nowhere_is_lost(books: Books) -> None:
    books.store(A)
    assert books.wrong(promised=f"{A} {B}") == [f"1 lost: answered 202, and not in the stream, as {B}"]


def test_what_was_trimmed_after_the_ledger_read_it_is_not_lost(books: Books) -> None:
    books.store(A)
    books.ledger.read()
    books.client.xtrim(STREAM, maxlen=0)
    books.handle(A)
    assert books.wrong(promised=A) == []


def test_a_refused_record_that_is_stored_is_found(books: Books) -> None:
    books.store(A)
    assert books.wrong(refused=A) == [f"1 refused, but stored, as {A}"]


def test_a_record_that_nobody_sent_is_found(books: Books) -> None:
    books.store(A)
    assert books.wrong() == [f"1 stored, but never sent, as {A}"]


def test_a_record_that_is_stored_twice_is_found(books: Books) -> None:
    books.store(A, A)
    assert books.wrong(promised=A) == [f"1 stored twice, as {A}"]


def test_a_record_that_is_stored_otherwise_is_found(books: Books) -> None:
    books.client.xadd(STREAM, {"r": content.line(A).replace(b'",', b'", ', 1), "n": 1})
    assert books.wrong(promised=A) == [f"1 not stored as sent, as {A}"]


def test_a_record_that_is_handled_otherwise_is_found(books: Books) -> None:
    books.store(A)
    books.handle(f"{A} {ALTERED}")
    assert books.wrong(promised=A) == [f"1 handled altered, as {A}"]


def test_a_record_that_is_handled_and_was_never_stored_is_found(books: Books) -> None:
    books.handle(A)
    assert books.wrong(promised="") == [f"1 handled, but not in the stream, as {A}"]


def test_a_healthy_record_that_is_buried_is_found(books: Books) -> None:
    books.store(A)
    books.bury(A)
    assert books.wrong(promised=A) == [f"1 healthy, and a dead letter (bad-record, poison), as {A}"]


def test_a_second_letter_for_a_record_is_found(books: Books) -> None:
    books.store(BAD)
    books.bury(BAD)
    books.bury(BAD)
    assert books.wrong(promised=BAD) == [f"1 a dead letter twice, as {BAD}"]


def test_what_was_handled_or_buried_before_the_ledger_read_it_in_the_stream_does_not_wait(books: Books) -> None:
    books.handle(A)
    books.bury(BAD)
    books.ledger.read()
    books.store(A, BAD)
    assert books.wrong(promised=f"{A} {BAD}") == []
    assert books.ledger.waiting() == 0


def test_half_a_line_in_a_log_waits_for_its_rest(books: Books) -> None:
    books.store(A)
    log = books.crew.directory / "0-0.log"
    log.write_text(A[:4])
    assert books.wrong(promised=A) == []
    assert books.ledger.waiting() == 1
    log.write_text(f"{A}\n")
    books.ledger.read()
    assert books.ledger.waiting() == 0


def test_records_of_a_stream_that_was_moved_away_are_neither_lost_nor_waited_for(books: Books) -> None:
    books.store(A)
    books.client.rename(STREAM, "moved")
    books.store(B)
    books.ledger.excuse("moved")
    books.handle(B)
    assert books.wrong(promised=f"{A} {B}") == []
    assert books.ledger.waiting() == 0
