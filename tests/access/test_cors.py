"""CORS without a server: which origins the setting takes, which requests pass, and every field of the answers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi.access.cors import ANSWER_FIELDS, PREFLIGHT_SECONDS, REQUEST_FIELDS, Cors, parse_origins
from wsgi.problems import Denied

APP = "https://app.example.com"
DEV = "http://localhost:3000"
LISTED = Cors(f"{APP}, {DEV}")
ANSWER = [
    ("access-control-allow-origin", APP),
    ("access-control-allow-credentials", "true"),
    ("access-control-expose-headers", ANSWER_FIELDS),
    ("vary", "Origin"),
]


def environ(origin: str | None, host: str = "inlet.example.com", scheme: str = "http", **more: str) -> dict[str, Any]:
    """A request's environ, as far as CORS reads it; ``more``: header fields."""
    fields = {"HTTP_HOST": host, "wsgi.url_scheme": scheme, **{f"HTTP_{name}": value for name, value in more.items()}}
    return fields if origin is None else {**fields, "HTTP_ORIGIN": origin}


def asks(origin: str, **more: str) -> dict[str, Any]:
    """The environ of a preflight."""
    return environ(origin, ACCESS_CONTROL_REQUEST_METHOD="POST", **more)


@pytest.mark.parametrize(
    "text",
    [
        "https://app.example.com", "http://localhost:3000", "http://127.0.0.1:1", "https://a.example:65535",
        "http://[::1]:8080", "https://[2001:db8::1]", "null", "*", "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "http://a.example:443", "https://xn--bcher-kva.example", "http://my_host.", "https://a.example , null,http://b",
    ],
)  # fmt: skip
def test_an_origin_as_browsers_serialize_it_is_taken(text: str) -> None:
    assert parse_origins(text) == {origin.strip() for origin in text.split(",")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://app.example.com/", "no path: write https://app.example.com"),
        ("https://app.example.com/a", "no path"),
        ("https://app.example.com?a", "no path"),
        ("https://App.example.com", "lower case: write https://app.example.com"),
        ("HTTPS://app.example.com", "lower case"),
        ("https://app.example.com:443", "default port: write https://app.example.com"),
        ("http://[::1]:80", r"default port: write http://\[::1\]"),
        ("https://app.example.com:0", "1 to 65535"),
        ("https://app.example.com:65536", "1 to 65535"),
        ("https://app.example.com:08080", "1 to 65535"),
        ("https://app.example.com:123456", "not an origin"),
        ("https://app.example.com:", "not an origin"),
        ("app.example.com", "not an origin: write https://"),
        ("//app.example.com", "not an origin"),
        ("https://", "not an origin"),
        ("https://user@app.example.com", "not an origin"),
        ("https://a b", "not an origin"),
        ("https://a\nx: y", "not an origin"),
        ("https://a.example;https://b.example", "not an origin"),
        ("https://*.example.com", "no patterns"),
        ("*, https://a.example", "alone"),
        ("*,null", "alone"),
        ("https://a.example,,https://b.example", "empty"),
        (",", "empty"),
        (" ", "empty"),
        ("https://bücher.example", "Punycode"),
        ("https://[::1", "not an origin"),
        ("https://[1:2]", "not an IPv6 address"),
        ("https://[0:0::1]", r"as \[::1\]"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_origins(text)
    with pytest.raises(ValueError, match=words):
        Cors(text)


def test_a_listed_origin_gets_its_name_back_and_another_is_denied() -> None:
    assert LISTED.headers(environ(APP)) == ANSWER
    assert LISTED.headers(environ(DEV))[0] == ("access-control-allow-origin", DEV)
    with pytest.raises(Denied) as refusal:
        LISTED.headers(environ("https://evil.example"))
    assert refusal.value.reason == "origin-not-allowed"
    assert refusal.value.headers == [("vary", "Origin")]
    assert "evil" not in refusal.value.detail


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.evil.example", "https://app.example.co", "https://app.example.comx", "http://app.example.com",
        "https://app.example.com:8443", "https://app.example.com/", "https://APP.example.com", "https://evil.app.example.com",
        "null", "", "*", f"{APP}, {APP}", f"{APP}\r\nx: y",
    ],
)  # fmt: skip
def test_only_the_exact_origin_is_allowed(origin: str) -> None:
    for check in (LISTED.headers, LISTED.preflight):
        with pytest.raises(Denied):
            check(asks(origin))


@pytest.mark.parametrize("setting", [None, ""])
def test_without_a_list_every_other_origin_is_denied(setting: str | None) -> None:
    cors = Cors(setting)
    for origin in (APP, "null", "*", DEV, ""):
        with pytest.raises(Denied):
            cors.headers(environ(origin))
        with pytest.raises(Denied):
            cors.preflight(asks(origin))


def test_a_request_without_an_origin_comes_from_no_page() -> None:
    for cors in (Cors(None), LISTED, Cors("*")):
        assert cors.headers(environ(None)) == []
        assert cors.preflight(environ(None, ACCESS_CONTROL_REQUEST_METHOD="POST")) is None


