"""Raw snappy: bounded by the length that it states, and the same in slices as at once."""

from __future__ import annotations

from collections.abc import Generator

import cramjam
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.receivers.loki_support import snappy, varint
from wsgi.problems import ClientError
from wsgi.receivers import loki_snappy
from wsgi.receivers.slices import finish

MAX = 8_388_608


def long_way(block: bytes, bytes_max: int = MAX) -> bytes | str:
    """The content, decoded element by element whatever the length; or why there is none."""
    try:
        return finish(loki_snappy.decode_slices(block, bytes_max))
    except ClientError as error:
        return error.reason


def short_way(block: bytes, bytes_max: int = MAX) -> bytes | str:
    try:
        return loki_snappy.decode(block, bytes_max)
    except ClientError as error:
        return error.reason


@pytest.fixture
def _sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loki_snappy, "WHOLE_BYTES_MAX", -1)


@pytest.mark.usefixtures("_sliced")
class TestSliced:
    """The decoder in slices, beside the one of the library."""

    @given(st.one_of(st.binary(), st.lists(st.sampled_from([b"ab", b"abcabc", b"x" * 70])).map(b"".join)))
    @example(b"x" * 70_000)
    @example(bytes(range(256)) * 300)
    def test_what_the_library_encodes_comes_back(self, raw: bytes) -> None:
        assert long_way(snappy(raw)) == raw

    @given(st.binary(max_size=60), st.binary(max_size=8), st.integers(0, 60))
    def test_a_spoiled_block_comes_to_what_the_library_says(self, raw: bytes, other: bytes, at: int) -> None:
        block = snappy(raw * 3)
        block = block[:at] + other + block[at + len(other) :]
        assert long_way(block) == short_way(block)

    @given(st.integers(0, 40), st.binary(max_size=40))
    def test_any_bytes_come_to_what_the_library_says(self, size: int, elements: bytes) -> None:
        assert long_way(varint(size) + elements) == short_way(varint(size) + elements)

    @pytest.mark.parametrize("extra", [1, 2, 3, 4])
    def test_a_long_literal_has_its_length_in_one_to_four_bytes(self, extra: int) -> None:
        raw = b"y" * 200
        block = varint(200) + bytes(((59 + extra) << 2,)) + (199).to_bytes(extra, "little") + raw
        assert long_way(block) == short_way(block) == raw

    def test_a_copy_with_four_bytes_of_offset_is_read(self) -> None:
        block = varint(8) + b"\x0cabcd" + bytes((3 << 2 | 3,)) + (4).to_bytes(4, "little")
        assert long_way(block) == short_way(block) == b"abcdabcd"


def test_a_length_at_the_bound_is_taken_and_one_past_it_refused() -> None:
    assert short_way(snappy(b"x" * 100), 100) == long_way(snappy(b"x" * 100), 100) == b"x" * 100
    assert short_way(snappy(b"x" * 101), 100) == long_way(snappy(b"x" * 101), 100) == "payload-too-large"


def test_a_bomb_is_refused_by_its_length_alone() -> None:
    bomb = snappy(bytes(100_000_000))
    assert len(bomb) < MAX
    with pytest.raises(ClientError) as caught:
        loki_snappy.decoded_bytes(bomb[:5], MAX)
    assert caught.value.reason == "payload-too-large"


@pytest.mark.parametrize("stated", [0, 5, 7, 100, MAX])
def test_a_false_length_is_an_error(stated: int) -> None:
    block = snappy(b"sixsix")
    assert block[0] == 6
    assert short_way(varint(stated) + block[1:]) == "malformed-payload"


@pytest.mark.parametrize("block", [b"", b"\xff", b"\xff" * 5, b"\x80\x80\x80\x80\x80\x01"])
def test_a_block_without_a_length_is_malformed(block: bytes) -> None:
    assert short_way(block) == long_way(block) == "malformed-payload"


def test_frames_are_no_raw_snappy() -> None:
    assert short_way(bytes(cramjam.snappy.compress(b"framed"))) == "malformed-payload"


def test_a_block_of_many_tiny_copies_is_decoded_in_many_slices() -> None:
    copies = 600_000
    block = varint(copies + 1) + b"\0a" + b"\x02\x01\0" * copies
    assert len(block) > loki_snappy.WHOLE_BYTES_MAX
    content = bytearray()

    def decoded() -> Generator[None, None, None]:
        content.extend((yield from loki_snappy.decode_slices(block, MAX)))

    # About a millisecond each; 600,000 elements take far longer on any machine.
    assert len(list(decoded())) >= 20
    assert content == b"a" * (copies + 1)
