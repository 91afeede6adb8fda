"""Moments as foreign clients write them, turned into RFC 3339 with all of their precision.

What lives here: epochs in seconds, milliseconds, microseconds and nanoseconds, and texts. What must not: which member
of a record holds its time, the clock, what a valid timestamp is (``inlet.stream.timestamp``).

An epoch's unit is told by its size: 1e11 seconds are in the year 5138, and 1e11 milliseconds in 1973. So the four
units overlap nowhere between 1973 and 5138.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from inlet.stream import timestamp as timestamps

NANOS = 1_000_000_000
SECONDS_MIN, SECONDS_MAX = -62_135_596_800, 253_402_300_799
"""The first second of year 1, and the last of year 9999: what RFC 3339, and the contract, can say."""
TEXT_CHARS_MAX = 64
"""Characters of a text that is read as a moment; a longer one is something else."""
DIGITS_MAX = 40
"""Digits of a number that is read as one."""
UNITS = ((100_000_000_000, 9), (100_000_000_000_000, 6), (100_000_000_000_000_000, 3))
"""Epochs below each bound have a unit of so many powers of ten over nanoseconds; all others are nanoseconds."""

_NUMBER = re.compile(rf"([+-]?)(\d{{1,{DIGITS_MAX}}})(?:\.(\d{{0,{DIGITS_MAX}}}))?", re.ASCII)
_EXPONENT = re.compile(r"[eE]")
# A date and a time of day, apart by T or spaces; a comma for a point, as Python's logging writes it; any usual offset.
_MOMENT = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[Tt _]\s?(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)?\s*"
    r"(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
UTC_NAMES = frozenset({"UTC", "GMT", "Z"})
"""Abbreviations of a zone that mean one offset everywhere; EST, IST and others do not."""
MINUTE = timedelta(minutes=1)
ZONES_MAX = 64
"""Zones that are kept."""
_OFFSET = re.compile(r"[+-]\d\d:?\d\d", re.ASCII)
_ZONE = re.compile(r"[A-Za-z_]{1,20}(?:/[A-Za-z0-9_+-]{1,20}){1,2}", re.ASCII)


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """``2026-01-31T23:59:59``. PERF: many records in a row are of one second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def from_nanos(nanos: int) -> str | None:
    """Return RFC 3339 in UTC with nine digits, or None outside of years 1 to 9999. ``nanos``: since 1970."""
    seconds, rest = divmod(nanos, NANOS)
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        return None
    return f"{_second(seconds)}.{rest:09d}Z"


def from_parts(seconds: int, nanos: int) -> str | None:
    """Return the same of seconds and nanoseconds (0 to 999,999,999) apart."""
    if 0 <= nanos < NANOS and SECONDS_MIN <= seconds <= SECONDS_MAX:
        return f"{_second(seconds)}.{nanos:09d}Z"
    return None


def from_number(number: float, unit: int | None = None) -> str | None:
    """Return RFC 3339 of an epoch, or None if it is none. ``unit``: powers of ten over nanoseconds (9: seconds);
    None: by its size. A float has the digits that its shortest form shows: those that the client wrote.
    """
    if type(number) is int:
        return _epoch(str(number), unit) if -(10**DIGITS_MAX) < number < 10**DIGITS_MAX else None
    text = repr(number)
    if _EXPONENT.search(text):
        text = f"{number:.9f}"
    return _epoch(text, unit)


def from_text(text: str, unit: int | None = None) -> str | None:
    """Return RFC 3339 of a text: RFC 3339 itself stays as it is; one without an offset is UTC; an epoch in digits."""
    if timestamps.match_usual(text) and len(text) <= TEXT_CHARS_MAX:
        return text
    if len(text) > 2 * TEXT_CHARS_MAX:  # before it is copied
        return None
    text = text.strip()
    if len(text) > TEXT_CHARS_MAX:
        return None
    if timestamps.is_valid(text):
        return text
    found = _MOMENT.fullmatch(text)
    if found is None:
        return _epoch(text, unit)
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if offset is None or offset in ("Z", "z", "UTC", "GMT"):
        offset = "Z"
    elif ":" not in offset:
        offset = f"{offset[:3]}:{offset[3:] or '00'}"
    made = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{'.' + fraction if fraction else ''}{offset}"
    return made if timestamps.is_valid(made) else None


def from_zoned(text: str, zone: str) -> str | None:
    """Return RFC 3339 of a text whose zone stands beside it, None if either is unknown. An offset in the text wins.

    ``zone``: an offset, one of UTC_NAMES, or a name of the IANA database, as ``Europe/Berlin``; of the hour that comes
    twice in fall it is the first.
    """
    found = _MOMENT.fullmatch(text) if len(text) <= TEXT_CHARS_MAX else None
    if found is None or found[8] or zone in UTC_NAMES:
        return from_text(text) if found or zone in UTC_NAMES else None
    if _OFFSET.fullmatch(zone):
        return from_text(text + zone)
    place = _place(zone) if _ZONE.fullmatch(zone) else None
    if place is None:
        return None
    try:
        year, month, day, hour, minute, second = map(int, found.groups("0")[:6])
        offset = datetime(year, month, day, hour, minute, second, tzinfo=place).utcoffset() or timedelta()
    except (ValueError, OverflowError):
        return None  # the 31st of February
    minutes, rest = divmod(offset, MINUTE)
    if rest:
        return None  # before zones: RFC 3339 has no seconds of an offset
    hours, left = divmod(abs(minutes), 60)
    return from_text(f"{text}{'-' if minutes < 0 else '+'}{hours:02}:{left:02}")


@lru_cache(maxsize=ZONES_MAX)
def _place(name: str) -> ZoneInfo | None:
    """A zone by its name, None if the system does not know it."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def from_any(value: object, unit: int | None = None) -> str | None:
    """Return RFC 3339 of decoded JSON, or None if it is no moment: a text, an epoch, or ``{"$date": either}``."""
    if type(value) is str:
        return from_text(value, unit)
    if type(value) is int or type(value) is float:
        return from_number(value, unit)
    if type(value) is dict and len(value) == 1 and "$date" in value and type(value["$date"]) is not dict:
        return from_any(value["$date"], unit)
    return None


def _epoch(text: str, unit: int | None) -> str | None:
    """RFC 3339 of a decimal number; ``unit`` as for ``from_number``."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction = found[1], found[2], found[3] or ""
    number = int(whole)
    if unit is None:
        unit = next((unit for bound, unit in UNITS if number < bound), 0)
    nanos = number * 10**unit + int((fraction + "0" * unit)[:unit] or "0")
    made = from_nanos(-nanos if sign == "-" else nanos)
    # As few digits as hold it, in threes.
    return made and made.replace("000Z", "Z").replace("000Z", "Z").replace(".000Z", "Z")
