"""Stored once: one script call that appends the lines whose event_id the store does not remember. No I/O.

What lives here: the script, its packed call, its reply, and an id's digest. What must not: connections (``link``), what
an outcome is (``flight``), when the script is loaded (``link``).

Each stream has three hashes, used in turn for half a window each (``inlet.stream.keys.ids_keys``). A bucket holds::

    n          how many buckets there were before it: of the largest, the newest
    t          when it became the newest, in ms of the store's clock; moved back with the clock
    b          the same, never moved: addresses count from it
    w          the window, in ms
    <digest>   the address of a record, in network order: 4 bytes ms since b, 5 bits number of the entry in its ms, 11
               bits line; or 4 bytes, 2 bytes and 3 bytes; or "at <entry ID> <line>": the first that fits

So an id is remembered for one to one and a half windows. The script looks up, appends, and then notes, and the store
executes it whole or not at all: no id is ever noted without its record.

Decisions:
- What would refuse a note refuses the append too: each call writes to the newest bucket before it appends, so a lack of
  memory or of a permission, and a wrong type, are met there. A new bucket's turn asks for all permissions before it
  writes, or it would begin anew with each failed call, and forget.
- So a call of duplicates alone writes too, and WAIT and WAITAOF after it have something to wait for: perhaps the first
  record is not on the replica yet.
- Each call looks at the clock: one that waited out a stall of the store is not noted in a bucket whose turn is over.
- A bucket is emptied by UNLINK when its turn comes, which does not hold the store up as DEL of millions of ids does.
  Its expiry matters only where no more records come.
- Another window than before, after a restart, holds for all buckets from the first call on.
- Time is the store's. Set back, it makes the newest bucket last longer; nothing is forgotten early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from inlet.stream.keys import IDS_BUCKETS, ids_keys
from wsgi.problems import SinkError
from wsgi.sink.driver import Driver, refusal

DIGEST_BYTES = 14
"""Bytes of an id's digest. Of a billion ids, two collide with a probability of 1e-16. A string of 14 bytes takes 16 of
Redis's memory; one of 16 takes 24 or 32."""

SPARE_MS = 1_000
"""Milliseconds for which a bucket exists longer than it must, so that its expiry forgets nothing early."""

SCRIPT = f"""
local call, many, window = redis.call, #ARGV - 3, tonumber(ARGV[1])

local found, newest, number = {{}}, 2, -1
for bucket = 2, #KEYS do
  local values = call('HMGET', KEYS[bucket], 'n', 'b', 't', 'w', unpack(ARGV, 4, math.min(many, 1000) + 3))
  for first = 1001, many, 1000 do
    local more = call('HMGET', KEYS[bucket], unpack(ARGV, first + 3, math.min(many, first + 999) + 3))
    for index = 1, #more do values[first + 3 + index] = more[index] end
  end
  local n = tonumber(values[1] or -1)
  if n > number then newest, number = bucket, n end
  found[bucket] = values
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local width = window / (#KEYS - 2)
local expires = window + width + {SPARE_MS}
local ids, base, began = KEYS[newest], tonumber(found[newest][2]), tonumber(found[newest][3])
if not (began and base) or now >= began + width then
  number = number + 1
  newest = number % (#KEYS - 1) + 2
  ids, base, found[newest] = KEYS[newest], now, nil
  call('UNLINK', ids)
  call('PEXPIRE', ids, expires)
  call('HSET', ids, 'n', number, 't', now, 'b', now, 'w', window)
  call('PEXPIRE', ids, expires)
elseif now < began or tonumber(found[newest][4]) ~= window then
  for bucket = 2, #KEYS do call('PEXPIRE', KEYS[bucket], expires) end
  call('HSET', ids, 't', math.min(now, began), 'w', window)
else
  call('HSET', ids, 'n', number)
end

local known, some = {{}}, ARGV[2] == '1'
for bucket, values in pairs(found) do
  for index = 1, many do
    local value = values[index + 4]
    if value then
      some = true
      if #value == 6 then
        local past, high, low = struct.unpack('>I4BB', value)
        known[index] = {{string.format('%.0f-%d', values[2] + past, math.floor(high / 8)), high % 8 * 256 + low}}
      elseif #value == 9 then
        local past, order, line = struct.unpack('>I4I2I3', value)
        known[index] = {{string.format('%.0f-%d', values[2] + past, order), line}}
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
  local past = ms - base
  order = tonumber(order)
  local fits = past >= 0 and past < 4294967296
  local short, long = fits and order < 32, fits and order < 65536
  local notes, size, line = {{}}, 0, 0
  for index = 1, many do
    local digest = ARGV[index + 3]
    if not some or (not known[index] and places[digest] == line) then
      notes[size + 1] = digest
      if short and line < 2048 then
        notes[size + 2] = struct.pack('>I4BB', past, order * 8 + math.floor(line / 256), line % 256)
      elseif long and line < 16777216 then
        notes[size + 2] = struct.pack('>I4I2I3', past, order, line)
      else
        notes[size + 2] = 'at ' .. id .. ' ' .. line
      end
      size, line = size + 2, line + 1
      if size == 2000 then
        call('HSET', ids, unpack(notes))
        notes, size = {{}}, 0
      end
    end
  end
  if size > 0 then call('HSET', ids, unpack(notes)) end
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
"""KEYS: the stream, then its buckets. ARGV: the window in ms; 1 if an id occurs twice, else 0; the joined lines; the
digest of each line's id. Replies with the entry's ID. Where there are duplicates, with a list:
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
        self._heads: dict[bytes, bytes] = {}  # by stream: what a call begins with

    def load(self, driver: Driver) -> None:
        """Have the store load the script. Raises one of ``driver.ERRORS``."""
        driver.ask("SCRIPT", "LOAD", SCRIPT)

    def trial(self, stream: bytes) -> bytes:
        """Return the packed call without a line: it appends nothing, and fails wherever one with lines would.

        It may begin a bucket's turn.
        """
        return b"*%d\r\n%b$1\r\n0\r\n$0\r\n\r\n" % (7 + IDS_BUCKETS, self._begin(stream))

    def command(self, stream: bytes, lines: list[bytes]) -> bytes:
        """Return the packed call (RESP2) that appends ``lines`` to ``stream`` as far as they are new."""
        head = self._begin(stream)
        digests = digests_of(lines)
        twice = len(set(digests)) < len(digests)
        records = b"\n".join(lines)
        return b"*%d\r\n%b$1\r\n%d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(lines) + 7 + IDS_BUCKETS, head, twice, len(records), records,
            DIGEST_BYTES, (b"\r\n$%d\r\n" % DIGEST_BYTES).join(digests),
        )  # fmt: skip

    def _begin(self, stream: bytes) -> bytes:
        head = self._heads.get(stream)
        if head is None:
            keys = [stream, *ids_keys(stream)]
            words = [b"EVALSHA", _SHA, b"%d" % len(keys), *keys, self._window]
            head = self._heads[stream] = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        return head


def script_refusal(text: str) -> SinkError:
    """Return an error reply to the call as a SinkError. Redis names no key in it and, before 7.2, no command."""
    error = refusal(text)
    if " script: " in text or "@user_script" in text:
        what = "the store refuses the script of INLET_DEDUP_SECONDS (its permissions, or another type at a key)"
        error.detail = error.detail.replace("the store refuses", what, 1)
    return error


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
