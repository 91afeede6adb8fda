"""Request heads, without a socket: only HttpError escapes, and no client leaves anything behind for the others."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from wsgi.server import fields, head, names, refusal, target
from wsgi.server.head import HEAD_KEPT_BYTES_MAX, Head, NoHead, Site
from wsgi.server.names import KEYS, environ_key
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
CONNECTION_HEADS = 100_000
"""Heads that one client sends, each with a target, a host, a name and a value of its own."""
BLOCKS_LEFT_MAX = 2_000
"""Blocks of memory that may be left after them. One remembered object a head would be fifty times as many."""


def site(*, trusted: bool = True, unix: bool = True, fast_bytes_max: int = 65_536, **settings: Any) -> Site:
    environ = {"SCRIPT_NAME": "", "wsgi.url_scheme": "http", "wsgi.input": None, "REMOTE_ADDR": "", "REMOTE_PORT": ""}
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return Site(environ, cfg, trusted=trusted, unix=unix, fast_bytes_max=fast_bytes_max, head_bytes_max=65_536)


def request(*lines: str, start: str = "POST /x HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: x", *lines, "", ""]).encode("latin-1")


@given(
    st.integers(0, len(HEAD) - 4), st.integers(0, 30), st.one_of(st.binary(max_size=20), st.sampled_from(INTERESTING))
)
def test_no_bytes_make_the_head_parser_raise_anything_else(at: int, cut: int, put: bytes) -> None:
    raw = HEAD[:at] + put + HEAD[at + cut : -4]
    raw = raw.split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    here = site()
    with suppress(HttpError):
        last = here.head(HEAD, NoHead)
        parsed = here.head(raw, last)
        assert parsed.size == len(raw)
        assert parsed.length >= -1


# What a connection keeps of its last head.


def outcome(parse: Callable[[], Head]) -> object:
    """What a head says, or how it is refused."""
    try:
        parsed = parse()
    except HttpError as error:
        return error.status, error.detail
    return parsed.take(), parsed.length, parsed.mode, parsed.expects, parsed.sends_body, parsed.method, parsed.uri


def test_a_head_is_kept_and_hands_out_copies() -> None:
    here = site()
    first = here.head(HEAD, NoHead)
    assert (first.total, first.raw, first.size) == (len(HEAD) + 467, HEAD, len(HEAD))
    first.take().clear()  # An application may do this to its environ.
    one, other = first.take(), first.take()
    one.clear()
    assert other["CONTENT_LENGTH"] == "467"
    assert first.template == other == first.take()


def test_the_same_head_again_is_not_parsed() -> None:
    here = site()
    first = here.head(HEAD, NoHead)
    assert here.head(bytes(bytearray(HEAD)), first) is first


def test_a_head_that_is_not_kept_is_taken_once() -> None:
    first = site().head(request("Accept: a\tb"), NoHead)
    assert (first.template, first.total) == (None, -1)
    assert first.take()["HTTP_ACCEPT"] == "a\tb"
    with pytest.raises(AssertionError, match="taken"):
        first.take()


def test_a_head_with_other_values_is_the_last_one_changed() -> None:
    here = site()
    last = here.head(HEAD, NoHead)
    before = last.take()
    again = HEAD.replace(b"467", b"70000")
    assert here.head(again, last) is last
    assert (last.raw, last.size, last.length, last.total) == (again, len(again), 70_000, -1)
    assert last.take() == {**before, "CONTENT_LENGTH": "70000"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"localhost:8000", b"other"), (b"Host:", b"host:"), (b"Host: localhost:8000", b"Host"), (b"POST", b"PUT"),
        (b"467", b"+467"), (b"467", b"9" * 25), (b"467", b"467\r\nAccept: a"), (b"Content-Length", b"Content-Type"),
        (b"Content-Length: 467", b"Content-Length"), (b"Content-Length: 467", b"Transfer-Encoding: chunked"),
    ],
)  # fmt: skip
def test_what_is_more_than_another_value_is_parsed_as_a_first_head(old: bytes, new: bytes) -> None:
    here = site()
    last = here.head(HEAD, NoHead)
    raw = HEAD.replace(old, new)
    assert raw != HEAD
    assert outcome(lambda: here.head(raw, last)) == outcome(lambda: site().head(raw, NoHead))


@pytest.mark.parametrize("name", ["Connection: close", "Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_what_decides_about_the_body_or_the_connection_is_never_carried_over(name: str) -> None:
    here = site()
    field, _, value = name.partition(": ")
    raw, other = request(f"{field}: {value}"), request(f"{field}: other")
    assert outcome(lambda: here.head(raw, here.head(request(f"{field}: {value} "), NoHead))) == outcome(
        lambda: site().head(raw, NoHead)
    )
    assert outcome(lambda: here.head(other, here.head(raw, NoHead))) == outcome(lambda: site().head(other, NoHead))


@pytest.mark.parametrize(("length", "fits"), [("467", True), ("468", False)])
def test_a_body_over_the_bound_takes_no_shortcut(length: str, *, fits: bool) -> None:
    here, raw = site(fast_bytes_max=467), request(f"Content-Length: {length}")
    kept = here.head(raw, NoHead)
    assert kept.total == (len(raw) + 467 if fits else -1)
    assert kept.take()["CONTENT_LENGTH"] == length


def test_a_chunked_body_takes_no_shortcut() -> None:
    here, raw = site(), request("Transfer-Encoding: chunked")
    kept = here.head(raw, NoHead)
    assert (kept.length, kept.total) == (-1, -1)
    assert kept.template is not None


@pytest.mark.parametrize(("size", "kept"), [(HEAD_KEPT_BYTES_MAX, True), (HEAD_KEPT_BYTES_MAX + 1, False)])
def test_a_long_head_is_not_kept(size: int, *, kept: bool) -> None:
    here, start = site(), b"GET /x HTTP/1.1\r\nHost: x\r\nAccept: "
    raw = start + b"b" * (size - len(start) - 4) + b"\r\n\r\n"
    first = here.head(raw, NoHead)
    assert (len(first.raw), first.size) == (size if kept else 0, size)
    assert (here.head(raw, first).template is not None) == kept


def test_what_an_application_does_to_its_environ_does_not_reach_the_next_request() -> None:
    here = site()
    first = here.head(request("Accept: a"), NoHead)
    environ = first.take()
    for key in list(environ):
        environ[key] = "mine"
    assert here.head(request("Accept: b"), first).take() == here.head(request("Accept: b"), NoHead).take()


@pytest.mark.parametrize("second", ["http://a:81/x", "/x"])
def test_the_host_and_the_request_line_of_the_last_head_stand_only_for_the_same_ones(second: str) -> None:
    here = site()
    last: Head | type[NoHead] = NoHead
    for start in ("POST /x?y HTTP/1.1", f"POST {second} HTTP/1.1", f"POST {second} HTTP/1.0", "GET /x HTTP/1.1"):
        for host in ("a:81", "b", "a:81", "a"):
            raw = f"{start}\r\nHost: {host}\r\n\r\n".encode()
            last = here.head(raw, last)
            assert last.take() == here.head(raw, NoHead).take()
            assert last.http10 == ("1.0" in start)
            if " /x" in start:  # An absolute target replaces Host.
                with pytest.raises(HttpError, match="Host"):
                    here.head(raw.replace(b"Host: ", b"Host: :x"), last)


def test_method_target_and_version_are_those_that_were_sent() -> None:
    parsed = site().head(b"HEAD http://a/b?c HTTP/1.0\r\n\r\n", NoHead)
    assert (parsed.method, parsed.uri, parsed.http10, parsed.sends_body) == ("HEAD", "http://a/b?c", True, False)


# The quick way takes what is ordinary, and only what the exact one would take.


@pytest.mark.parametrize(
    "line",
    [
        "Host", "Accept", "Content-Length", "X-New", "", ":", ": a", " a: b", "Accept : b", "Acc ept: b", "Accept;: b",
        "Äccept: b", "Content-Length:", "Content-Length: 5x", "Content-Length: -1", "Content-Length: \xb2",
        "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\ncontent-length: 6", "Host: x", "HOST: x",
        "Content-Type: a\r\ncontent-type: a", "Transfer-Encoding: chunked\r\nContent-Length: 5", "Transfer-Encoding:",
        "Transfer-Encoding: gzip", "Accept: a\n", "Accept: a\r", "Accept: \0", "Accept: \x0b", "Accept: \x1c",
        "Accept: \x7f", "Accept: a\r\n b", "Accept: a\n\rX-New: b", "Accept: a\nX-New: b\r",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off",
    ],
)  # fmt: skip
def test_a_malformed_field_is_refused(line: str) -> None:
    here = site()
    last = here.head(request(), NoHead)
    for before in (NoHead, last):
        with pytest.raises(HttpError) as error:
            here.head(request(line), before)
        assert error.value.status == 400


@pytest.mark.parametrize(
    "start",
    [
        "POST  /x HTTP/1.1", "POST /x  HTTP/1.1", " POST /x HTTP/1.1", "POST /x HTTP/1.1 ", "POST /x",
        "POST /\xe9 HTTP/1.1", "POST /\x01 HTTP/1.1", "POST\t/x HTTP/1.1", "POST /\tx HTTP/1.1", "POST /#x HTTP/1.1",
        "POST x HTTP/1.1", "POST /x http/1.1", "",
    ],
)  # fmt: skip
def test_a_malformed_request_line_is_refused(start: str) -> None:
    with pytest.raises(HttpError) as error:
        site().head(request(start=start), NoHead)
    assert error.value.status == 400


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("Accept:  a b ", "HTTP_ACCEPT", "a b"), ("accept:a", "HTTP_ACCEPT", "a"), ("Accept: ", "HTTP_ACCEPT", ""),
        ("X-My-Own: a: b", "HTTP_X_MY_OWN", "a: b"), ("Accept: \xa0\x85\xe9\xad", "HTTP_ACCEPT", "\xa0\x85\xe9\xad"),
        ("x-forwarded-proto: https", "HTTP_X_FORWARDED_PROTO", "https"), ("Content-Length: 05", "CONTENT_LENGTH", "05"),
    ],
)  # fmt: skip
def test_an_ordinary_head_goes_the_quick_way(line: str, key: str, value: str, *, trusted: bool) -> None:
    here = site(trusted=trusted)
    parsed = here._quick(request(line), NoHead)
    assert parsed is not None
    environ = parsed.take()
    assert environ[key] == value
    assert environ == here._exact(request(line)).take()
    https = trusted and "forwarded-proto" in line
    assert environ["wsgi.url_scheme"] == ("https" if https else "http")


@pytest.mark.parametrize(
    "raw",
    [
        request("Accept: a\tb"), request("Accept: a\t"), request("Accept: a", "Accept: b"),
        request("X_New: a"), request(start="POST http://a/x HTTP/1.1"), request(start="OPTIONS * HTTP/1.1"),
        request(start="GET /x HTTP/1.2"), request("Accept: " + "a" * 5_000),
    ],
)  # fmt: skip
def test_a_head_that_is_not_ordinary_goes_the_exact_way(raw: bytes) -> None:
    here = site()
    assert here._quick(raw, NoHead) is None
    assert here.head(raw, NoHead).take()["HTTP_HOST"] in ("x", "a")


@pytest.mark.parametrize(("digits", "status"), [("18446744073709551615", 0), ("18446744073709551616", 413)])
def test_a_content_length_over_64_bits_is_413(digits: str, status: int) -> None:
    raw = request(f"Content-Length: {'0' * 3_000}{digits}")
    if not status:
        assert site().head(raw, NoHead).length == int(digits)
        return
    with pytest.raises(HttpError) as error:
        site().head(raw, NoHead)
    assert error.value.status == status


def test_names_that_are_known_are_tokens_that_map_as_any_other() -> None:
    for name, key in KEYS.items():
        assert re.fullmatch(r"[A-Za-z0-9-]+", name)
        assert key == environ_key(name.upper())
    for name in ("x-request-id", "X-Request-ID", "X-Request-Id", "traceparent", "Traceparent", "etag", "DD-API-KEY"):
        assert name in KEYS


# No shared state.


def containers(value: Any, path: str, seen: dict[int, Any]) -> Iterator[tuple[str, int]]:
    """The path and the length of every container that can be reached without leaving the modules of heads."""
    if id(value) in seen:
        return
    seen[id(value)] = value  # And so kept: an id is only unique among what exists.
    if isinstance(value, (dict, list, set, frozenset, tuple, bytearray)):
        yield path, len(value)
    if isinstance(value, dict):
        for key, member in value.items():
            yield from containers(member, f"{path}[{key!r}]", seen)
    elif isinstance(value, (list, tuple)):
        for number, member in enumerate(value):
            yield from containers(member, f"{path}[{number}]", seen)
    elif isinstance(value, ModuleType):
        if value in (head, fields, names, target, refusal):
            yield from containers(vars(value), path, seen)
    elif getattr(type(value), "__module__", "").startswith("wsgi."):
        yield from containers(getattr(value, "__dict__", {}), path, seen)
    elif isinstance(value, type) and value.__module__.startswith("wsgi."):
        yield from containers(dict(vars(value)), path, seen)


def test_a_client_that_sends_a_hundred_thousand_different_heads_leaves_nothing_behind() -> None:
    """So there is nothing that it could flush for the others."""
    here = site(unix=False)

    def sizes() -> dict[str, int]:
        seen: dict[int, Any] = {}
        modules = (head, fields, names, target, refusal)
        roots = [("site", here), *((module.__name__, module) for module in modules)]
        return dict(found for path, root in roots for found in containers(root, path, seen))

    def send(numbers: range) -> None:
        last: Head | type[NoHead] = NoHead
        for number in numbers:
            raw = request(
                f"X-{number}: {number}", f"traceparent: {number}", f"User-Agent: {number}", f"Content-Length: {number}",
                start=f"POST /{number} HTTP/1.1",
            ).replace(b"Host: x", b"Host: h%d" % number)  # fmt: skip
            if number % 10 == 9:
                raw = raw.replace(b"traceparent", b"X_%d" % number)
            if number % 100 == 99:
                with pytest.raises(HttpError):
                    here.head(raw.replace(b"X-", b"X "), last)
            last = here.head(raw, last)
            last.take()

    send(range(2_000))
    before = sizes()
    gc.collect()
    blocks = sys.getallocatedblocks()
    send(range(2_000, CONNECTION_HEADS))
    gc.collect()
    assert sys.getallocatedblocks() - blocks < BLOCKS_LEFT_MAX
    assert sizes() == before
    assert {"site['environ']", "site['rules']['keys']", "wsgi.server.fields['KEYS']"} <= set(before)
