"""inlet.stream.errors: what an error reply of the store is."""

from __future__ import annotations

from inlet.stream.errors import Fault, fault


def test_an_error_reply_keeps_its_first_word_also_where_it_was_cut_off() -> None:
    assert fault("NOGROUP No such key") == Fault("NOGROUP", "NOGROUP No such key")
    assert fault("You can't write", "READONLY") == Fault("READONLY", "READONLY You can't write")
