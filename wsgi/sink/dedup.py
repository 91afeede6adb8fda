"""Stored once: one script call that appends the lines whose event_id the store does not remember. No I/O.

What lives here: the script, its packed call, its reply, and an id's digest. What must not: connections (``link``), what
an outcome is (``flight``), when the script is loaded (``link``).

Each stream has three hashes, used in turn for half a window each (``inlet.stream.keys.ids_keys``). A bucket holds::

    n          how many buckets there were before it: of the largest, the newest
    t          when it became the newest, in ms of the store's clock; moved back with the clock
    b          the same, never moved: addresses count from it
    <digest>   the address of a record: 4 bytes ms since b, 5 bits number of the entry in its ms, 11 bits line, in
               network order; "at <entry ID> <line>" where that does not fit

So an id is remembered for one to one and a half windows. The script looks up, appends, and then notes, and the store
executes it whole or not at all: no id is ever noted without its record.

Decisions:
- What would refuse a note refuses the append too: memory, since the append is the first write; a wrong type, since it
  looks up before; permissions on keys, since all are declared. A command that is not permitted is noticed before the
  append too, but only by the calls that look at the clock; between two of them the record is stored and not noted.
- A call of duplicates alone writes all the same, so that WAIT and WAITAOF after it have something to wait for: perhaps
  the first record is not on the replica yet.
- A bucket is emptied by UNLINK when its turn comes, which does not hold the store up as DEL of millions of ids does.
  Its expiry matters only where no more records come.
- Time is the store's. Set back, it makes the newest bucket last longer; nothing is forgotten early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from inlet.stream.keys import IDS_BUCKETS, ids_keys
from wsgi.sink.driver import Driver

DIGEST_BYTES = 14
"""Bytes of an id's digest. Of a billion ids, two collide with a probability of 1e-16. A string of 14 bytes takes 16 of
Redis's memory; one of 16 takes 24 or 32."""

CHECK_SECONDS_MAX = 1.0
"""How often a process has the store look at its clock for a stream at least. PERF: the calls that do not save a tenth
of the store's time for a commit of one record."""
CHECK_MS_MAX = int(CHECK_SECONDS_MAX * 1_000)
CHECKS_A_WINDOW = 64
"""The same, for short windows."""

SCRIPT = f"""
local call, many, window = redis.call, #ARGV - 3, tonumber(ARGV[1])
local flags = tonumber(ARGV[2])

local found, newest, number = {{}}, 2, -1
for bucket = 2, #KEYS do
  local values = call('HMGET', KEYS[bucket], 'n', 'b', unpack(ARGV, 4, math.min(many, 1000) + 3))
  for first = 1001, many, 1000 do
    local more = call('HMGET', KEYS[bucket], unpack(ARGV, first + 3, math.min(many, first + 999) + 3))
    for index = 1, #more do values[first + 1 + index] = more[index] end
  end
  local n = tonumber(values[1] or -1)
  if n > number then newest, number = bucket, n end
  found[bucket] = values
end

local ids, base = KEYS[newest], tonumber(found[newest][2])
if flags > 1 or not base then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local width = window / (#KEYS - 2)
  local began = tonumber(call('HMGET', ids, 't')[1])
  if not (began and base) or now >= began + width then
    number = number + 1
    newest = number % (#KEYS - 1) + 2
    ids, base, found[newest] = KEYS[newest], now, nil
    call('HSET', ids, 'n', number)
    call('UNLINK', ids)
    call('HSET', ids, 'n', number, 't', now, 'b', now)
    call('PEXPIRE', ids, window + width + {CHECK_MS_MAX})
  elseif now < began then
    call('HSET', ids, 't', now)
    call('PEXPIRE', ids, window + width + {CHECK_MS_MAX})
  else
    call('HSET', ids, 'n', number)
  end
end

local known, some = {{}}, flags % 2 == 1
for bucket, values in pairs(found) do
  for index = 1, many do
    local value = values[index + 2]
    if value then
      some = true
      if #value == 6 then
        local high, low = string.byte(value, 5, 6)
        local ms = tonumber(values[2]) + struct.unpack('>I4', value)
        known[index] = {{string.format('%.0f-%d', ms, math.floor(high / 8)), high % 8 * 256 + low}}
      else
        local id, line = string.match(value, '^at (%S+) (%d+)$')
        known[index] = {{id, tonumber(line)}}
      end
    end
  end
end

local lines, kept, places = ARGV[3], many, {{}}
if some then
  local start, new = 1, {{}}
  for index = 1, many do
    local stop = string.find(lines, '\\n', start, true) or #lines + 1
    local digest = ARGV[index + 3]
    if not known[index] and not places[digest] then
      places[digest] = #new
      new[#new + 1] = string.sub(lines, start, stop - 1)
    end
    start = stop + 1
  end
  lines, kept = table.concat(new, '\\n'), #new
end

local id = false
if kept > 0 then
  id = call('XADD', KEYS[1], '*', '{FIELD_RECORDS.decode()}', lines, '{FIELD_COUNT.decode()}', kept)
  local ms, order = string.match(id, '^(%d+)-(%d+)$')
  local past, high = ms - base, order * 8
  local fits = past >= 0 and past < 4294967296 and high < 256
  local prefix = fits and struct.pack('>I4', past)
  local notes, size, line = {{}}, 0, 0
  for index = 1, many do
    local digest = ARGV[index + 3]
    if not some or (not known[index] and places[digest] == line) then
      notes[size + 1] = digest
      if fits and line < 2048 then
        notes[size + 2] = prefix .. string.char(high + math.floor(line / 256), line % 256)
      else
        notes[size + 2] = 'at ' .. id .. ' ' .. line
      end
      size, line = size + 2, line + 1
      if size == 2000 then
        redis.pcall('HSET', ids, unpack(notes))
        notes, size = {{}}, 0
      end
    end
  end
  if size > 0 then redis.pcall('HSET', ids, unpack(notes)) end
else
  call('HSET', ids, 'n', number)
end
if not some then return id end

local reply, line = {{id}}, 0
for index = 1, many do
  local digest, first = ARGV[index + 3], known[index]
  if not first and places[digest] == line then
    line = line + 1
  else
    first = first or {{id, places[digest]}}
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = index - 1, first[1], first[2]
  end
end
return reply
"""
"""KEYS: the stream, then its buckets. ARGV: the window in ms; 1 if an id occurs twice, and 2 more to look at the clock;
the joined lines; the digest of each line's id. Replies with the entry's ID. Where there are duplicates, with a list:
the ID or nil, and then of each duplicate its line in this call, and the entry ID and line where it is stored."""

