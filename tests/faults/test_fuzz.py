"""Malformed input by the thousand: mutated requests over HTTP, mutated bodies, and records made up by hypothesis."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import ujson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz import (
    KEY_TOKENS,
    REQUESTS,
    TOKENS,
    FuzzedKeys,
    HttpFuzz,
    answers,
    documented,
    fuzz_payload,
    mutate,
)
from tests.faults.load import exchange, http_post
from tests.faults.rig import STREAM, Rig
from tests.support import RECORD, stored_lines

HTTP_CASES = 4_000
KEYED_CASES = 4_000
"""With keys, right ones or wrong ones."""
PAYLOAD_CASES = 60_000
EXAMPLES = 300
"""Of hypothesis, each a request."""
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries(
    {
        "event_id": TEXT | ANYTHING,
        "timestamp": st.datetimes().map(lambda moment: moment.isoformat() + "Z") | ANYTHING,
        "service": TEXT | ANYTHING,
        "message": TEXT | ANYTHING,
    },
    optional={"metadata": st.dictionaries(TEXT, TEXT, max_size=4) | ANYTHING, "other": ANYTHING},
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A server and a store for this module."""
    with Rig("stored") as rig:
        yield rig


def test_mutated_requests_get_only_documented_answers_and_leave_the_workers_as_they_were(rig: Rig) -> None:
    fuzz = HttpFuzz(rig)
    fuzz.run(HTTP_CASES)
    print(f"{fuzz.cases} cases, {fuzz.cut} cut; answers {dict(sorted(fuzz.statuses.items()))}")
    assert {200, 202, 400, 404, 405, 422} <= set(fuzz.statuses), "the mutations reach too little"


def test_without_a_right_key_nothing_is_ever_stored(tmp_path: Path) -> None:
    keys = FuzzedKeys(tmp_path)
    with Rig("stored", env=keys.env) as rig:
        # Nor is it worth anything that the same workers have just accepted the right key.
        with rig.server.connect() as connection:
            request = keys.requests([keys.right])[0]
            assert exchange(connection, request)[0] == 202
        with rig.reader() as client:
            client.delete(STREAM)
        fuzz = HttpFuzz(rig, requests=[*REQUESTS, *keys.requests(keys.wrong)], tokens=[*TOKENS, *KEY_TOKENS])
        fuzz.run(KEYED_CASES)
        print(f"{fuzz.cases} cases, {fuzz.cut} cut; answers {dict(sorted(fuzz.statuses.items()))}")
        assert {200, 400, 401, 404, 405} <= set(fuzz.statuses), "the mutations reach too little"
        # 422 comes only after the key: it would tell a stranger about records.
        assert not {202, 403, 422} & set(fuzz.statuses)
        assert fuzz.statuses[401] > KEYED_CASES / 3
        with rig.reader() as client:
            assert client.keys() == [], "something was stored"
        assert keys.right[-64:] not in rig.server.log()


def test_with_a_right_key_mutated_requests_come_to_what_they_came_to_without(tmp_path: Path) -> None:
    keys = FuzzedKeys(tmp_path)
    with Rig("stored", env=keys.env) as rig:
        fuzz = HttpFuzz(rig, requests=keys.requests([keys.right]), tokens=[*TOKENS, *KEY_TOKENS])
        fuzz.run(KEYED_CASES)
        print(f"{fuzz.cases} cases, {fuzz.cut} cut; answers {dict(sorted(fuzz.statuses.items()))}")
        assert {200, 202, 400, 401, 404, 405, 422} <= set(fuzz.statuses), "the mutations reach too little"
        assert fuzz.accepted > KEYED_CASES / 5
        assert keys.right[-64:] not in rig.server.log()
        with rig.reader() as client:
            assert client.xlen(f"{STREAM}:rejected") > 0


def test_no_seed_with_a_wrong_key_is_a_few_mutations_away_from_the_right_one(tmp_path: Path) -> None:
    keys = FuzzedKeys(tmp_path)
    for wrong in keys.wrong:
        same = sum(a == b for a, b in zip(wrong[-64:], keys.right[-64:], strict=False))
        assert len(wrong) < 64 or same < 48, "chance could find it"
    for key, requests in ((keys.right, keys.requests([keys.right])), ("0" * 64, keys.requests(["0" * 64]))):
        assert len(requests) == 3 * len(REQUESTS)
        assert sum(key.encode() in request for request in requests) > len(requests) / 2


def test_mutated_bodies_are_refused_in_words_or_give_lines_as_the_contract_says() -> None:
    outcomes = fuzz_payload(PAYLOAD_CASES)
    print(dict(outcomes))
    assert {"accepted", "partly accepted", "malformed-payload", "invalid-record"} <= set(outcomes)


def test_what_hypothesis_makes_up_is_stored_as_it_was_sent_or_refused(rig: Rig) -> None:
    with rig.server.connect() as connection, rig.reader() as client:

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(RECORDS | ANYTHING)
        def check(value: object) -> None:
            before = client.xlen(STREAM)
            status, body, keep = exchange(connection, http_post(json.dumps(value).encode()))
            assert keep
            assert client.xlen(STREAM) == before + (status == 202)
            if status != 202:
                assert status in (400, 422), body
                assert json.loads(body)["retryable"] is False
                return
            assert isinstance(value, dict | list)
            (last,) = client.xrevrange(STREAM, count=1)
            sent = value if isinstance(value, list) else [value]
            for line, record in zip(last[1][b"r"].split(b"\n"), sent, strict=True):
                members = [record[name] for name in ("event_id", "timestamp", "service", "message")]
                assert ujson.loads(line) == [*members, record.get("metadata", {})]

        check()
        assert stored_lines(client, STREAM) is not None


def test_the_fuzzer_notices_an_answer_that_is_none() -> None:
    with pytest.raises(AssertionError, match="no response"):
        list(answers(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nokTraceback", b""))
    with pytest.raises(AssertionError, match="cut short"):
        list(answers(b"HTTP/1.1 202 Accepted\r\ncontent-length: 9\r\n\r\nok", b""))
    assert 500 not in documented()
    assert {400, 413, 414, 431, 501, 505} <= documented()


def test_a_seed_gives_the_same_cases_again() -> None:
    def cases(seed: int) -> list[bytes]:
        drawn = random.Random(seed)
        return [mutate(drawn, drawn.choice(REQUESTS), REQUESTS) for _ in range(50)]

    assert cases(3) == cases(3) != cases(4)
    assert RECORD["event_id"] != "fuzz", "no other test has records with the event_id of the seeds"
