"""One script looks at a stream, decides what may be trimmed, and trims a portion of it.

What lives here: the script, and its reply with types. What must not: when it runs and how often
(``inlet.stream.keeper``).

Every group has acked what is below the *safe ID*: over all groups, the smallest of the oldest pending entry and of the
ID after the last delivered one. Nothing at or after it is trimmed, unless ``unread`` is ``drop``. Without groups
nothing has been read, so nothing is safe. Groups are remembered in ``<stream>:groups``; while the store lacks one of
them, as after a failover to a replica that had not yet heard of it, nothing is safe either.

A script, because nothing changes in the store while it runs: a keeper that was stopped for an hour between two commands
would otherwise trim by what it saw an hour ago. For the same reason the lease only spares work; it keeps nothing safe.

A stream is *full* when no entry below the safe ID is left and it still exceeds a bound. While it is full, trimming goes
down to RESUME_FRACTION of the bounds, and it stays full until it is there. So a full stream always ends up not full
once every group has acked everything.

Redis commands: EVAL, and inside it GET, PTTL, PEXPIRE, SET, DEL (the lease and the marker), HKEYS, HSETNX, EXISTS (the
groups), XINFO GROUPS, XPENDING, XLEN, MEMORY USAGE, TIME (the state), XTRIM, XRANGE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from inlet.stream.client import StoreClient
from inlet.stream.keys import forgotten_key, full_key, groups_key
from inlet.stream.retention import Hold, Retention, hold

LEASE_MS = 8_000
"""Milliseconds a keeper that died keeps the others out: accepting must resume within 15 s of the acks, restarts
included. A lease with more left than this is not a living keeper's: the store's clock was set back."""
TRIM_LIMIT = 10_000
"""Entries one XTRIM can remove: the store does nothing else meanwhile."""
EXACT_MAX = 100
"""Entries removed at a time where whole nodes cannot be: they share a node, so they are small (4 KiB together)."""
RESUME_FRACTION = 0.95
"""A full stream stays full until it is at this share of its bound, so that producers do not see it flap."""
LAST_ID = "18446744073709551615-18446744073709551615"


class Lease(NamedTuple):
    """Where the lease of a keeper is, and what makes it that keeper's; no token: the script changes nothing."""

    key: str
    token: str = ""


class Portion(NamedTuple):
    """What one run of the script found and did. IDs are text, as the store writes them.

    ``mine``: False if another keeper holds the lease; then only ``groups`` holds. ``trimmed``, ``dropped``: entries
    removed, the latter not acked by some group. ``length`` and ``memory_bytes`` were taken before that. ``full`` is
    decided where nothing was removed. ``safe``: the safe ID, and ``held`` what it comes from. ``old``: the ID below
    which entries are over the bound on age. ``over``: entries over the other bounds. ``groups``: the remembered ones.
    """

    mine: bool
    trimmed: int
    dropped: int
    length: int
    memory_bytes: int
    full: bool
    safe: str
    held: Hold
    old: str
    over: int
    groups: frozenset[bytes]


def portion(
    client: StoreClient,
    key: str,
    keep: Retention,
    lease: Lease,
    remembered: Iterable[bytes] = (),
    *,
    publish: bool = False,
    acked: bool = False,
) -> Portion:
    """Look at the stream and trim at most TRIM_LIMIT entries of it. Raises StoreAway, StoreRefuses.

    ``remembered``: groups that were seen before, which the store may have lost. ``publish``: set ``<stream>:full`` if
    it is full. ``acked``: XTRIM knows ACKED.
    """
    reply = client.one(
        "EVAL", SCRIPT, 4, key, groups_key(key), full_key(key), lease.key, lease.token, LEASE_MS, int(publish),
        keep.age_ms or 0, keep.entries or 0, keep.memory_bytes or 0, keep.unread, TRIM_LIMIT, EXACT_MAX,
        str(RESUME_FRACTION), int(acked), forgotten_key(key, b""), LAST_ID, *remembered,
    )  # fmt: skip
    return _typed(reply)


def _typed(reply: list[Any]) -> Portion:
    mine, groups, *rest = reply
    if not rest:
        return Portion(False, 0, 0, 0, 0, False, "0-0", Hold("unknown"), "0-0", 0, frozenset(groups))
    trimmed, dropped, length, memory, full, safe, kind, group, old, over = rest
    return Portion(
        bool(mine), trimmed, dropped, length, memory, bool(full), safe.decode(), hold(kind, group), old.decode(), over,
        frozenset(groups),
    )  # fmt: skip


