"""wsgi.receivers.mediatype: the media types that work, their parameters, and what the others are told.

What lives here: the header Content-Type. What must not: bodies.
"""

from __future__ import annotations

import pytest

from tests.receivers.support import LINE, NDJSON, ONE, Read, parse, refusal
from wsgi.receivers.mediatype import CONTENT_TYPE_CHARS_MAX

# ---- media types


@pytest.mark.parametrize("parameters", ["", ";charset=utf-8", '; Charset="UTF-8"', " ; charset=us-ascii", "; v=1;"])
def test_the_media_types_that_work_do_so_in_any_case_and_with_parameters(parameters: str) -> None:
    for media_type in ("application/json", "", "text/plain", "Application/JSON", "application/vnd.x+json", "a/b+JSON"):
        assert parse(ONE, media_type + parameters, None) == Read([LINE], [], 0, False)
    for media_type in (NDJSON, "application/jsonl", "application/jsonlines", "Application/X-NDJSON"):
        assert parse(ONE, media_type + parameters, None) == Read([LINE], [], 0, True)


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/xml", "json", "application/", "+json", "application/+json", "a/b/c+json", "*/*", "ü",
     "application/json2", "multipart/form-data; boundary=x", "application/json, text/plain"],
)  # fmt: skip
def test_another_media_type_is_unsupported_and_the_detail_names_those_that_work(content_type: str) -> None:
    said = refusal("unsupported-media-type", ONE, content_type)
    for works in ("application/json", NDJSON, "application/jsonl", "application/jsonlines"):
        assert works in said
    # curl's default type is told what to add.
    hint = refusal("unsupported-media-type", ONE, "application/x-www-form-urlencoded")
    assert hint == f"with curl, add -H 'Content-Type: application/json'. {said}"


@pytest.mark.parametrize("charset", ["latin1", "utf-16", '"iso-8859-1"', "", "utf-8x"])
def test_a_charset_other_than_utf8_is_unsupported(charset: str) -> None:
    for media_type in ("application/json", NDJSON, "text/plain"):
        sent = f'{media_type}; q="a;charset=utf-8"; charset={charset}'
        assert "utf-8" in refusal("unsupported-media-type", ONE, sent)
    assert parse(ONE, f'application/json; q="a;charset={charset.strip(chr(34))}"', None).lines == [LINE]


def test_a_content_type_at_its_bound_is_read_and_one_past_it_unsupported() -> None:
    assert parse(ONE, "application/json;".ljust(CONTENT_TYPE_CHARS_MAX), None).lines == [LINE]
    refusal("unsupported-media-type", ONE, "application/json;".ljust(CONTENT_TYPE_CHARS_MAX + 1))
