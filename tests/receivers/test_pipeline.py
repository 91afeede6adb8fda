"""wsgi.receivers.pipeline: the order of the steps, one error path, what is counted when, and PEP 3333.

What lives here: requests through the application over a sink in memory. What must not: the formats of a body.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any, NoReturn
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from inlet.stream.limits import RecordLimits
from tests.receivers.support import (
    LIMITS,
    NDJSON,
    ONE,
    MemorySink,
    Told,
    application,
    ask,
    body_of,
    counted,
    environ,
    moved,
    record,
    refused,
)
from wsgi.problems import SERVER_REASONS, SinkError
from wsgi.receivers.admission import OPEN
from wsgi.receivers.application import refuse_for_server
from wsgi.receivers.native import Native
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.sink.durability import RECEIVED, REPLICATED

REQUESTS = 'inlet_requests_total{reason="%s",receiver="%s",status="%d"}'


def away() -> SinkError:
    """A store that is away."""
    return SinkError("sink-unavailable", "the store is away")


# ---- order


def test_nothing_is_told_before_the_commit_has_returned() -> None:
    sink, told = MemorySink(), Told()
    iterable: Any = application(sink)(environ(ONE, HTTP_X_REQUEST_ID="q-1"), told)
    assert (sink.order, told.answers) == (["append"], [])
    assert b"".join(iterable) == b'{"status":"queued"}'
    assert sink.order == ["append", "commit"]
    fields = {"content-type": "application/json", "inlet-durability": "stored", "content-length": "19"}
    fields["x-request-id"] = "q-1"
    assert told.answers == [("202 Accepted", list(fields.items()))]


@pytest.mark.parametrize("body", [ONE, b"{"])
def test_not_even_a_refusal_is_told_before_the_first_iteration(body: bytes) -> None:
    told = Told()
    iterable: Any = application(MemorySink())(environ(body), told)
    assert told.answers == []
    assert next(iter(iterable))
    assert len(told.answers) == 1


def test_every_request_is_appended_before_the_first_commit_where_the_server_does_so() -> None:
    sink = MemorySink()
    app = application(sink)
    iterables: list[Any] = [app(environ(ONE), Told()) for _ in range(2)]
    assert [b"".join(iterable) for iterable in iterables] == [b'{"status":"queued"}'] * 2
    assert sink.order == ["append", "append", "commit", "commit"]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("stage", ["append", "commit"])
def test_what_the_sink_raises_is_the_answer_with_retry_after(stage: str, direct: bool) -> None:
    sink = MemorySink(append_error=away) if stage == "append" else MemorySink(commit_error=away)
    reply = ask(application(sink, direct=direct), environ(ONE))
    assert refused(reply, "sink-unavailable")["detail"] == "the store is away"
    assert reply.headers["retry-after"] in ("1", "2", "3")


@pytest.mark.parametrize("iterated", [True, False])
def test_close_ends_an_answer_and_one_that_was_never_iterated_is_never_committed(iterated: bool) -> None:
    sink, told = MemorySink(), Told()
    iterable: Any = application(sink)(environ(ONE), told)
    if iterated:
        assert list(iterable) == [b'{"status":"queued"}']
    iterable.close()
    iterable.close()
    assert list(iterable) == []
    assert (len(sink.stored), len(told.answers)) == (int(iterated), int(iterated))


@pytest.mark.parametrize("outcome", ["stored", "commit fails", "append fails", "malformed", "receipt", "no path"])
def test_wsgiref_validate_has_no_complaint(outcome: str) -> None:
    sink = MemorySink()
    sink.commit_error = away if outcome == "commit fails" else None
    sink.append_error = away if outcome == "append fails" else None
    env: dict[str, Any] = {}
    setup_testing_defaults(env)
    body = b"{" if outcome == "malformed" else ONE
    path = "/nothing" if outcome == "no path" else "/ingest"
    env |= {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body)}
    env["QUERY_STRING"] = "receipt=1" if outcome == "receipt" else ""
    told = Told()
    iterable: Any = validator(application(sink))(env, told)
    assert b"".join(iterable)
    iterable.close()
    assert len(told.answers) == 1


def test_a_server_may_change_the_headers_it_is_given() -> None:
    app = application(MemorySink())
    for _ in range(2):
        told = Told()
        list(app(environ(ONE), told))
        assert len(told.answers[0][1]) == 4
        told.answers[0][1].clear()


# ---- what fails before append, and what is said about a bug


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"HTTP_INLET_DURABILITY": "eternal"}, "unknown-durability"),
        ({"CONTENT_TYPE": "a/b"}, "unsupported-media-type"),
        ({"HTTP_CONTENT_ENCODING": "br"}, "unsupported-content-encoding"),
        ({"CONTENT_LENGTH": "x"}, "malformed-payload"), ({"CONTENT_LENGTH": "\u00b2"}, "malformed-payload"),
        ({"CONTENT_LENGTH": None}, "length-required"), ({"CONTENT_LENGTH": "9" * 9}, "payload-too-large"),
        ({"CONTENT_LENGTH": "9" * 30}, "payload-too-large"), ({"CONTENT_LENGTH": "5000"}, "malformed-payload"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direct", [True, False])
def test_a_request_that_is_refused_is_not_appended(env: dict[str, Any], reason: str, direct: bool) -> None:
    sink = MemorySink()
    refused(ask(application(sink, direct=direct), environ(ONE, **env)), reason)
    assert sink.order == []


def test_the_level_asked_for_goes_to_the_sink() -> None:
    sink = MemorySink()
    reply = ask(application(sink), environ(ONE, HTTP_INLET_DURABILITY=" Replicated "))
    assert reply.headers["inlet-durability"] == "replicated"
    ask(application(sink), environ(ONE))
    assert [level for _, level in sink.appended] == [REPLICATED, RECEIVED]


def bug() -> Exception:
    """What no sink may raise."""
    return RuntimeError("a bug of the test")


def test_a_bug_before_append_says_that_nothing_was_stored(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(application(MemorySink(append_error=bug)), environ(ONE))
    assert "No record of this request was stored" in refused(reply, "internal")["detail"]
    assert "a bug of the test" in caplog.text


def test_a_bug_after_append_is_not_told_as_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    # Found from outside: a bug between append and the answer was answered "were not stored", though they were.
    sink = MemorySink(commit_error=bug)
    reply = ask(application(sink), environ(ONE))
    assert "may be stored" in refused(reply, "internal")["detail"]
    assert sink.appended
    assert "a bug of the test" in caplog.text


class Broken(Native):
    """A receiver with a bug in its answers."""

    def accepted(self, *arguments: object) -> NoReturn:
        """Fail."""
        raise bug()

    def refused(self, *arguments: object, **more: object) -> NoReturn:
        """Fail."""
        raise bug()


@pytest.mark.parametrize("commit_error", [None, away])
def test_a_bug_in_a_receivers_answer_is_told_as_maybe_stored(commit_error: Callable[[], Exception] | None) -> None:
    sink = MemorySink(commit_error=commit_error)
    receivers = {"/ingest": Broken(LIMITS, RecordLimits())}
    operator = Operator(lambda: None)
    app = create_app(receivers=receivers, append=sink.append, admission=OPEN, operator=operator)
    assert "may be stored" in refused(ask(app, environ(ONE)), "internal")["detail"]
    assert sink.order == ["append", "commit"]


@pytest.mark.parametrize("error", [OSError("reset"), EOFError(), ValueError("I/O on closed file")])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_whose_stream_breaks_is_malformed_and_no_bug(error: Exception, chunked: bool) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise error

    more: dict[str, Any] = {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {}
    more |= {"wsgi.input": Broken(), "wsgi.input_terminated": True}
    env = environ(ONE, **more)
    assert type(error).__name__ in refused(ask(application(MemorySink()), env), "malformed-payload")["detail"]


def test_a_chunked_body_is_read_to_its_end_and_no_byte_past_its_bound() -> None:
    class Dribble(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    def chunked(body: bytes) -> dict[str, Any]:
        more: dict[str, Any] = {"wsgi.input": Dribble(body), "wsgi.input_terminated": True}
        return environ(CONTENT_LENGTH=None, HTTP_TRANSFER_ENCODING="chunked", **more)

    app = application(MemorySink(), limits=type(LIMITS)(payload_bytes_max=200))
    assert ask(app, chunked(ONE.ljust(200))).status == 202
    env = chunked(ONE.ljust(300))
    refused(ask(app, env), "payload-too-large")
    assert env["wsgi.input"].tell() == 201


# ---- counting


def test_rejections_and_unknown_members_are_counted_only_where_the_commit_succeeded() -> None:
    # Found from outside: they were counted before the commit could fail.
    body = body_of([record(x=1), {}, record("y", message=1)])
    before = counted()
    ask(application(MemorySink(commit_error=away)), environ(body))
    assert moved(before) == {REQUESTS % ("sink-unavailable", "native", 503): 1}
    before = counted()
    ask(application(MemorySink()), environ(body))
    assert moved(before) == {
        REQUESTS % ("", "native", 202): 1,
        'inlet_records_rejected_total{reason="invalid-record"}': 2,
        "inlet_unknown_members_total": 1,
    }


def test_the_refusal_of_a_record_or_of_a_whole_bulk_counts_its_records() -> None:
    before = counted()
    ask(application(MemorySink()), environ(body_of(record(event_id="x" * 257))))
    ask(application(MemorySink()), environ(b"{}\n{", CONTENT_TYPE=NDJSON))
    assert moved(before) == {
        REQUESTS % ("record-too-large", "native", 422): 1,
        REQUESTS % ("nothing-accepted", "native", 422): 1,
        'inlet_records_rejected_total{reason="record-too-large"}': 1,
        'inlet_records_rejected_total{reason="invalid-record"}': 1,
        'inlet_records_rejected_total{reason="malformed-record"}': 1,
    }


def test_requests_are_counted_once_the_answers_of_a_turn_are_out() -> None:
    app, before = application(MemorySink()), counted()
    answers: list[Any] = [app(environ(ONE), Told()) for _ in range(3)]
    assert moved(before) == {}
    answers[1].close()  # the client left: neither stored nor refused
    for answer in answers:
        list(answer)
    assert moved(before) == {REQUESTS % ("", "native", 202): 2}


def test_an_answer_that_a_server_forgets_holds_back_no_counts() -> None:
    app, before = application(MemorySink()), counted()
    forgotten = app(environ(ONE), Told())
    ask(app, environ(ONE))
    assert moved(before) == {REQUESTS % ("", "native", 202): 1}
    assert forgotten is not None


# ---- the server's own refusals


@pytest.mark.parametrize("status", sorted(SERVER_REASONS))
def test_a_refusal_of_the_server_is_a_problem_document_and_counted_for_no_receiver(status: int) -> None:
    # Found from outside: these were counted nowhere.
    before = counted()
    line, headers, body = refuse_for_server(status, "one sentence")
    assert line.startswith(f"{status} ")
    reason = SERVER_REASONS[status]
    assert f'"reason":"{reason}"'.encode() in body
    assert ("retry-after" in dict(headers)) == (status == 503)
    assert dict(headers)["content-length"] == str(len(body))
    assert moved(before) == {REQUESTS % (reason, "none", status): 1}


# ---- the reading order


def test_one_record_passes_only_the_modules_of_the_reading_order() -> None:
    app = application(MemorySink())
    ask(app, environ(ONE))
    env, told, seen = environ(ONE), Told(), set()

    def profile(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            seen.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(profile)
    try:
        body = b"".join(app(env, told))
    finally:
        sys.setprofile(None)
    assert body == b'{"status":"queued"}'
    product = {name for name in seen if name.partition(".")[0] in ("wsgi", "inlet", "falcon")}
    order = {"wsgi.receivers.pipeline", "wsgi.receivers.native", "inlet.stream.record"}
    assert product == {"wsgi.receivers.application", "wsgi.receivers.requestid", *order}
