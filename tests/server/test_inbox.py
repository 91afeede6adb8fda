"""The inbox: bytes are used where they are, whatever the reads they came in."""

from __future__ import annotations

import pytest

from wsgi.server.inbox import Inbox

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def inbox(data: bytes, unread: bytes = b"", at: int = 0) -> Inbox:
    made = Inbox()
    made.data, made.at, made.unread = data, at, unread
    return made


def test_a_head_ends_behind_its_empty_line() -> None:
    assert inbox(HEAD + b"rest").head_end() == len(HEAD)
    assert inbox(b"done" + HEAD, at=4).head_end() == 4 + len(HEAD)
    assert inbox(HEAD[:-1]).head_end() == -1
    assert inbox(b"").head_end() == -1


@pytest.mark.parametrize("cut", range(len(HEAD)))
def test_a_head_may_have_come_in_two_reads_behind_another_request(cut: int) -> None:
    box = inbox(b"done" + HEAD[:cut], HEAD[cut:] + b"rest", at=4)
    end = box.head_end()
    assert box.data[box.at : end] == HEAD
    assert box.data[end:] + box.unread == b"rest"


def test_empty_lines_before_a_head_are_skipped_also_where_they_are_split() -> None:
    for data, unread in ((b"\r\n\r\n" + HEAD, b""), (b"\r\n", HEAD), (b"\r", b"\n" + HEAD)):
        box = inbox(data, unread)
        end = box.head_end()
        assert box.data[box.at : end] == HEAD


def test_what_is_left_counts_both_parts_and_is_used_in_order() -> None:
    box = inbox(b"abcdef", b"ghi", at=4)
    assert box.size() == 5
    assert box.go_on()
    assert (box.data, box.at) == (b"abcdef", 4)
    box.at = 6
    assert box.go_on()
    assert (box.data, box.at, box.unread) == (b"ghi", 0, b"")
    box.at = 3
    assert not box.go_on()


def test_taking_a_request_copies_nothing_of_what_is_behind_it() -> None:
    box = inbox(HEAD * 1000)
    data = box.data
    for _ in range(999):
        box.at = box.head_end()
        assert box.go_on()
        assert box.data is data


def test_a_head_in_pieces_is_found_without_looking_at_a_byte_twice_but_for_its_end() -> None:
    box = inbox(b"done\r\nGE", at=4)
    assert box.head_end() == -1
    box.begin_head()
    assert (bytes(box.partial), box.size()) == (b"GE", 0)
    assert box.add_to_head(HEAD[2:-2]) == 2
    assert not box.find_head(2)
    seen = box.add_to_head(b"\r\n" + HEAD)
    assert box.find_head(seen)
    assert (box.data, box.at, bytes(box.partial)) == (HEAD + HEAD, 0, b"")


def test_empty_lines_in_pieces_are_dropped() -> None:
    box = inbox(b"\r")
    box.begin_head()
    assert box.add_to_head(b"\n\r\nHEAD /") == 0
    assert bytes(box.partial) == b"HEAD /"
    assert box.starts_with(b"HEAD ")
    assert inbox(b"xHEAD /", at=1).starts_with(b"HEAD ")
    assert not inbox(b"xHEAD /").starts_with(b"HEAD ")
