"""inlet.stream.timestamp through a record: which timestamps are accepted, and what the others are told.

What lives here: the grammar of RFC 3339 and the calendar. What must not: the other members of a record (test_record).
"""

from __future__ import annotations

import calendar

import pytest

from inlet.stream.errors import RecordInvalid
from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode, encoder

encode = encoder(RecordLimits())


def refusal(timestamp: str) -> str | None:
    """The detail that a record with this timestamp is refused with; None where it is accepted, and kept as sent."""
    value = {"event_id": "e-1", "timestamp": timestamp, "service": "api", "message": "hello"}
    try:
        line = encode(value)
    except RecordInvalid as error:
        return error.detail
    assert decode(line).timestamp == timestamp
    return None


def accepted(timestamp: str) -> bool:
    """Whether a record with this timestamp is valid."""
    return refusal(timestamp) is None


# ---- timestamps (RFC 3339 section 5.6)


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-01-31T23:59:59Z", "2026-01-31t23:59:59z", "2026-01-31T23:59:59z", "2026-01-31T00:00:00.5Z",
        "2026-01-31T23:59:59.123456789Z", "2026-01-31T23:59:59.123456789012345678+05:30", "2026-01-31T23:59:59+05:30",
        "2026-01-31T23:59:59-00:00", "2026-01-31T23:59:59+00:00", "2026-01-31T23:59:59-23:59", "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999-23:59", "0001-01-01T00:00:00+23:59", "2024-02-29T00:00:00Z",
        "2000-02-29T12:00:00+14:00", "0004-02-29T00:00:00+23:59",
    ],
)  # fmt: skip
def test_an_rfc_3339_timestamp_is_accepted_and_kept_as_sent(timestamp: str) -> None:
    assert accepted(timestamp)


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-01-31T23:59:59", "2026-01-31T24:00:00Z", "2026-01-31T23:60:00Z", "2026-01-31T23:59:61Z",
        "2026-02-30T00:00:00Z", "2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2100-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z", "2026-00-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z",
        "2026-01-32T00:00:00Z", "0000-01-01T00:00:00Z", "0000-02-29T00:00:00Z", "2026-01-31T23:59:59Z\n",
        "\n2026-01-31T23:59:59Z", "\x202026-01-31T23:59:59Z", "2026-01-31T23:59:59Z\x20", "2026-01-31T23:59:59Z\0",
        "2026-01-31\x2023:59:59Z", "2026-01-31T23:59:59.Z", "2026-01-31T23:59:59,5Z", "2026-01-31T23:59Z",
        "2026-01-31T23:59:5Z", "2026-01-31T23:59:59+24:00", "2026-01-31T23:59:59+05:60", "2026-01-31T23:59:59+0530",
        "2026-01-31T23:59:59+05", "2026-01-31T23:59:59\u221205:00", "2026-01-31T23:59:59UTC", "20260131T235959Z",
        "26-01-31T23:59:59Z", "+2026-01-31T23:59:59Z", "12026-01-31T23:59:59Z", "-2026-01-31T23:59:59Z",
        "\u0662\u0660\u0662\u0666-01-31T23:59:59Z", "2026-01-31T23:59:59.\uff11Z", "2026-01-31T23:59:59+0\u0665:30",
        "\uff12026-01-31T23:59:59Z", "2026-W05-6T23:59:59Z", "2026-031T23:59:59Z", "1769903999",
        "2026-1-31T23:59:59Z", "2026-01-31", "now", "Z",
    ],
)  # fmt: skip
def test_what_rfc_3339_forbids_or_the_calendar_lacks_is_refused(timestamp: str) -> None:
    assert not accepted(timestamp)


@pytest.mark.parametrize("year", [1, 1900, 2000, 2023, 2024, 2100, 9999])
def test_exactly_the_days_of_the_calendar_are_accepted(year: int) -> None:
    for month in range(14):
        days = calendar.monthrange(year, month)[1] if 1 <= month <= 12 else 0
        for day in range(34):
            assert accepted(f"{year:04}-{month:02}-{day:02}T12:00:00Z") is (1 <= day <= days)


@pytest.mark.parametrize("number", range(100))
def test_hours_minutes_seconds_and_offsets_end_where_a_clock_does(number: int) -> None:
    assert accepted(f"2026-01-30T{number:02}:00:00Z") is (number < 24)
    assert accepted(f"2026-01-30T00:{number:02}:00Z") is (number < 60)
    assert accepted(f"2026-01-30T00:00:{number:02}Z") is (number < 60)
    assert accepted(f"2026-01-30T00:00:00-{number:02}:00") is (number < 24)
    assert accepted(f"2026-01-30T00:00:00+00:{number:02}") is (number < 60)


@pytest.mark.parametrize(
    ("timestamp", "is_real"),
    [
        ("2016-12-31T23:59:60Z", True), ("1990-06-30t23:59:60.75z", True), ("2016-12-31T18:59:60-05:00", True),
        ("2017-01-01T05:29:60+05:30", True), ("2017-01-01T00:00:60+00:01", True), ("2026-02-28T23:59:60Z", True),
        ("2024-02-29T23:59:60-00:00", True), ("2024-02-29T22:59:60-01:00", True), ("2024-02-28T23:59:60Z", False),
        ("2023-02-29T23:59:60Z", False), ("2016-12-31T23:59:60+01:00", False), ("2016-12-31T23:58:60Z", False),
        ("2016-12-31T22:59:60Z", False), ("2016-12-30T23:59:60Z", False), ("2016-12-31T23:59:60-05:00", False),
        ("2016-12-31T23:59:60.", False), ("2016-12-31T23:59:60", False),
        # UTC would leave the calendar's years: refused, and without an OverflowError.
        ("0001-01-01T00:00:60+23:59", False), ("9999-12-31T23:59:60-23:59", False),
    ],
)  # fmt: skip
def test_a_leap_second_is_accepted_only_in_the_last_minute_of_a_month_in_utc(timestamp: str, is_real: bool) -> None:
    assert accepted(timestamp) is is_real


@pytest.mark.parametrize(
    ("timestamp", "words"),
    [
        ("2026-01-31T23:59:59", "has no offset; add Z"), ("2026-01-31 23:59:59Z", "has a space between date and time"),
        ("2026-02-30T00:00:00Z", "a day that does not exist"), ("2026-13-01T00:00:00Z", "a day that does not exist"),
        ("2026-01-31T24:00:00Z", "an hour over 23"), ("2026-01-31T23:60:00Z", "that no clock shows"),
        ("2026-01-31T23:59:61Z", "that no clock shows"), ("2016-12-30T23:59:60Z", "a leap second where there is none"),
        ("0000-01-01T00:00:00Z", "is in year 0000"), ("now", "is not RFC 3339; send a form such as"),
        ("1769903999", "convert epoch time to RFC 3339"), ("1769903999.5", "convert epoch time to RFC 3339"),
        ("2026-01-31T23:59:59+0530", "ends with something other than an offset"),
        ("2026-01-31T23:59:59 UTC", "ends with something other than an offset"),
        ("2026-01-31T23:59:59+24:00", "the largest is 23:59"), ("2026-01-31T23:59:59Z\n", "text behind the offset"),
        ("2026-01-31T23:59:59,5Z", "write a point and digits"), ("2026-01-31T23:59:59.Z", "write a point and digits"),
    ],
)  # fmt: skip
def test_a_refused_timestamp_is_told_what_was_found_and_what_to_send(timestamp: str, words: str) -> None:
    got = refusal(timestamp)
    assert got is not None
    assert got.startswith("timestamp ")
    assert words in got
