"""The digest of a record's event_id, cut out of its encoded line: the same for one id, and another for any other."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inlet.stream.keys import IDS_BUCKETS, ids_keys
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from tests.support import record
from wsgi.sink.dedup import DIGEST_BYTES, digests_of

encode = encoder(RecordLimits())
IDS = st.text(st.sampled_from('",\\a/\u00e9\u2028\x00\n[]'), min_size=1, max_size=8)
NASTY = ['"', '","', '",', '","2026', "\\", '\\"', '\\",', '\\\\",', ',"', "a", 'a",', 'a","b', 'a\\",', 'a"', "\\,"]


def digest(event_id: str, **members: object) -> bytes:
    """The digest of a valid record with this id."""
    return digests_of([encode(record(event_id, **members))])[0]


@given(IDS, IDS)
@example('x",', "x")
@example('x",', "x\\")
@example('x",', 'x"')
@example('x",","', 'x",')
def test_two_ids_have_one_digest_only_if_they_are_one(one: str, other: str) -> None:
    assert (digest(one) == digest(other)) is (one == other)
    assert len(digest(one)) == DIGEST_BYTES


def test_no_two_of_the_nastiest_ids_have_one_digest() -> None:
    assert len({digest(event_id) for event_id in NASTY}) == len(NASTY)


@pytest.mark.parametrize("event_id", [*NASTY, "a" * RecordLimits().event_id_chars_max])
def test_nothing_but_the_id_matters(event_id: str) -> None:
    other = digest(event_id, timestamp="2027-01-01T00:00:00Z", service='","', message='","', metadata={'"': '","'})
    assert digest(event_id) == other


@pytest.mark.parametrize(
    ("stream", "first"),
    [(b"logs", b"{logs}:ids:0"), (b"logs:{0}", b"logs:{0}:ids:0"), (b"logs:{12}", b"logs:{12}:ids:0")],
)
def test_the_ids_of_a_stream_are_kept_where_a_cluster_keeps_the_stream(stream: bytes, first: bytes) -> None:
    keys = ids_keys(stream)
    assert keys[0] == first
    assert len(set(keys)) == IDS_BUCKETS
    start, stop = first.index(b"{"), first.index(b"}")
    assert first[start + 1 : stop] == (stream if b"{" not in stream else stream[stream.index(b"{") + 1 : -1])
