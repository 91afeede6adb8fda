"""Bodies as they arrive, without a socket: only HttpError escapes, and how they are cut into reads does not matter."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi.server.chunked import CHUNK_LINE_BYTES_MAX, LINES_PER_FEED, ChunkedBody, SizedBody
from wsgi.server.refusal import HttpError

INTERESTING = [b"\r\n", b"\n", b"\r", b" ", b";", b"=", b'"', b"\0", b"\xff", b"9" * 40]


def rest(body: ChunkedBody | SizedBody) -> bytes:
    """What a complete body has left."""
    data, at = body.left
    return data[at:]


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\nA: b\r\n\r\n"


@given(st.lists(st.binary(max_size=50), max_size=10), st.binary(max_size=20), st.data())
def test_a_chunked_body_is_the_same_however_it_is_cut(pieces: list[bytes], behind: bytes, data: st.DataObject) -> None:
    wire = chunked(pieces) + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    body, more, done = ChunkedBody(10_000), b"", False
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        if done:
            more += wire[start:end]
        else:
            done = body.feed(wire[start:end])
    assert done
    assert (body.stream.read(), rest(body) + more) == (b"".join(pieces), behind)
    assert body.size == sum(map(len, pieces))


@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.sampled_from([*INTERESTING, b"3\r\nabc\r\n", b"0\r\n\r\n"])), max_size=12
    )
)
def test_no_bytes_make_the_chunk_decoder_raise_anything_else(reads: list[bytes]) -> None:
    body = ChunkedBody(1_000)
    with suppress(HttpError):
        any(body.feed(read) for read in reads)


@given(st.binary(max_size=50), st.binary(max_size=20), st.integers(0, 70))
def test_a_sized_body_is_the_same_however_it_is_cut(sent: bytes, behind: bytes, at: int) -> None:
    body, wire = SizedBody(len(sent)), sent + behind
    done = body.feed(wire[:at])
    behind_it = rest(body) + wire[at:] if done else b""
    if not done:
        assert body.feed(wire[at:])
        behind_it = rest(body)
    assert (body.stream.read(), behind_it) == (sent, behind)


@pytest.mark.parametrize("chunks", [1, LINES_PER_FEED // 2 - 1, LINES_PER_FEED // 2, LINES_PER_FEED, 5_000])
def test_one_feed_reads_a_bounded_number_of_lines_and_the_next_goes_on(chunks: int) -> None:
    body, feeds = ChunkedBody(10_000), 1
    done = body.feed(b"1\r\nx\r\n" * chunks + b"0\r\n\r\nbehind")
    while not done:
        assert body.more
        done = body.feed(b"")
        feeds += 1
    # Two lines a chunk, the second of which is empty, and two at the end.
    assert feeds == -(-(2 * chunks + 2) // LINES_PER_FEED)
    assert (body.stream.read(), rest(body), body.more) == (b"x" * chunks, b"behind", False)


def test_what_arrives_while_lines_are_left_is_read_behind_them() -> None:
    body, wire = ChunkedBody(10_000), b"1\r\nx\r\n" * 1_000
    assert not body.feed(wire)
    assert body.more
    assert not body.feed(wire + b"0\r\n\r")
    while body.more:
        assert not body.feed(b"")
    assert body.feed(b"\n")
    assert body.stream.read() == b"x" * 2_000


def decoded(wire: bytes) -> bytes:
    body = ChunkedBody(1_000)
    assert body.feed(wire)
    return body.stream.read()


@pytest.mark.parametrize(
    "line",
    [b"3", b"03", b"000000003", b"0" * 255 + b"3", b"3;a", b"3;a=b", b'3;a="b;\\" c"', b"3 ; a = b", b"3\t;\ta;b=c",
     b'3;a=""'],
)  # fmt: skip
def test_a_legal_chunk_line_was_refused_and_is_taken(line: bytes) -> None:
    assert len(line) <= CHUNK_LINE_BYTES_MAX
    assert decoded(line + b"\r\nabc\r\n0\r\n\r\n") == b"abc"


@pytest.mark.parametrize(
    "line",
    [b"", b"3 ", b"3\t", b"3;", b"3; ", b"3;a ", b"3;a=", b"3;a=b ", b"3;bad[=x", b'3;a="b', b'3;a="b"c', b"3;;a",
     b"3 a", b"0" * 256 + b"3"],
)  # fmt: skip
def test_a_chunk_line_that_breaks_the_grammar_was_taken_and_is_refused(line: bytes) -> None:
    with pytest.raises(HttpError) as error:
        decoded(line + b"\r\nabc\r\n0\r\n\r\n")
    assert error.value.status == 400


@pytest.mark.parametrize("size", [b"3e9", b"fffffffff", b"f" * 200])
def test_a_chunk_over_the_bound_is_413_whatever_its_digits(size: bytes) -> None:
    with pytest.raises(HttpError) as error:
        ChunkedBody(1_000).feed(size + b"\r\n")
    assert error.value.status == 413


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"HOST"])
def test_a_trailer_that_frames_or_routes_was_taken_and_is_refused(name: bytes) -> None:
    with pytest.raises(HttpError) as error:
        decoded(b"0\r\n" + name + b": 3\r\n\r\n")
    assert error.value.status == 400
