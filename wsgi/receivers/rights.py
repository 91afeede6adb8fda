"""The right to services: records of services that a key does not name are refused one by one.

What lives here: finding them among the lines of a request, and their rejections. What must not: keys.
"""

from __future__ import annotations

from inlet.stream.record import decode, service_token
from inlet.stream.rejected import rejected
from wsgi.problems import Denied
from wsgi.receivers.bulk import EVENT_ID_ECHO_CHARS_MAX
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections

REASON = "forbidden"


def only_services(parsed: Parsed, services: frozenset[bytes], *, keep: bool, partial: bool = False) -> Parsed:
    """Return ``parsed`` without the records of other services, each of which becomes a rejection.

    ``services``: as ``service_token`` gives them. ``keep``: keep the lines of rejected records. Raises Denied
    (``forbidden``) where nothing but such records was sent, NothingAccepted where no other record is valid; where
    ``partial``, neither: then it returns a Parsed without lines.
    """
    found = [service_token(line) for line in parsed.lines]
    if services.issuperset(found):
        return parsed
    allowed = [service in services for service in found]
    old = parsed.rejections or Rejections()
    if not any(allowed) and not old and not partial:
        raise Denied(REASON, "this key has no right to the service of these records (right: services)")
    rejections, lines = Rejections(), []
    for row in old.rows:
        rejections.keep(row)
    before, kept = iter(old.indexes), iter(old.kept)
    skipped, index = next(before, -1), 0

    def keep_old() -> None:
        words = next(kept, None)
        if words is not None and not rejections.full:
            rejections.add(*words)
        else:
            rejections.count(skipped, "")

    for line, permitted in zip(parsed.lines, allowed, strict=True):
        while index == skipped:
            keep_old()
            index, skipped = index + 1, next(before, -1)
        if permitted:
            lines.append(line)
        elif rejections.full:
            rejections.count(index, REASON)
        else:
            record = decode(line)
            detail = "this key has no right to the record's service (right: services)"
            event_id = record.event_id[:EVENT_ID_ECHO_CHARS_MAX]
            rejections.add(index, event_id, REASON, detail)
            if keep and rejections.wants_rows:
                rejections.keep(rejected(REASON, detail, event_id, line))
        index += 1
    while skipped >= 0:
        keep_old()
        skipped = next(before, -1)
    rejections.counts = {**old.counts, REASON: len(allowed) - len(lines)}
    if not lines and not partial:
        raise NothingAccepted("no record of the bulk is valid", rejections)
    return parsed._replace(lines=lines, rejections=rejections)
