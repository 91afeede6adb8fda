"""The steps before a body is read: origin, key, quotas; and what a key leaves for later: stream, services, records.

What lives here: the pipeline over keys and quotas that the test makes up. What must not: keys, quotas and origins
themselves (tests/access), real servers (tests/service).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.errors import RecordInvalid
from inlet.stream.record import service_token, token_of_service
from tests.receivers.support import (
    LIMITS,
    LINE,
    NDJSON,
    ONE,
    MemorySink,
    application,
    ask,
    body_of,
    counted,
    encode,
    environ,
    moved,
    record,
    refused,
)  # fmt: skip
from wsgi.problems import Denied
from wsgi.receivers.admission import Admission


@dataclass
class Meter:
    """Notes every charge; raises for the kinds in ``over``."""

    over: set[str] = field(default_factory=set)
    charged: list[tuple[str, int]] = field(default_factory=list)

    def _charge(self, kind: str, amount: int) -> None:
        if kind in self.over:
            raise Denied("quota-exceeded", f"over the quota of {kind}", [("retry-after", "7")])
        self.charged.append((kind, amount))

    def admit_one(self, size: int) -> None:
        """Charge a request."""
        self._charge("admit", size)

    def body(self, size: int) -> None:
        """Charge bytes."""
        self._charge("body", size)

    def spent(self, size: int) -> None:
        """Charge bytes."""
        self.charged.append(("spent", size))

    def rest(self, count: int) -> None:
        """Charge records."""
        self._charge("records", count)


@dataclass(frozen=True)
class Grant:
    """What a key permits."""

    key: str = "k-1"
    services: frozenset[bytes] | None = None
    stream: bytes | None = None
    meter: Meter | None = None


@dataclass
class Sink(MemorySink):
    """Notes destinations."""

    destinations: list[bytes | None] = field(default_factory=list)

    def append(self, lines: list[bytes], level: int, destination: bytes | None = None) -> Any:
        """Keep the destination too."""
        self.destinations.append(destination)
        return super().append(lines, level)


def no_key(env: Any, receiver: str) -> Grant:
    raise Denied("unauthorized", "no key", [("www-authenticate", "Bearer")])


def admission(grant: Grant | Callable[..., Grant], origin: Any = lambda env: [("vary", "Origin")]) -> Admission:
    return Admission(origin, lambda env: None, grant if callable(grant) else lambda env, receiver: grant)


def unread(**more: Any) -> dict[str, Any]:
    """A request whose body must not be read."""

    class Unreadable:
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("the body was read")

    return {**environ(ONE, **more), "wsgi.input": Unreadable()}


CHUNKED: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


@pytest.mark.parametrize("direct", [True, False])
def test_without_a_key_a_request_is_refused_before_its_body_is_read_and_counted(direct: bool) -> None:
    sink, before = MemorySink(), counted()
    answer = ask(application(sink, direct=direct, admission=admission(no_key)), unread())
    assert refused(answer, "unauthorized")["detail"] == "no key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert sink.order == []
    assert moved(before) == {'inlet_requests_total{reason="unauthorized",receiver="native",status="401"}': 1}


def test_a_request_over_its_quota_is_refused_before_its_body_is_read() -> None:
    meter = Meter(over={"admit"})
    answer = ask(application(MemorySink(), admission=admission(Grant(meter=meter))), unread())
    refused(answer, "quota-exceeded")
    assert answer.headers["retry-after"] == "7"
    assert meter.charged == []


@pytest.mark.parametrize(
    ("make", "charges"),
    [
        (lambda: environ(ONE), [("admit", len(ONE))]),
        (lambda: environ(ONE + b"\n" + ONE, CONTENT_TYPE=NDJSON), [("admit", 2 * len(ONE) + 1), ("records", 2)]),
        (lambda: environ(ONE + b"\n{}", CONTENT_TYPE=NDJSON), [("admit", len(ONE) + 3)]),
        (lambda: environ(ONE, CONTENT_LENGTH=None, **CHUNKED),
         [("admit", 0), ("body", len(ONE))]),
        (lambda: environ(ONE, CONTENT_LENGTH=str(10**17)), [("admit", 0)]),
        (lambda: environ(b"{}"), [("admit", 2)]),
    ],
    ids=["one", "bulk", "half", "chunked", "too large", "invalid"],
)  # fmt: skip
def test_quotas_are_charged_with_what_a_request_holds(make: Any, charges: list[tuple[str, int]]) -> None:
    meter = Meter()
    ask(application(MemorySink(), admission=admission(Grant(meter=meter))), make())
    assert meter.charged == charges


@pytest.mark.parametrize("kind", ["body", "records"])
def test_what_is_over_a_quota_after_the_body_is_not_appended(kind: str) -> None:
    sink, meter = MemorySink(), Meter(over={kind})
    chunked = environ(ONE + b"\n" + ONE, CONTENT_TYPE=NDJSON, CONTENT_LENGTH=None, **CHUNKED)
    refused(ask(application(sink, admission=admission(Grant(meter=meter))), chunked), "quota-exceeded")
    assert sink.order == []


def test_records_go_to_the_stream_of_the_key() -> None:
    for stream in (b"tenant-a", None):
        sink = Sink()
        assert ask(application(sink, admission=admission(Grant(stream=stream))), environ(ONE)).status == 202
        assert sink.destinations == [stream]


# ---- services


ODD = 'a","b\\'


@pytest.mark.parametrize("service", ["api", ODD, "é", "\x01", 'a",', 'a\\",', '","', "a\\", ",", '"'])
def test_a_key_may_send_records_of_its_services(service: str) -> None:
    sink = MemorySink()
    app = application(sink, admission=admission(Grant(services=frozenset((token_of_service(service),)))))
    assert ask(app, environ(body_of(record(ODD, service=service)))).status == 202
    assert sink.stored == [encode(record(ODD, service=service))]
    answer = ask(app, environ(body_of(record(service=service + "x"))))
    problem = refused(answer, "forbidden")
    assert "right: services" in problem["detail"]
    assert len(sink.stored) == 1


services = st.text(min_size=1, max_size=6, alphabet='a",\\é')


@given(services, services, st.text())
def test_two_services_have_the_same_token_only_if_they_are_the_same(one: str, other: str, event_id: str) -> None:
    try:
        line = encode(record(event_id[:9] + "x", service=one))
    except RecordInvalid:  # a surrogate
        line = encode(record("x", service=one))
    assert service_token(line) == token_of_service(one)
    assert (service_token(line) == token_of_service(other)) is (one == other)


def test_records_of_other_services_are_refused_one_by_one_in_their_place() -> None:
    own, other = record("own"), record("other", service="web")
    body = b"\n".join((b"{}", *map(body_of, (own, other)), b"{", *map(body_of, (other, own)), b"[]"))
    sink, before = MemorySink(), counted()
    app = application(sink, admission=admission(Grant(services=frozenset((b"api",)))))
    answer = ask(app, environ(body, CONTENT_TYPE=NDJSON, QUERY_STRING="receipt=1"))
    assert (answer.status, answer.json["accepted"], answer.json["rejected"]) == (202, 2, 5)
    reasons = ["invalid-record", "forbidden", "malformed-record", "forbidden", "invalid-record"]
    errors = answer.json["errors"]
    assert [(e["index"], e["reason"]) for e in errors] == list(zip([0, 2, 3, 4, 6], reasons, strict=True))
    assert [e["event_id"] for e in errors] == [None, "other", None, "other", None]
    assert [each["index"] for each in answer.json["records"]] == [1, 5]
    assert sink.stored == [encode(own)] * 2
    rejected = {key: value for key, value in moved(before).items() if "rejected" in key}
    assert rejected == {
        'inlet_records_rejected_total{reason="invalid-record"}': 2,
        'inlet_records_rejected_total{reason="malformed-record"}': 1,
        'inlet_records_rejected_total{reason="forbidden"}': 2,
    }


def test_over_a_thousand_rejections_the_words_are_dropped_and_all_are_counted() -> None:
    lines = b"\n".join([b"{}\n" + body_of(record("w", service="web"))] * 700 + [ONE])
    app = application(MemorySink(), admission=admission(Grant(services=frozenset((b"api",)))))
    answer = ask(app, environ(lines, CONTENT_TYPE=NDJSON)).json
    assert (answer["accepted"], answer["rejected"], len(answer["errors"])) == (1, 1_400, 1_000)
    assert [e["index"] for e in answer["errors"]] == list(range(1_000))


def test_a_bulk_without_a_record_of_its_services_is_forbidden_whole() -> None:
    app = application(MemorySink(), admission=admission(Grant(services=frozenset((b"web",)))))
    refused(ask(app, environ(ONE + b"\n" + ONE, CONTENT_TYPE=NDJSON)), "forbidden")


def test_where_other_records_are_invalid_each_is_told_why() -> None:
    # Found from outside: such a bulk was a 403 that hid what was wrong with the others.
    app = application(MemorySink(), admission=admission(Grant(services=frozenset((b"web",)))))
    problem = refused(ask(app, environ(ONE + b"\n{}", CONTENT_TYPE=NDJSON)), "nothing-accepted")
    assert [(e["index"], e["reason"]) for e in problem["errors"]] == [(0, "forbidden"), (1, "invalid-record")]


# ---- browsers


@pytest.mark.parametrize(
    ("make", "status"),
    [(lambda: environ(ONE), 202), (lambda: environ(b"{"), 400), (lambda: environ(b"x", CONTENT_TYPE="image/png"), 415)],
)
def test_every_answer_to_a_page_carries_the_fields_of_its_origin(make: Any, status: int) -> None:
    app = application(MemorySink(), admission=admission(Grant()))
    page, other = ask(app, {**make(), "HTTP_ORIGIN": "https://a.test"}), ask(app, make())
    assert (page.status, page.headers["vary"]) == (status, "Origin")
    assert "vary" not in other.headers


def test_without_a_key_too_and_an_origin_that_is_not_allowed_comes_first() -> None:
    page = ask(application(MemorySink(), admission=admission(no_key)), unread(HTTP_ORIGIN="https://a.test"))
    assert (page.status, page.headers["vary"]) == (401, "Origin")

    def not_allowed(env: Any) -> Any:
        raise Denied("origin-not-allowed", "no page of this origin may send")

    answer = ask(application(MemorySink(), admission=admission(no_key, not_allowed)), unread(HTTP_ORIGIN="https://a"))
    refused(answer, "origin-not-allowed")


# ---- before the body


def test_before_a_body_a_request_is_refused_as_it_would_be_with_it() -> None:
    app = application(MemorySink(), admission=admission(no_key))
    early = app.before_body(unread(HTTP_X_REQUEST_ID="q-1"))
    late = ask(app, unread(HTTP_X_REQUEST_ID="q-1"))
    assert early is not None
    assert (early[0].split()[0], dict(early[1]), early[2]) == (str(late.status), late.headers, late.body)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_before_a_body_a_request_is_charged_once_and_keeps_its_id_and_its_fields(chunked: bool, direct: bool) -> None:
    meter, origins = Meter(), []

    def origin(env: Any) -> Any:
        origins.append(env)
        return [("vary", "Origin")]

    sink = MemorySink()
    app, other = (
        application(sink, direct=way, admission=admission(Grant(meter=meter), origin)) for way in (True, direct)
    )
    env = environ(ONE, HTTP_ORIGIN="https://a.test", **({**CHUNKED, "CONTENT_LENGTH": None} if chunked else {}))
    body, env["wsgi.input"] = env["wsgi.input"], unread()["wsgi.input"]
    assert app.before_body(env) is None
    assert meter.charged == [("admit", 0 if chunked else len(ONE))]
    assert env["phased.owner"] == "k-1"
    assert ("phased.unfinished" in env) is chunked
    own_id = env["inlet.admitted"].request_id
    env["wsgi.input"] = body
    answer = ask(other, env)
    assert (answer.status, answer.headers["vary"], answer.headers["x-request-id"]) == (202, "Origin", own_id)
    later = [("body", len(ONE))] if chunked else []
    assert meter.charged[1:] == later
    assert len(origins) == 1
    assert "inlet.admitted" not in env
    assert sink.stored == [LINE]


def test_a_key_that_was_revoked_while_the_body_came_is_refused_and_a_new_one_is_used() -> None:
    old, new, sink = Meter(), Meter(), Sink()
    grants: list[Any] = [Grant(meter=old), Grant(stream=b"moved", meter=new)]
    app = application(sink, admission=admission(lambda env, receiver: grants.pop(0)))
    env = environ(ONE)
    assert app.before_body(env) is None
    assert ask(app, env).status == 202
    assert (old.charged, new.charged, sink.destinations) == ([("admit", len(ONE))], [], [b"moved"])

    def revoked(env: Any, receiver: str) -> Grant:
        return grants.pop(0) if grants else no_key(env, receiver)

    app = application(sink, admission=admission(revoked))
    grants[:] = [Grant()]
    env = environ(ONE, HTTP_X_REQUEST_ID="q-2")
    assert app.before_body(env) is None
    answer = ask(app, env)
    refused(answer, "unauthorized")
    assert answer.headers["x-request-id"] == "q-2"
    assert len(sink.stored) == 1


def test_before_a_body_a_request_over_its_quota_is_refused_and_not_charged() -> None:
    meter = Meter(over={"admit"})
    env = unread()
    early = application(MemorySink(), admission=admission(Grant(meter=meter))).before_body(env)
    assert early is not None
    assert early[0].startswith("429 ")
    assert meter.charged == []
    assert "inlet.admitted" not in env


@pytest.mark.parametrize(
    ("more", "status"), [({"CONTENT_LENGTH": str(10**9)}, "413 "), ({"HTTP_INLET_DURABILITY": "none"}, "400 ")]
)
def test_before_a_body_what_is_refused_for_its_head_has_used_its_request(more: dict[str, Any], status: str) -> None:
    meter = Meter()
    early = application(MemorySink(), admission=admission(Grant(meter=meter))).before_body(unread(**more))
    assert early is not None
    assert early[0].startswith(status)
    assert [kind for kind, _ in meter.charged] == ["admit"]


def test_what_became_of_no_request_is_charged_as_bytes() -> None:
    meter = Meter()
    env = unread(CONTENT_LENGTH=None, **CHUNKED)
    assert application(MemorySink(), admission=admission(Grant(meter=meter))).before_body(env) is None
    env["phased.unfinished"](1_000)
    assert meter.charged == [("admit", 0), ("spent", 1_000)]


def test_other_servers_read_chunked_bodies_here_and_what_they_read_in_vain_is_charged() -> None:
    class Broken:
        pieces: ClassVar = [b"b" * 100, b"b" * 50]

        def read(self, size: int = -1) -> bytes:
            if not self.pieces:
                raise OSError("cut")
            return self.pieces.pop()

    class Endless:
        def read(self, size: int = -1) -> bytes:
            return b" " * min(size, 65_536)

    for stream, reason in ((Broken(), "malformed-payload"), (Endless(), "payload-too-large")):
        meter = Meter()
        env = {**environ(CONTENT_LENGTH=None, **CHUNKED), "wsgi.input": stream}
        refused(ask(application(MemorySink(), admission=admission(Grant(meter=meter))), env), reason)
        size = 150 if reason == "malformed-payload" else LIMITS.payload_bytes_max + 1
        assert meter.charged == [("admit", 0), ("spent", size)]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/nothing", "POST", "404"), ("/ingest", "PUT", "405"), ("/healthz", "GET", "200"), ("/readyz", "POST", "405")],
)
def test_before_a_body_that_nobody_needs_the_answer_is_given(path: str, method: str, status: str) -> None:
    early = application(MemorySink()).before_body(unread(path=path, method=method))
    assert early is not None
    assert early[0].startswith(status)


def test_a_bug_before_the_body_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    def bug(env: Any, receiver: str) -> Grant:
        raise RuntimeError("a bug of the test")

    early = application(MemorySink(), admission=admission(bug)).before_body(unread(HTTP_X_REQUEST_ID="q-7"))
    assert early is not None
    assert early[0].startswith("500 ")
    assert [getattr(row, "request_id", None) for row in caplog.records] == ["q-7"]
    assert encode(record()) == LINE
