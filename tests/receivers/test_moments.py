"""wsgi.receivers.moments: epochs of four units and texts of many forms become RFC 3339, with all of their digits."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream import timestamp as timestamps
from wsgi.receivers import moments

NANOS = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_123.25, "2023-11-14T22:13:20.123250Z"),
        (1_700_000_000_123_456, "2023-11-14T22:13:20.123456Z"),
        (NANOS, "2023-11-14T22:13:20.123456789Z"),
        ("1700000000.123456789", "2023-11-14T22:13:20.123456789Z"),
        (str(NANOS), "2023-11-14T22:13:20.123456789Z"),
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
        (99_999_999_999, "5138-11-16T09:46:39Z"),
        (100_000_000_000, "1973-03-03T09:46:40Z"),
        ("2026-01-31T23:59:59.123456789Z", "2026-01-31T23:59:59.123456789Z"),
        ("2026-01-31T23:59:59+05:30", "2026-01-31T23:59:59+05:30"),
        ("2026-01-31t23:59:59z", "2026-01-31t23:59:59z"),
        ("2026-01-31 23:59:59,123", "2026-01-31T23:59:59.123Z"),
        ("2026/01/31 23:59:59.5 +0530", "2026-01-31T23:59:59.5+05:30"),
        ("2026-01-31 23:59:59 UTC", "2026-01-31T23:59:59Z"),
        ("2026-01-31T23:59+02", "2026-01-31T23:59:00+02:00"),
        ({"$date": "2026-01-31T23:59:59Z"}, "2026-01-31T23:59:59Z"),
        ({"$date": 1_700_000_000_123}, "2023-11-14T22:13:20.123Z"),
    ],
)
def test_a_moment_becomes_rfc_3339(value: object, expected: str) -> None:
    assert moments.from_any(value) == expected
    assert timestamps.is_valid(expected)


@pytest.mark.parametrize(
    "value",
    [
        None, True, [], {}, "", "now", "2026-02-30T00:00:00Z", "2026-01-31", "2026-01-31T25:00:00Z", float("inf"),
        float("nan"), 1e30, 10**40, -(10**40), "1" * 41, "x" * 65, "1e9", {"$date": {"$date": 1}}, "\uff11",
        {"$date": {"$numberLong": "1"}}, 253_402_300_800_000_000_000,
    ],
)  # fmt: skip
def test_what_is_no_moment_is_none(value: object) -> None:
    assert moments.from_any(value) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_longer_than_python_converts_is_none(sign: int) -> None:
    assert moments.from_any(sign * 10**5_000) is None


def test_a_unit_that_is_given_is_not_guessed() -> None:
    assert moments.from_number(5, 9) == "1970-01-01T00:00:05Z"
    assert moments.from_number(5, 6) == "1970-01-01T00:00:00.005Z"
    assert moments.from_text("5", 0) == "1970-01-01T00:00:00.000000005Z"


@pytest.mark.parametrize(
    ("text", "zone", "made"),
    [
        ("2026-01-31 23:59:59.123000", "+01:00", "2026-01-31T23:59:59.123000+01:00"),
        ("2026-01-31 23:59:59.123000", "-0530", "2026-01-31T23:59:59.123000-05:30"),
        ("2026-01-31 23:59:59.123000", "UTC", "2026-01-31T23:59:59.123000Z"),
        ("2026-01-31 23:59:59", "GMT", "2026-01-31T23:59:59Z"),
        ("2026-01-31 23:59:59", "Z", "2026-01-31T23:59:59Z"),
        ("2026-01-31 23:59:59", "Europe/Berlin", "2026-01-31T23:59:59+01:00"),
        ("2026-07-31 23:59:59.5", "Europe/Berlin", "2026-07-31T23:59:59.5+02:00"),
        ("2026-07-31 23:59", "America/Argentina/Buenos_Aires", "2026-07-31T23:59:00-03:00"),
        ("2026-01-31 23:59:59", "America/St_Johns", "2026-01-31T23:59:59-03:30"),
        ("2026-01-31 23:59:59", "Asia/Kathmandu", "2026-01-31T23:59:59+05:45"),
        ("2026-10-25 02:30:00", "Europe/Berlin", "2026-10-25T02:30:00+02:00"),
        ("2026-01-31 23:59:59+03:00", "Europe/Berlin", "2026-01-31T23:59:59+03:00"),
        ("1800-01-31 23:59:59", "Europe/Berlin", None),
        ("2026-02-31 23:59:59", "Europe/Berlin", None),
        ("2026-01-31 23:59:59", "EST", None),
        ("2026-01-31 23:59:59", "Europe/Atlantis", None),
        ("2026-01-31 23:59:59", "../etc/passwd", None),
        ("2026-01-31 23:59:59", "Europe/" + "x" * 21, None),
        ("2026-01-31 23:59:59", "", None),
        ("2026-01-31 23:59:59", "+99:00", None),
        ("1769903999", "+01:00", None),
        ("soon", "Europe/Berlin", None),
        (" " * 200 + "2026-01-31 23:59:59", "+01:00", None),
    ],
)
def test_a_zone_beside_a_text_is_an_offset_or_a_name_that_is_known(text: str, zone: str, made: str | None) -> None:
    assert moments.from_zoned(text, zone) == made


@given(st.datetimes().map(str) | st.text(max_size=30), st.sampled_from(["Europe/Berlin", "UTC", "+14:00"]) | st.text())
def test_whatever_zone_comes_the_moment_is_none_or_valid(text: str, zone: str) -> None:
    made = moments.from_zoned(text, zone)
    assert made is None or timestamps.is_valid(made)


@pytest.mark.parametrize(
    ("seconds", "within"),
    [
        (moments.SECONDS_MIN, True), (moments.SECONDS_MIN - 1, False),
        (moments.SECONDS_MAX, True), (moments.SECONDS_MAX + 1, False),
    ],
)  # fmt: skip
def test_the_first_and_the_last_second_and_one_past_them(seconds: int, within: bool) -> None:
    made = moments.from_parts(seconds, 0)
    assert (made is not None) == within
    assert made is None or timestamps.is_valid(made)


def test_nanoseconds_of_a_whole_second_or_more_are_no_moment() -> None:
    assert moments.from_parts(0, moments.NANOS - 1) == "1970-01-01T00:00:00.999999999Z"
    assert moments.from_parts(0, moments.NANOS) is None
    assert moments.from_parts(0, -1) is None


@given(st.integers(moments.SECONDS_MIN * moments.NANOS, (moments.SECONDS_MAX + 1) * moments.NANOS - 1))
def test_every_nanosecond_of_ten_thousand_years_is_valid_and_exact(nanos: int) -> None:
    made = moments.from_nanos(nanos)
    assert made is not None
    assert timestamps.is_valid(made)
    whole = datetime.fromisoformat(made[:19]).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (whole.days * 86_400 + whole.seconds) * moments.NANOS + int(made[20:29]) == nanos


@given(st.one_of(st.text(max_size=80), st.floats(), st.integers(), st.datetimes().map(str)))
def test_whatever_comes_is_none_or_valid(value: object) -> None:
    made = moments.from_any(value)
    assert made is None or timestamps.is_valid(made)
