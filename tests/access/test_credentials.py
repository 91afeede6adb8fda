"""Where a key stands in a request: every client's way, and what else may stand there."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi.access.credentials import PLACES_MAX, VALUE_CHARS_MAX, found_in, parse

ID, SECRET = "3f9a0c12be47", "0123456789abcdef" * 4
KEY = f"inlet_{ID}_{SECRET}"


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def parsed(**environ: Any) -> list[tuple[str, str] | None]:
    return [parse(found) for found in found_in(environ)]


SENT = [
    ("HTTP_AUTHORIZATION", f"Bearer {KEY}"),
    ("HTTP_AUTHORIZATION", f"bearer {KEY}"),
    ("HTTP_AUTHORIZATION", f"BEARER   {KEY} "),
    ("HTTP_AUTHORIZATION", f"Basic {b64('user:' + KEY)}"),
    ("HTTP_AUTHORIZATION", f"basic {b64(':' + KEY)}"),
    ("HTTP_AUTHORIZATION", f"Basic {b64('üñí:' + KEY)}"),
    ("HTTP_AUTHORIZATION", f"Splunk {KEY}"),
    ("HTTP_AUTHORIZATION", f"splunk {KEY}"),
    ("HTTP_AUTHORIZATION", f"ApiKey {KEY}"),
    ("HTTP_AUTHORIZATION", f"apikey {KEY}"),
    ("HTTP_AUTHORIZATION", f"ApiKey {b64('inlet:' + KEY)}"),
    ("HTTP_X_API_KEY", KEY),
    ("HTTP_X_API_KEY", f" {KEY}\t"),
    ("HTTP_DD_API_KEY", KEY),
    ("QUERY_STRING", f"key={KEY}"),
    ("QUERY_STRING", f"receipt=1&key={KEY}&x"),
    ("QUERY_STRING", f"key={KEY.replace('_', '%5f')}"),
]


@pytest.mark.parametrize(("name", "value"), SENT)
def test_a_key_is_read_as_every_client_sends_it(name: str, value: str) -> None:
    assert parsed(**{name: value}) == [(ID, SECRET)]


NONE = [
    "", " ", "Bearer", "Bearer ", KEY, f"Bearer{KEY}", f"Bearer\t{KEY}", f"Bearer {KEY}x", f"Bearer x{KEY}",
    f"Bearer {KEY},Bearer {KEY}", f"Bearer {KEY}\n", f"Bearer {KEY.upper()}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}0",
    f"Bearer {KEY.replace('3', chr(0x0663))}", f"Digest {KEY}", f"Token {KEY}", f"Bearer {b64('a:' + KEY)}",
    f"Splunk {b64('a:' + KEY)}", f"Basic {KEY}", f"Basic {b64(KEY)}", f"Basic {b64(KEY + ':')}",
    f"Basic {b64('a:b:' + KEY)}", f"Basic {b64('a:' + KEY + ' ')}", f"Basic {b64('a:' + KEY)}!", "Basic ====",
    f"Basic {b64('a:' + KEY)[:-2]}", "Basic \xff\xfe", "Basic a\xe4=", "Basic " + b64("a" * 50), f"ApiKey {b64(KEY)}",
    "ApiKey \xff", "\xff \xff", "Basic " + b64encode(b"\xff:\xff").decode(), "Bearer inlet__", "Bearer inlet_",
]  # fmt: skip


@pytest.mark.parametrize("value", NONE)
def test_what_is_not_quite_a_key_is_a_credential_that_is_none(value: str) -> None:
    assert parsed(HTTP_AUTHORIZATION=value) == [None]


@pytest.mark.parametrize("query", ["", "receipt=1", f"Key={KEY}", f"xkey={KEY}", f"k%65y={KEY}", f"a=key={KEY}", "key"])
def test_a_query_without_the_parameter_key_has_no_credential(query: str) -> None:
    assert parsed(QUERY_STRING=query) == []


def test_no_query_and_no_field_are_no_credential() -> None:
    assert parsed() == []


def test_every_place_is_looked_at() -> None:
    fields = {"HTTP_AUTHORIZATION": f"Bearer {KEY}", "HTTP_X_API_KEY": "x", "HTTP_DD_API_KEY": KEY}
    assert parsed(**fields, QUERY_STRING=f"key={KEY}&key=") == [(ID, SECRET), None, (ID, SECRET), (ID, SECRET), None]


def test_a_value_at_the_bound_is_read_and_one_past_it_is_not() -> None:
    at = f"Bearer {' ' * (VALUE_CHARS_MAX - len(KEY) - 7)}{KEY}"
    assert len(at) == VALUE_CHARS_MAX
    assert parsed(HTTP_AUTHORIZATION=at) == [(ID, SECRET)]
    assert parsed(HTTP_AUTHORIZATION=at.replace(" ", "  ", 1)) == [None]
    assert parsed(HTTP_X_API_KEY="a" * 1_000_000) == [None]


def test_a_query_of_many_keys_is_not_read_to_its_end() -> None:
    assert len(found_in({"QUERY_STRING": f"key={KEY}&" * 100_000})) == PLACES_MAX + 1


@given(
    st.dictionaries(
        st.sampled_from(["HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_DD_API_KEY", "QUERY_STRING"]),
        st.one_of(
            st.text(st.characters(max_codepoint=255)),
            st.builds(
                "{}{}{}".format,
                st.sampled_from(["Bearer ", "Basic ", "ApiKey ", "Splunk ", "key=", "a&key=%"]),
                st.text(st.characters(max_codepoint=255)),
                st.sampled_from(["", "=", "==", KEY]),
            ),
        ),
    )
)
@example({"QUERY_STRING": "key=%ff%00"})
def test_nothing_that_a_server_passes_on_raises(environ: dict[str, str]) -> None:
    for credential in parsed(**environ):
        assert credential in (None, (ID, SECRET))
