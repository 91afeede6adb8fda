"""wsgi.receivers.decompress: every content coding, each bound at its limit and one past it, and what is said.

What lives here: compressed bodies, on their whole way. What must not: what the decoded bytes hold.
"""

from __future__ import annotations

import functools
import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import zstandard

from tests.receivers.support import LIMITS, LINE, NDJSON, ONE, parse, parse_with, refusal
from wsgi.problems import ClientError
from wsgi.receivers import decompress as decompressing
from wsgi.receivers.decompress import DECODE_CHUNK_BYTES, MEMBERS_MAX, ZSTD_WINDOW_BYTES_MAX
from wsgi.receivers.slices import finish

# ---- bytes and nesting

Compress = Callable[[bytes], bytes]
gz: Compress = gzip.compress
zst: Compress = zstandard.ZstdCompressor().compress
raw: Compress = functools.partial(zlib.compress, wbits=-15)
CODINGS: dict[str, tuple[str, Compress]] = {
    "gzip": ("gzip", gz), "x-gzip": ("x-gzip", gz), "spaced": (" GZip ,", gz), "with identity": ("identity, gzip", gz),
    "zlib": ("deflate", zlib.compress), "raw": ("Deflate", raw), "zstd": ("zstd", zst), "none": ("identity", bytes),
}  # fmt: skip


@pytest.mark.parametrize("name", CODINGS)
def test_a_body_of_payload_bytes_max_once_decoded_is_read_and_one_byte_more_is_too_large(name: str) -> None:
    coding, compress = CODINGS[name]
    for bytes_max in (200, LIMITS.payload_bytes_max):
        read = parse_with(payload_bytes_max=bytes_max)
        assert read(compress(ONE.ljust(bytes_max)), None, coding).lines == [LINE]
        said = refusal(
            "payload-too-large", compress(ONE.ljust(bytes_max + 1)), None, coding, payload_bytes_max=bytes_max
        )
        assert said.startswith(f"the body is over {bytes_max} bytes")


def test_a_compressed_body_is_bounded_as_it_came_too() -> None:
    body = gzip.compress(ONE, compresslevel=0)
    assert parse_with(payload_bytes_max=len(body))(body, None, "gzip").lines == [LINE]
    refusal("payload-too-large", body, None, "gzip", payload_bytes_max=len(body) - 1)


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "zstd"])
def test_a_bomb_is_too_large_and_takes_no_memory_beyond_the_bound(name: str) -> None:
    coding, compress = CODINGS[name]
    bomb = compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        refusal("payload-too-large", bomb, None, coding, payload_bytes_max=1 << 20)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "zstd"])
@pytest.mark.parametrize("body", [bytes(4 << 20), bytes(range(256)) * 8_192, random.Random(1).randbytes(2 << 20)])
def test_a_long_body_is_decoded_in_slices(name: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Found from outside: 226 bytes held up a worker as megabytes did.
    monkeypatch.setattr(decompressing, "SLICE_SECONDS", 0)
    coding, compress = CODINGS[name]
    steps = decompressing.decompress(compress(body), coding, len(body))
    slices = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            decoded = done.value
            break
        slices += 1
    assert decoded == body
    assert slices >= len(body) // DECODE_CHUNK_BYTES


@pytest.mark.parametrize("size", [DECODE_CHUNK_BYTES - 1, DECODE_CHUNK_BYTES, DECODE_CHUNK_BYTES + 1, 200_000])
@pytest.mark.parametrize("name", CODINGS)
def test_a_body_of_exactly_a_chunk_and_around_it_is_decoded_whole(name: str, size: int) -> None:
    coding, compress = CODINGS[name]
    for body in (bytes(size), random.Random(size).randbytes(size)):
        for room in (0, 1, DECODE_CHUNK_BYTES):
            assert finish(decompressing.decompress(compress(body), coding, size + room)) == body
        with pytest.raises(ClientError, match="is over") if coding != "identity" else nullcontext():
            finish(decompressing.decompress(compress(body), coding, size - 1))


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "zstd"])
def test_a_compressed_body_that_is_cut_short_damaged_or_followed_by_more_is_malformed(name: str) -> None:
    coding, compress = CODINGS[name]
    body = compress(ONE)
    for cut in range(len(body)):
        said = refusal("malformed-payload", body[:cut], NDJSON, coding)
        assert said.startswith(("the compressed body is corrupt", f"Content-Encoding says {coding}"))
    for junk in (b"x", b"\0" * 20, ONE, body[:-1], body[:9]):
        assert refusal("malformed-payload", body + junk, None, coding).startswith("the compressed body is corrupt")
    refusal("malformed-payload", ONE, None, coding)
    if name in ("zlib", "raw"):  # These have one member, unlike the others.
        refusal("malformed-payload", body + compress(b""), None, coding)
    if name == "gzip":  # Its checksum is looked at.
        refusal("malformed-payload", body[:-8] + bytes([body[-8] ^ 1]) + body[-7:], None, coding)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_are_joined_and_counted_up_to_their_bound(name: str) -> None:
    coding, compress = CODINGS[name]
    assert parse(compress(ONE[:50]) + compress(ONE[50:]), None, coding).lines == [LINE]
    many = compress(ONE) + compress(b"") * (MEMBERS_MAX - 1)
    assert parse(many, None, coding).lines == [LINE]
    assert refusal("payload-too-large", many + compress(b""), None, coding).endswith(
        "in more than 1024 gzip members or zstd frames; compress it as one"
    )
    halves = compress(ONE.ljust(200)) + compress(b" ")
    refusal("payload-too-large", halves, None, coding, payload_bytes_max=200)


