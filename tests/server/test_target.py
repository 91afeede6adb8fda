"""Request lines and authorities, without a socket."""

from __future__ import annotations

import pytest

from wsgi.server.refusal import HttpError
from wsgi.server.target import split_authority, split_request_line


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("", "", ""), ("h", "h", ""), ("h:", "h", ""), ("h:80", "h", "80"), ("127.0.0.1:8000", "127.0.0.1", "8000"),
        ("[::1]", "[::1]", ""), ("[::1]:80", "[::1]", "80"), ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", ""),
        ("[v1.a:b]:1", "[v1.a:b]", "1"), ("a%20b", "a%20b", ""), ("a!$&'()*+,;=_~", "a!$&'()*+,;=_~", ""),
    ],
)  # fmt: skip
def test_a_valid_authority_is_split(authority: str, host: str, port: str) -> None:
    assert split_authority(authority) == (host, port)


@pytest.mark.parametrize(
    "authority",
    ["a:b:c", "h:abc", "[::1", "h:-1", "::1", "[]", "[1.2.3.4]", "[::1]x", "[::1]:x", "[::g]", "[::1%25eth0]", "a%2",
     "a%zz", "u@h", "a/b", "a b", "[v.x]"],
)  # fmt: skip
def test_a_host_that_breaks_the_grammar_was_taken_and_is_refused(authority: str) -> None:
    assert split_authority(authority) is None


@pytest.mark.parametrize(("version", "http10"), [(b"1.0", True), (b"1.1", False), (b"1.2", False), (b"1.9", False)])
def test_every_minor_version_of_http_1_is_served(version: bytes, http10: bool) -> None:
    assert split_request_line(b"GET /x HTTP/" + version + b"\r\n") == ("GET", b"/x", http10)


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"8.4"])
def test_another_major_version_is_505(version: bytes) -> None:
    with pytest.raises(HttpError) as error:
        split_request_line(b"GET /x HTTP/" + version + b"\r\n")
    assert error.value.status == 505
