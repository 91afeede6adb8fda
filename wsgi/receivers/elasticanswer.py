"""Answers of the Elasticsearch receiver: the items of a bulk, ``filter_path``, and errors.

What lives here: how they look, member by member, as Elasticsearch 8 writes them. What must not: when they are given.

JSON has no spaces: Fluent Bit looks for the text ``"errors":false,"items":[``, Vector for ``"errors":true``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from time import monotonic
from typing import NamedTuple
from urllib.parse import parse_qsl

from inlet.stream.errors import InletError
from wsgi.problems import PROBLEMS, STATUS_LINES
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.elasticrecord import BAD_INDEX, Action, text_of
from wsgi.receivers.interfaces import Addresses
from wsgi.receivers.parsed import Rejections
from wsgi.receivers.refusals import Response, fields_of
from wsgi.receivers.rights import REASON as FORBIDDEN
from wsgi.receivers.slices import SLICE_SECONDS

PRODUCT = ("x-elastic-product", "Elasticsearch")
"""Without this field of every answer the official clients refuse to talk."""
JSON = ("content-type", "application/json")
WHOLE_ITEMS_MAX = 1_000
"""Items of an answer that is rendered in one step: a millisecond."""
ITEMS_AT_ONCE = 250
QUERY_BYTES_MAX = 4_096
"""Bytes of a query that is read; no client sends half as many."""
MEMBERS = ("_index", "_id", "_version", "result", "_shards", "_seq_no", "_primary_term", "status", "error")
"""Members of an item."""
EVERYTHING = frozenset(("took", "errors", *MEMBERS))
CONFLICT = b'{"type":"version_conflict_engine_exception","reason":"this _id is stored already"}'

_TYPES = {
    "malformed-payload": "illegal_argument_exception",
    "unauthorized": "security_exception",
    "forbidden": "security_exception",
    "origin-not-allowed": "security_exception",
    "payload-too-large": "content_too_long_exception",
    "unsupported-media-type": "media_type_header_exception",
    "unsupported-content-encoding": "media_type_header_exception",
    "backlog-full": "es_rejected_execution_exception",
    "quota-exceeded": "es_rejected_execution_exception",
}
_ITEM_TYPES = {MALFORMED_RECORD: b"document_parsing_exception", FORBIDDEN: b"security_exception"}
_STORED = (
    b'","_version":1,"result":"%b","_shards":{"total":1,"successful":1,"failed":0},"_seq_no":0,"_primary_term":1,'
    b'"status":%b}}'
)
_CREATED, _NOOP = _STORED % (b"created", b"201"), _STORED % (b"noop", b"200")


class BulkContext(NamedTuple):
    """What an answer needs beside the outcome."""

    began: float
    """``time.monotonic()`` at the beginning of the request's reading."""
    actions: list[Action]
    """Of each record of the request, refused ones included."""
    shown: frozenset[str]
    """Members of the answer and of its items that are asked for."""


def shown_by(query: str) -> tuple[frozenset[str], str, str]:
    """Return the members that a query's ``filter_path`` asks for, and its ``routing`` and ``pipeline``.

    A filter that is not one of ``took``, ``errors``, ``items``, ``items.*`` and ``items.*.MEMBER`` asks for everything.
    """
    if not query or len(query) > QUERY_BYTES_MAX:
        return EVERYTHING, "", ""
    values = dict(parse_qsl(query, errors="replace"))
    shown: set[str] = set()
    for path in filter(None, values.get("filter_path", "").split(",")):
        names = path.split(".")
        if path in ("took", "errors"):
            shown.add(path)
        elif path in ("items", "items.*", "items.*.*"):
            shown.update(MEMBERS)
        elif len(names) >= 3 and names[:2] == ["items", "*"] and names[2] in MEMBERS:
            shown.add(names[2])
        else:
            return EVERYTHING, values.get("routing", ""), values.get("pipeline", "")
    return frozenset(shown) or EVERYTHING, values.get("routing", ""), values.get("pipeline", "")


def bulk_answer(
    bulk: BulkContext, lines: list[bytes], rejections: Rejections | None, addresses: Addresses
) -> Response | Generator[None, None, Response]:
    """Return the answer to a bulk, one item for each action in their order; a long one in slices.

    ``lines`` and ``addresses``: of the records that were not refused.
    """
    conflicts: list[int] = []
    items = _items(bulk, lines, rejections, addresses, conflicts)
    if len(bulk.actions) <= WHOLE_ITEMS_MAX:
        return _answer(bulk, list(items), errors=bool(rejections or conflicts))
    return _slices(bulk, items, rejections, conflicts)


def _slices(
    bulk: BulkContext, items: Iterator[bytes], rejections: Rejections | None, conflicts: list[int]
) -> Generator[None, None, Response]:
    pieces: list[bytes] = []
    due = monotonic() + SLICE_SECONDS
    while some := list(islice(items, ITEMS_AT_ONCE)):
        pieces.append(b",".join(filter(None, some)))
        if monotonic() >= due:
            yield
            due = monotonic() + SLICE_SECONDS
    return _answer(bulk, pieces, errors=bool(rejections or conflicts))


