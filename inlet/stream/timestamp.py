"""Timestamps (RFC 3339 section 5.6): the two patterns, the rare cases, and what is wrong with one that is refused.

What lives here: text in, verdict or words out. What must not: records, bounds on lengths, clocks.

Decisions; a timestamp is kept as sent:
- ``T`` and ``Z`` in either case; any number of fraction digits within the bound; always an offset (``-00:00``
  is one); a space in place of ``T`` is refused.
- A leap second ``:60`` is accepted only in the last minute of a month in UTC, where section 5.7 puts them; not at
  the very end of year 9999.
- Year 0000 is refused, though the grammar has it: most consumers' calendars begin with year 1.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

EXAMPLE = "2026-01-31T23:59:59.123Z"
"""What a detail shows as a valid timestamp."""

# The pattern holds the calendar but for two rare cases, each of which sets a group: 29 February, and ``:60``.
_TIMESTAMP = re.compile(
    r"(?!0000)\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
    r"|(02-29))[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|(60))(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
# PERF: nearly every timestamp has this form, whose pattern is tried in a third of the time (bench/micro.py).
_USUAL_TIMESTAMP = re.compile(
    r"[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|\+00:00)",
    re.ASCII,
)
match = _TIMESTAMP.fullmatch
"""Match any valid form. Where a group is set, ``is_rare`` must agree."""
match_usual = _USUAL_TIMESTAMP.fullmatch
"""Match the usual form, which is always valid."""

# Every part by its shape alone, for the words of ``explain``.
_SHAPE = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)(?P<t>[Tt ])(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
    r"(?P<fraction>[.,]\d*)?(?P<offset>[Zz]|[+-]\d\d:\d\d)?(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?", re.ASCII)


def is_valid(timestamp: str) -> bool:
    """Return whether ``timestamp`` is accepted, its length apart."""
    found = match(timestamp)
    return found is not None and (not found.lastindex or is_rare(timestamp))


def is_rare(timestamp: str) -> bool:
    """Return whether a timestamp of the right form with 29 February or a second of 60 names a real moment."""
    offset = "+00:00" if timestamp[-1] in "Zz" else timestamp[-6:]
    minutes = int(offset[1:3]) * 60 + int(offset[4:6])
    try:
        minute = datetime.fromisoformat(timestamp[:10] + "T" + timestamp[11:16])
        if timestamp[17:19] != "60":
            return True
        utc = minute - timedelta(minutes=minutes if offset[0] == "+" else -minutes)
        after = utc + timedelta(minutes=1)
    except (ValueError, OverflowError):
        return False
    return (after.day, after.hour, after.minute) == (1, 0, 0)


def explain(timestamp: str) -> str:
    """Say what is wrong with a timestamp that ``is_valid`` refuses, and what to send. Quotes none of it."""
    if _NUMBER.fullmatch(timestamp):
        return f"is a number in a string; convert epoch time to RFC 3339, such as {EXAMPLE}"
    shape = _SHAPE.fullmatch(timestamp)
    if shape is None:
        return f"is not RFC 3339; send a form such as {EXAMPLE}"
    return (
        _explain_clock(shape)
        or _explain_day(shape)
        or ("has a leap second where there is none; :60 is valid only in the last minute of a month in UTC")
    )


def _explain_clock(shape: re.Match[str]) -> str | None:
    """What is wrong outside of the calendar, if anything is."""
    offset, rest = shape["offset"], shape["rest"]
    if shape["t"] == " ":
        return "has a space between date and time; put a T there"
    if shape["fraction"] and (shape["fraction"][0] == "," or len(shape["fraction"]) == 1):
        return "has no digits behind a point in its seconds; write a point and digits, or neither"
    if not offset:
        if rest:
            return "ends with something other than an offset; end it with Z, or an offset such as +05:30"
        return "has no offset; add Z for UTC, or an offset such as +05:30"
    if rest:
        return "has text behind the offset; remove it"
    if int(shape["hour"]) > 23:
        return "has an hour over 23; midnight is 00:00:00 of the next day"
    if int(shape["minute"]) > 59 or int(shape["second"]) > 60:
        return "has a minute or a second that no clock shows"
    if offset not in "Zz" and (int(offset[1:3]) > 23 or int(offset[4:6]) > 59):
        return "has an offset that is no time of day; the largest is 23:59"
    return None


def _explain_day(shape: re.Match[str]) -> str | None:
    year, month, day = (int(shape[name]) for name in ("year", "month", "day"))
    if year == 0:
        return "is in year 0000; years begin with 0001"
    try:
        datetime(year, month, day)
    except ValueError:
        return "names a day that does not exist; check month and day"
    return None
