"""Request heads, without a socket: only HttpError escapes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from wsgi.server.fields import NAMES_CACHED_MAX, _keys
from wsgi.server.head import HEAD_CACHED_BYTES_MAX, HEADS_CACHED_MAX, Site
from wsgi.server.refusal import HttpError

HEAD = (
    b"POST /ingest?receipt=1 HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/json\r\n"
    b"X-Forwarded-Proto: https\r\nExpect: 100-continue\r\nConnection: keep-alive\r\nContent-Length: 467\r\n\r\n"
)
INTERESTING = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\0",
    b"\xff",
    b"%",
    b"#",
    b"chunked",
    b"Transfer-Encoding: ",
    b"9" * 40,
]


def site() -> Site:
    environ = {"SCRIPT_NAME": "", "wsgi.url_scheme": "http", "wsgi.input": None, "REMOTE_ADDR": "", "REMOTE_PORT": ""}
    return Site(environ, Config(), trusted=True, unix=True, fast_bytes_max=65_536, head_bytes_max=65_536)


@given(
    st.integers(0, len(HEAD) - 4), st.integers(0, 30), st.one_of(st.binary(max_size=20), st.sampled_from(INTERESTING))
)
def test_no_bytes_make_the_head_parser_raise_anything_else(at: int, cut: int, put: bytes) -> None:
    raw = HEAD[:at] + put + HEAD[at + cut : -4]
    raw = raw.split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with suppress(HttpError):
        head = site().head(raw)
        assert head.size == len(raw)
        assert head.length >= -1


def test_a_head_is_parsed_once_and_forgotten_within_bounds() -> None:
    here = site()
    first = here.head(HEAD)
    assert here.head(bytes(bytearray(HEAD))) is first
    for number in range(HEADS_CACHED_MAX - 1):
        here.head(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    assert len(here.heads) == HEADS_CACHED_MAX
    here.head(b"GET /more HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(here.heads) == 1


@pytest.mark.parametrize(("size", "cached"), [(HEAD_CACHED_BYTES_MAX, 1), (HEAD_CACHED_BYTES_MAX + 1, 0)])
def test_a_long_head_is_not_remembered(size: int, cached: int) -> None:
    here, start = site(), b"GET /x HTTP/1.1\r\nHost: x\r\nA: "
    here.head(start + b"b" * (size - len(start) - 4) + b"\r\n\r\n")
    assert len(here.heads) == cached


def test_header_names_are_remembered_within_bounds() -> None:
    here = site()
    for number in range(NAMES_CACHED_MAX + 10):
        here.head(b"GET /x HTTP/1.1\r\nHost: x\r\nX-%d: 1\r\n\r\n" % number)
    assert len(_keys) <= NAMES_CACHED_MAX