def _answer(bulk: BulkContext, items: list[bytes], *, errors: bool) -> Response:
    shown, members = bulk.shown, []
    if "took" in shown:
        members.append(b'"took":%d' % ((monotonic() - bulk.began) * 1_000))
    if "errors" in shown:
        members.append(b'"errors":true' if errors else b'"errors":false')
    if not shown.isdisjoint(MEMBERS):
        members.append(b'"items":[%b]' % b",".join(filter(None, items)))
    body = b"{%b}" % b",".join(members)
    return "200 OK", [JSON, PRODUCT, ("content-length", str(len(body)))], body


def _items(
    bulk: BulkContext, lines: list[bytes], rejections: Rejections | None, addresses: Addresses, conflicts: list[int]
) -> Iterator[bytes]:
    """Each item, empty if nothing of it is asked for. Positions of those that conflict are added to ``conflicts``."""
    refused, words = iter(rejections.indexes if rejections else ()), iter(rejections.kept if rejections else ())
    skipped, at, stored = next(refused, -1), 0, _stored(bulk.shown)
    for position, action in enumerate(bulk.actions):
        if position == skipped:
            skipped = next(refused, -1)
            said = next(words, None)
            reason, detail = (said.reason, said.detail) if said else ("", "refused, as the items before it")
            error = b'{"type":"%b","reason":%b}' % (_type(reason, action), text_of(detail))
            yield _filtered(bulk.shown, action, action.own_id, b"400", b"", error)
            continue
        duplicate = addresses[at].duplicate
        line, at = lines[at], at + 1
        if duplicate and action.own_id and action.operation == "create":
            # Without an _id of its own a document is nobody's duplicate: its client sent the request again.
            conflicts.append(position)
            yield _filtered(bulk.shown, action, action.own_id, b"409", b"", CONFLICT)
        else:
            yield stored(action, line, duplicate)


def _stored(shown: frozenset[str]) -> Callable[[Action, bytes, bool], bytes]:
    """What renders the item of a record that is stored: a constant for each operation and index, as far as possible.

    PERF: half a microsecond an item; member by member it takes three.
    """
    made: dict[tuple[str, str, bool], bytes] = {}

    def whole(action: Action, line: bytes, duplicate: bool) -> bytes:
        key = (action.operation, action.index, duplicate)
        head = made.get(key)
        if head is None:
            made[key] = head = b'{"%b":{"_index":"%b","_id":"' % (key[0].encode(), key[1].encode())
        own_id = text_of(action.own_id)[1:-1] if action.own_id else _id_of(line)
        return b"%b%b%b" % (head, own_id, _NOOP if duplicate else _CREATED)

    def brief(action: Action, line: bytes, duplicate: bool) -> bytes:
        key = (action.operation, "", duplicate)
        item = made.get(key)
        if item is None:
            made[key] = item = some(action, line, duplicate)
        return item

    def some(action: Action, line: bytes, duplicate: bool) -> bytes:
        status, result = (b"200", b'"noop"') if duplicate else (b"201", b'"created"')
        return _filtered(shown, action, action.own_id or _id_of(line).decode(), status, result, b"")

    if shown is EVERYTHING:
        return whole
    return brief if shown.isdisjoint(("_index", "_id")) else some


def _id_of(line: bytes) -> bytes:
    """The id that a record was given here: a digest, so nothing in it is escaped."""
    return line[2 : line.index(b'"', 2)]


def _filtered(shown: frozenset[str], action: Action, own_id: str, status: bytes, result: bytes, error: bytes) -> bytes:
    """One item with the members that are asked for; empty if there are none."""
    members = [("_index", b'"%b"' % action.index.encode())]
    if own_id:
        members.append(("_id", text_of(own_id)))
    if result:
        members += [("_version", b"1"), ("result", result), ("_shards", b'{"total":1,"successful":1,"failed":0}')]
        members += [("_seq_no", b"0"), ("_primary_term", b"1")]
    members.append(("status", status))
    if error:
        members.append(("error", error))
    kept = b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members if name in shown)
    return b'{"%b":{%b}}' % (action.operation.encode(), kept) if kept else b""


def _type(reason: str, action: Action) -> bytes:
    """The type of the error of an item that was refused for ``reason``."""
    if action.fault == BAD_INDEX:
        return b"invalid_index_name_exception"
    return _ITEM_TYPES.get(reason, b"illegal_argument_exception")


def refusal(error: InletError, *, request_id: str) -> Response:
    """Return the answer to a request of which nothing was stored, or nobody knows, with PROBLEMS' status.

    ``status`` and ``error`` are Elasticsearch's own; ``inlet`` says the reason, and whether a retry can help.
    """
    row = PROBLEMS[error.reason]
    kind = _TYPES.get(error.reason)
    if kind is None:
        kind = "unavailable_shards_exception" if row.status == 503 else "illegal_argument_exception"
        kind = "exception" if row.status == 500 else kind
    cause = {"type": kind, "reason": error.detail}
    body = text_of({
        "error": {"root_cause": [cause], **cause},
        "status": row.status,
        "inlet": {"reason": error.reason, "retryable": row.retryable, "request_id": request_id},
    })  # fmt: skip
    return STATUS_LINES[row.status], [JSON, PRODUCT, ("content-length", str(len(body))), *fields_of(error)], body