def test_a_zstd_window_at_its_bound_is_read_and_a_wider_one_is_not_allocated() -> None:
    def framed(window_log: int) -> bytes:
        # A stream's frame names no content size, so a decoder has to believe its window.
        params = zstandard.ZstdCompressionParameters(window_log=window_log, chain_log=6, hash_log=6)
        stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
        return stream.compress(ONE) + stream.flush()

    assert ZSTD_WINDOW_BYTES_MAX == 1 << 23
    assert parse(framed(23), None, "zstd").lines == [LINE]
    # Found from outside: this was "corrupt".
    said = refusal("malformed-payload", framed(24), None, "zstd")
    assert said.startswith("a zstd frame needs a window of more than 8388608 bytes")


@pytest.mark.parametrize(
    ("body", "coding", "words"),
    [
        (ONE, "gzip", "the body is plain text; compress it, or leave Content-Encoding out"),
        (ONE, "zstd", "the body is plain text; compress it, or leave Content-Encoding out"),
        (b" [" + ONE + b"]", "deflate", "the body is plain text; compress it, or leave Content-Encoding out"),
        (zlib.compress(ONE), "gzip", "the body begins like deflate; send Content-Encoding: deflate"),
        (gz(ONE), "zstd", "the body begins like gzip; send Content-Encoding: gzip"),
        (gz(ONE), "deflate", "the body begins like gzip; send Content-Encoding: gzip"),
        (zst(ONE), "deflate", "the body begins like zstd; send Content-Encoding: zstd"),
        (b"\x01\x02", "gzip", "the body has no gzip header; it is corrupt, or compressed otherwise"),
        (b"", "gzip", "the body is empty"),
    ],
)
def test_a_body_with_the_wrong_label_is_told_what_it_looks_like(body: bytes, coding: str, words: str) -> None:
    # Found from outside: plain text labelled gzip was "corrupt".
    assert refusal("malformed-payload", body, None, coding) == f"Content-Encoding says {coding}, but {words}"


@pytest.mark.parametrize(("name", "coding"), [("gzip", "gzip"), ("zlib", "deflate"), ("zstd", "zstd")])
@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_a_compressed_body_without_its_header_is_told_which(name: str, coding: str, content_type: str | None) -> None:
    # Found from outside: gzip without Content-Encoding was "not UTF-8", and no more.
    said = refusal("malformed-payload", CODINGS[name][1](ONE), content_type)
    assert said == f"not UTF-8: the body begins like {coding} data; send Content-Encoding: {coding} with it"


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip,zstd", "deflate,identity,gzip", "gzip;q=1"])
def test_other_and_several_codings_are_unsupported(coding: str) -> None:
    assert "gzip, deflate, zstd" in refusal("unsupported-content-encoding", ONE, None, coding)


def test_gzip_and_deflate_at_once_is_either_or_both() -> None:
    # Found with graypy and pygelf, which say so of zlib's format.
    for body in (zlib.compress(ONE), gzip.compress(ONE), zlib.compress(gzip.compress(ONE))):
        assert parse(body, None, "gzip,deflate").lines == [LINE]
        assert parse(body, None, "gzip, deflate").lines == [LINE]
    refusal("malformed-payload", ONE, None, "gzip,deflate")
    bomb = zlib.compress(gzip.compress(bytes(9_000_000)))
    refusal("payload-too-large", bomb, None, "gzip,deflate")
