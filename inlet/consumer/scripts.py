"""The scripts that the store runs for a reader, and the commands that run them. Pure.

What lives here: what must be checked and done in one step. What must not: connections, what the replies lead to.

Each can be sent again after a lost reply, and does nothing twice. An error reply changes nothing: the scripts catch the
errors of the commands that may fail (``pcall``), undo, and return them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from inlet.consumer.notes import NOTE_KEEP_MS
from inlet.stream.keys import dead_key, groups_key, try_key

Command = tuple[Any, ...]

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

CLAIM = (
    NOW
    + """
local found, gone, since = {}, 0, redis.call('HGET', KEYS[2], ARGV[1]) or ''
for i = 4, #ARGV do
  local id, key = ARGV[i], KEYS[i - 1]
  local kept = redis.call('GET', key)
  local due, of, note = string.match(kept or '', '^(%d+) (%d*) (.*)$')
  if kept and of ~= since then
    redis.call('DEL', key)
    due, note = nil, nil
  end
  if (tonumber(due) or 0) <= now then
    local rows = redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)
    if rows.err then return rows end
    if rows[1] and rows[1][2] then
      found[#found + 1] = {id, rows[1][2], note or ''}
    elseif #redis.call('XRANGE', KEYS[1], id, id) == 0 then
      redis.call('XACK', KEYS[1], ARGV[1], id)
      redis.call('DEL', key)
      gone = gone + 1
    end
  end
end
return {found, gone}
"""
)
"""XCLAIM of the entries that are due, each with its note; those that were trimmed while pending are acked, counted.

A note of a group that was forgotten since (HGET: when the group was first seen) is deleted."""

NOTE = (
    """
local mine = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1, ARGV[3])
if mine.err then return mine end
if #mine == 0 then return 0 end
"""
    + NOW
    + """
local since = redis.call('HGET', KEYS[3], ARGV[1]) or ''
local head = string.format('%.0f ', now + ARGV[4]) .. since .. ' '
local reply = redis.pcall('SET', KEYS[2], head .. ARGV[6], 'PX', ARGV[5])
if reply.err then return reply end
return 1
"""
)
"""Set the note, unless the entry is no longer this consumer's."""

BURY = """
if ARGV[4] ~= '0' then
  local mine = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1, ARGV[3])
  if mine.err then return mine end
  if #mine == 0 then return -1 end
end
local added, at = {}, 5
for i = 1, ARGV[4] do
  local length = tonumber(ARGV[at])
  local reply = redis.pcall('XADD', KEYS[3], '*', unpack(ARGV, at + 1, at + length))
  if type(reply) == 'table' and reply.err then
    for _, id in ipairs(added) do redis.call('XDEL', KEYS[3], id) end
    return reply
  end
  added[i] = reply
  at = at + length + 1
end
local reply = redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])
if type(reply) == 'table' and reply.err then
  for _, id in ipairs(added) do redis.call('XDEL', KEYS[3], id) end
  return reply
end
redis.call('DEL', KEYS[2])
return #added
"""
"""XADD the letters and XACK the entry, all or nothing; -1 if the entry is no longer this consumer's, or is acked."""

REPLAY = """
local there = redis.pcall('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if there.err then return there end
if #there == 0 then return 0 end
if #ARGV > 1 then
  local reply = redis.pcall('XADD', KEYS[2], '*', unpack(ARGV, 2))
  if type(reply) == 'table' and reply.err then return reply end
end
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""
"""XADD a letter's record to the stream and XDEL the letter, if it is still there."""

FORGET = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return -1
"""
"""XGROUP DELCONSUMER drops what is pending under the name, so the script checks first that nothing is."""


def claim(key: str, group: str, consumer: str, idle_ms: int, names: Sequence[bytes]) -> Command:
    """Claim these entries (XCLAIM) if they are due and idle for ``idle_ms``: ``[[ID, fields, note], ...], gone``."""
    keys = [key, groups_key(key), *[try_key(key, group, name.decode()) for name in names]]
    return ("EVAL", CLAIM, len(keys), *keys, group, consumer, idle_ms, *names)


def note(key: str, group: str, consumer: str, entry_id: str, wait_ms: int, text: bytes) -> Command:
    """Write the note; the next attempt is due after ``wait_ms``. 1, or 0 if the entry is not this consumer's."""
    keep_ms = wait_ms + NOTE_KEEP_MS
    keys = (key, try_key(key, group, entry_id), groups_key(key))
    return ("EVAL", NOTE, len(keys), *keys, group, entry_id, consumer, wait_ms, keep_ms, text)


def bury(key: str, group: str, consumer: str, entry_id: str, letters: Sequence[Sequence[Any]]) -> Command:
    """Write these letters, each a flat list of fields, and ack the entry: the number written, or -1."""
    flat = [value for letter in letters for value in (len(letter), *letter)]
    keys = (key, try_key(key, group, entry_id), dead_key(key))
    return ("EVAL", BURY, len(keys), *keys, group, entry_id, consumer, len(letters), *flat)


def replay(key: str, letter_id: str, fields: Sequence[Any], forget: Iterable[Any]) -> Command:
    """Append ``fields`` to the stream, delete the letter and the keys to ``forget``: 1, or 0 if it is gone already."""
    keys = (dead_key(key), key, *forget)
    return ("EVAL", REPLAY, len(keys), *keys, letter_id, *fields)


def forget(key: str, group: str, consumer: object) -> Command:
    """Delete a consumer that has nothing pending (XGROUP DELCONSUMER)."""
    return ("EVAL", FORGET, 1, key, group, consumer)