_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()
_blake2b = hashlib.blake2b


class Duplicate(NamedTuple):
    """A line that was not appended, and where its event_id is stored."""

    at: int
    """The line, counted from 0 in what was to be appended."""
    entry_id: str
    line: int


class Dedup:
    """``seconds``: for how long each stream remembers an id, at least."""

    def __init__(self, seconds: int) -> None:
        self._window = b"%d" % (seconds * 1_000)
        self._check_seconds = min(CHECK_SECONDS_MAX, seconds / CHECKS_A_WINDOW)
        self.checks: dict[bytes, float] = {}
        """By stream: when the store's clock is to be looked at again, by time.monotonic."""
        self._heads: dict[bytes, bytes] = {}  # by stream: what a call begins with

    def load(self, driver: Driver) -> None:
        """Have the store load the script. Raises one of ``driver.ERRORS``."""
        driver.ask("SCRIPT", "LOAD", SCRIPT)

    def command(self, stream: bytes, lines: list[bytes]) -> bytes:
        """Return the packed call (RESP2) that appends ``lines`` to ``stream`` as far as they are new."""
        head = self._heads.get(stream)
        if head is None:
            head = self._heads[stream] = self._head(stream)
        digests = digests_of(lines)
        flags = int(len(set(digests)) < len(digests))
        now = monotonic()
        if now >= self.checks.get(stream, 0.0):
            self.checks[stream] = now + self._check_seconds
            flags += 2
        records = b"\n".join(lines)
        return b"*%d\r\n%b$1\r\n%d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(lines) + 7 + IDS_BUCKETS, head, flags, len(records), records,
            DIGEST_BYTES, (b"\r\n$%d\r\n" % DIGEST_BYTES).join(digests),
        )  # fmt: skip

    def _head(self, stream: bytes) -> bytes:
        keys = [stream, *ids_keys(stream)]
        words = [b"EVALSHA", _SHA, b"%d" % len(keys), *keys, self._window]
        return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def digests_of(lines: list[bytes]) -> list[bytes]:
    """Return the digest of each line's event_id.

    A line starts with ``["``, the id, and ``","``. A quote within the id is escaped, so these three bytes can occur
    earlier only in one way: the id ends with ``",``, which is written ``\\",``, before the closing quote. What is cut
    off there ends with an odd number of backslashes, as no whole id does. So two ids never give the same bytes.
    """
    return [_blake2b(line[2 : line.find(b'","', 2)], digest_size=DIGEST_BYTES).digest() for line in lines]


def duplicates(reply: list[Any]) -> Iterator[Duplicate]:
    """Return the duplicates that a reply of the script lists, in the order of the lines."""
    for index in range(1, len(reply), 3):
        at, entry_id, line = reply[index : index + 3]
        yield Duplicate(at, entry_id.decode(), line)