def test_a_star_allows_all_without_credentials_and_without_their_names() -> None:
    for origin in (APP, "null", "https://evil.example", "x\r\ny: z"):
        fields = Cors("*").headers(environ(origin))
        assert fields == [("access-control-allow-origin", "*"), *ANSWER[2:]]
        asked = dict(Cors("*").preflight(asks(origin)) or [])
        assert asked["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in asked


def test_null_is_allowed_where_it_is_listed() -> None:
    fields = Cors("null").headers(environ("null"))
    assert fields[:2] == [("access-control-allow-origin", "null"), ("access-control-allow-credentials", "true")]
    with pytest.raises(Denied):
        Cors("null").headers(environ(APP))


def test_a_preflight_gets_the_fixed_lists_whatever_it_asks_for() -> None:
    for asked in ("content-type", "x-evil, authorization", "x\r\ny: z"):
        assert LISTED.preflight(asks(APP, ACCESS_CONTROL_REQUEST_HEADERS=asked)) == [
            ("access-control-allow-origin", APP),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", REQUEST_FIELDS),
            ("access-control-max-age", str(PREFLIGHT_SECONDS)),
            ("vary", "Origin"),
        ]


def test_an_options_request_that_asks_for_nothing_is_no_preflight() -> None:
    assert LISTED.preflight(environ(APP)) is None
    assert LISTED.preflight(environ("https://evil.example")) is None


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("http://inlet.example.com", "inlet.example.com", "http"),
        ("http://inlet.example.com", "inlet.example.com:80", "http"),
        ("http://inlet.example.com:8000", "inlet.example.com:8000", "http"),
        ("https://inlet.example.com", "inlet.example.com", "https"),
        ("https://inlet.example.com", "inlet.example.com:443", "https"),
        ("https://inlet.example.com", "INLET.example.com", "https"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
        ("http://[::1]", "[::1]", "http"),
        ("http://inlet.example.com", "inlet.example.com:", "http"),
        # A proxy ended TLS.
        ("https://inlet.example.com", "inlet.example.com", "http"),
        ("https://inlet.example.com", "inlet.example.com:443", "http"),
        ("https://inlet.example.com:8443", "inlet.example.com:8443", "http"),
    ],
)
def test_a_page_of_the_server_itself_passes_without_fields(origin: str, host: str, scheme: str) -> None:
    for cors in (Cors(None), LISTED):
        assert cors.headers(environ(origin, host, scheme)) == []
        assert cors.preflight({**environ(origin, host, scheme), "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}) is None


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("http://inlet.example.com", "inlet.example.com", "https"),  # a page of plain HTTP, a server over TLS
        ("http://inlet.example.com", "inlet.example.com:443", "http"),
        ("https://inlet.example.com", "inlet.example.com:80", "https"),
        ("http://inlet.example.com:8000", "inlet.example.com", "http"),
        ("http://inlet.example.com", "inlet.example.com:8000", "http"),
        ("http://inlet.example.com:8001", "inlet.example.com:8000", "http"),
        ("http://example.com", "inlet.example.com", "http"),
        ("ftp://inlet.example.com", "inlet.example.com", "http"),
        ("http://inlet.example.com/", "inlet.example.com", "http"),
        ("null", "null", "http"),
        ("", "", "http"),
    ],
)
def test_any_other_page_does_not(origin: str, host: str, scheme: str) -> None:
    with pytest.raises(Denied):
        Cors(None).headers(environ(origin, host, scheme))


def test_without_a_host_no_page_is_of_this_server() -> None:
    with pytest.raises(Denied):
        Cors(None).headers({"HTTP_ORIGIN": "http://a.example", "wsgi.url_scheme": "http"})


@pytest.mark.parametrize(
    ("site", "passes"),
    [
        ("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False), ("", False),
        ("same-origin, same-origin", False),
    ],
)  # fmt: skip
def test_the_word_of_the_browser_goes_before_the_host(site: str, passes: bool) -> None:
    same, other = "http://inlet.example.com", "http://upstream:8000"
    for origin in (same, other, "null"):
        if passes:
            assert Cors(None).headers(environ(origin, SEC_FETCH_SITE=site)) == []
        else:
            with pytest.raises(Denied):
                Cors(None).headers(environ(origin, SEC_FETCH_SITE=site))


def test_a_listed_origin_gets_its_fields_even_where_it_looks_like_this_server() -> None:
    # A page over plain HTTP, Inlet behind a proxy that ends TLS, one name: Inlet sees no difference, the browser does.
    cors = Cors("http://inlet.example.com")
    assert cors.headers(environ("http://inlet.example.com"))[0][1] == "http://inlet.example.com"


@given(st.text(), st.text(), st.none() | st.text())
def test_nothing_of_a_request_raises_anything_else_or_gets_into_a_field(
    origin: str, host: str, site: str | None
) -> None:
    request = environ(origin, host)
    if site is not None:
        request["HTTP_SEC_FETCH_SITE"] = site
    for cors in (Cors(None), LISTED, Cors("*")):
        try:
            fields = cors.headers(request)
        except Denied:
            continue
        assert fields in ([], ANSWER, [("access-control-allow-origin", "*"), *ANSWER[2:]])


@given(st.text())
def test_a_malformed_list_raises_only_value_errors(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_origins(text)