def count_below(client: StoreClient, key: str, below: str, most: int, state: Portion) -> int:
    """Return how many entries are below an ID, ``most`` at most: the store has to read them all. Raises as above."""
    entry_bytes = max(1, state.memory_bytes // max(1, state.length))
    page = min(TRIM_LIMIT, max(1, COUNT_BYTES // entry_bytes))
    found, start = 0, "-"
    while found < most and below != "0-0":
        count, last = client.one("EVAL", COUNT, 1, key, start, f"({below}", min(page, most - found))
        if not count:
            break
        found, start = found + int(count), f"({last.decode()}"
    return found


COUNT_BYTES = 4_194_304
"""Bytes of entries that the store reads in one step of a count, roughly: it does nothing else meanwhile."""

COUNT = """
local rows = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
return {#rows, #rows > 0 and rows[#rows][1] or ''}
"""

# IDs are compared as text: each half may have 20 digits, and a number in Lua has 53 bits.
SCRIPT = """
local stream, noted, marker, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, lease_ms, publish = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local age, entries, bytes, drop = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == 'drop'
local limit, exact, resume = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local check = ARGV[11] == '1' and {'ACKED'} or {}
local forgotten, last_id = ARGV[12], ARGV[13]
local FIXED = 13

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end
local function plus_one(digits)
  local head, digit, nines = string.match(digits, '^(%d-)([0-8]?)(9*)$')
  return head .. (digit == '' and '1' or digit + 1) .. string.rep('0', #nines)
end
local function after(id)
  if id == last_id then return id end
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  if seq == '18446744073709551615' then return plus_one(ms) .. '-0' end
  return ms .. '-' .. plus_one(seq)
end

-- The lease. A store that is out of memory refuses SET and HSETNX, but not in a script that has changed something.
local mine = false
if token ~= '' then
  local left = redis.call('PTTL', lease)
  if redis.call('GET', lease) == token then
    mine = true
    redis.call('PEXPIRE', lease, lease_ms)
  elseif left < 0 or left > lease_ms then
    mine = true
    redis.call('DEL', lease)
    redis.call('SET', lease, token, 'PX', lease_ms)
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The groups: those that the store has, and those that it had.
local rows = redis.pcall('XINFO', 'GROUPS', stream)
if rows.err then
  if not string.find(rows.err, 'no such key', 1, true) then return rows end
  rows = {}
end
local delivered, known, names = {}, {}, redis.call('HKEYS', noted)
for _, name in ipairs(names) do known[name] = true end
local function remember(name)
  if known[name] then return end
  known[name] = true
  names[#names + 1] = name
  if mine then redis.call('HSETNX', noted, name, string.format('%.0f', now)) end
end
for _, row in ipairs(rows) do
  local group = {}
  for at = 1, #row, 2 do group[row[at]] = row[at + 1] end
  delivered[group.name] = group['last-delivered-id']
  remember(group.name)
  if mine then redis.call('DEL', forgotten .. group.name) end
end
for at = FIXED + 1, #ARGV do
  if redis.call('EXISTS', forgotten .. ARGV[at]) == 0 then remember(ARGV[at]) end
end
if token ~= '' and not mine then return {0, names} end

-- The safe ID, and the group that it comes from.
local safe, kind, held = nil, 'nobody', ''
for _, name in ipairs(names) do
  local from, missing = '0-0', not delivered[name]
  if not missing then
    from = after(delivered[name])
    local pending = redis.call('XPENDING', stream, name)
    if pending[1] > 0 and before(pending[2], from) then from = pending[2] end
  end
  if not safe or before(from, safe) or (from == safe and name < held) then
    safe, kind, held = from, missing and 'missing' or 'behind', name
  end
end
safe = safe or '0-0'

-- The bounds.
local length = redis.call('XLEN', stream)
local memory = redis.call('MEMORY', 'USAGE', stream) or 0
local share = (not drop and redis.call('EXISTS', marker) == 1) and resume or 1
local over = 0
if entries > 0 then over = math.max(0, length - math.floor(entries * share)) end
local bytes_over = memory - math.floor(bytes * share)
if bytes > 0 and bytes_over > 0 then
  -- As if all entries had the average size: the next run looks again.
  over = math.max(over, math.min(length, math.ceil(bytes_over * length / memory)))
end
local old = '0-0'
if age > 0 and now > age then old = string.format('%.0f-0', now - age) end

-- Whole nodes first; then, exactly and a few at a time, from a node that also holds later entries.
local function trim(below, most, checked)
  if most < 1 or below == '0-0' then return 0 end
  local gone = redis.call('XTRIM', stream, 'MINID', '~', below, 'LIMIT', math.min(most, limit), unpack(checked))
  if gone > 0 then return gone end
  local first = redis.call('XRANGE', stream, '-', '(' .. below, 'COUNT', math.min(most, exact))
  if #first == 0 then return 0 end
  return redis.call('XTRIM', stream, 'MINID', '=', after(first[#first][1]), unpack(checked))
end
local trimmed, dropped, full = 0, 0, false
if mine then
  trimmed = trim(before(old, safe) and old or safe, length, check)
  if trimmed == 0 then trimmed = trim(safe, over, check) end
  if trimmed == 0 and drop then
    dropped = trim(old, length, {})
    if dropped == 0 then dropped = trim(last_id, over, {}) end
  end
  if trimmed + dropped == 0 then
    full = over > 0 and not drop
    if not full then
      redis.call('DEL', marker)
    elseif publish then
      redis.call('SET', marker, kind .. ' ' .. held, 'PX', lease_ms)
    end
  end
end
return {mine and 1 or 0, names, trimmed, dropped, length, memory, full and 1 or 0, safe, kind, held, old, over}
"""
"""``EVAL``: KEYS are the stream, its remembered groups, the marker and the lease; ARGV as ``portion`` lists them."""
