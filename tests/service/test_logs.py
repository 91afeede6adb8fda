"""The log as its readers see it: text as before, or one JSON object a line whatever happens; request ids in both."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, Server, processes_of, record, wait_until
from wsgi.logs import Atoms, TextLines, credentials, masked, printable, quotable

TEXT_LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[[A-Z]+\] .*")
ACCESS_LINE = re.compile(
    r'\S+ - \S+ \[[^\]]+\] "(?:[^"\\]|\\.)*" \d{3} (?:\d+|-) "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*" [^\s"]+'
)
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
KEY = "inlet_0123456789ab_" + "5ec7e7" * 10 + "abcd"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


NOISY = """
import asyncio, logging, threading, warnings

class Broken:
    def __del__(self):
        raise ValueError("in a finalizer")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/thread":
        thread = threading.Thread(target=lambda: 1 / 0, name="worker-of-ours")
        thread.start()
        thread.join()
    elif path == "/warning":
        warnings.warn("an old way", stacklevel=1)
    elif path == "/finalizer":
        Broken()
    elif path == "/library":
        logging.getLogger("some.library").error("of a library\\nwith two lines")
    elif path == "/misfit":
        logging.getLogger("inlet").error("%d records", "many")
    elif path == "/raise":
        raise RuntimeError("a bug")
    start_response("200 OK", [("content-length", "2"), ("x-request-id", "of-noisy")])
    return [b"ok"]
"""


def lines(server: Server) -> list[dict[str, Any]]:
    """Every line of the log, each of which is an object."""
    found = [json.loads(line) for line in server.log().splitlines()]
    for line in found:
        assert UTC_TIME.fullmatch(line["time"]), line
        assert {"level", "logger", "message", "pid"} <= set(line), line
    return found


def line_with(server: Server, text: str) -> str:
    """Wait for a line of the log with this text; the only one."""
    wait_until(lambda: text in server.log(), text)
    (line,) = [line for line in server.log().splitlines() if text in line]
    return line


def post(server: Server, **headers: str) -> httpx.Response:
    return httpx.post(server.url + "/ingest?x=1", json=record(), headers=headers, timeout=DEADLINE_SECONDS)


@pytest.fixture
def noisy(tmp_path: Path) -> tuple[str, ...]:
    """Options that run an application which makes every kind of stray output."""
    (tmp_path / "noisy.py").write_text(NOISY)
    return "--pythonpath", str(tmp_path), "--workers", "1"


def test_text_is_as_before_and_the_access_log_ends_with_the_request_id(serve: Serve) -> None:
    server = serve("--workers", "1", "--access-logfile", "-")
    assert post(server, **{"X-Request-Id": "mine-1"}).status_code == 202
    wait_until(lambda: "mine-1" in server.log(), "the access log")
    (access,) = [line for line in server.log().splitlines() if "/ingest?x=1" in line]
    assert ACCESS_LINE.fullmatch(access), access
    assert access.endswith(" mine-1")
    for line in server.log().splitlines():
        assert line == "" or line.startswith("    ") or TEXT_LINE.fullmatch(line) or line == access, line


def test_a_made_id_is_in_the_answer_the_problem_and_the_access_log_and_unique_over_workers(serve: Serve) -> None:
    server = serve("--workers", "2", "--access-logfile", "-")
    seen = set()
    for _ in range(100):
        answer = httpx.post(server.url + "/ingest", content=b"[", timeout=DEADLINE_SECONDS)
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 100
    assert len({name.partition("-")[0] for name in seen}) == 2, "both workers answered"
    wait_until(lambda: all(name in server.log() for name in seen), "the access log names all")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a", True), ("A" * 128, True), ("A" * 129, False), ("0af7651916cd43dd8448eb211c80319c", True),
        ("a.b_c~d+e/f=g:h@i-j", True), ("a b", False), ('a"b', False), ("a\\b", False), ("é", False), ("", False),
        ("a,b", False), ("a;b", False), ("<a>", False),
    ],
)  # fmt: skip
def test_a_sane_id_is_taken_and_any_other_replaced(serve_once: Server, given: str, taken: bool) -> None:
    head = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nX-Request-Id: " + given.encode("latin-1")
    status, headers, body = serve_once.send(head + b"\r\n\r\n[")
    assert (status, headers["x-request-id"] == given) == (415 if status == 415 else 400, taken)
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    assert re.fullmatch(r"[A-Za-z0-9._~+/=:@-]{1,128}", headers["x-request-id"])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        b"DELETE /ingest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x01\r\n\r\n",
        b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
    ],
)
def test_every_refusal_has_an_id(serve_once: Server, request_bytes: bytes) -> None:
    _, headers, body = serve_once.send(request_bytes)
    assert json.loads(body)["request_id"] == headers["x-request-id"]


@pytest.fixture(scope="module")
def serve_once() -> Any:
    """One server for the tests that only ask it."""
    server = Server("app:application", ["--workers", "1"], {})
    yield server
    server.close()


def test_a_bug_is_logged_with_the_id_that_its_answer_has(serve: Serve) -> None:
    server = serve("--workers", "1", app="tests.service.broken_app:application")
    answer = post(server)
    assert answer.status_code == 500
    wait_until(lambda: "a bug in answering a request" in server.log(), "the log")
    assert f"a bug in answering a request request_id={answer.headers['x-request-id']}\n    Traceback" in server.log()


@pytest.mark.parametrize("kind", ["phased", "sync", "gthread"])
def test_every_line_of_a_whole_life_is_json(serve: Serve, kind: str) -> None:
    options = [] if kind == "phased" else ["--worker-class", kind, "--threads", "4" if kind == "gthread" else "1"]
    server = serve_json(serve, "--workers", "2", "--access-logfile", "-", "--log-level", "debug", *options)
    assert post(server, **{"X-Request-Id": "mine-1"}).status_code == 202
    # A worker logs an answer after the client has it, and the one that did is killed below.
    wait_until(lambda: any(line["logger"] == "gunicorn.access" for line in lines(server)), "the line of the access log")
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET /\x1b[31m HTTP/1.1\r\n\r\n", b"POST /ingest HTTP/1.1\r\nHos"):
        with server.connect() as connection:
            connection.sendall(garbage)
    os.kill(server.workers()[0], signal.SIGKILL)
    wait_until(lambda: boots(server) == 3, "another worker")
    server.signal(signal.SIGHUP)
    wait_until(lambda: boots(server) == 5, "new workers")
    log = server.log_path
    server.stop()
    found = lines(server)
    assert log.exists()
    assert {"gunicorn.error", "gunicorn.access"} <= {line["logger"] for line in found}
    (access,) = [line for line in found if line.get("request_id") == "mine-1"]
    assert access["path"] == "/ingest"
    assert (access["method"], access["status"], access["remote_addr"]) == ("POST", 202, "127.0.0.1")
    assert access["user_agent"].startswith("python-httpx/")
    assert access["bytes"] == 19
    assert 0 <= access["seconds"] < DEADLINE_SECONDS
    assert "x=1" not in json.dumps(access)


def test_members_of_json_hold_no_control_characters(serve: Serve) -> None:
    """Regression: they were escaped once, by JSON, so `jq -r .path` printed forged lines and escape sequences."""
    server = serve_json(serve, "--workers", "1", "--access-logfile", "-")
    for _ in range(2):
        status, _, _ = server.send(
            b"GET /x%0AFORGED%1b[31m HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x9bb\xa0\r\nX-Request-Id: mine-2\r\n\r\n"
        )
        assert status == 404
    wait_until(lambda: any(line.get("request_id") == "mine-2" for line in lines(server)), "the access log")
    access = next(line for line in lines(server) if line.get("request_id") == "mine-2")
    assert (access["path"], access["user_agent"]) == ("/x\\nFORGED\\x1b[31m", "a\\x9bb\\xa0")
    for line in lines(server):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "".join(str(value) for value in line.values()))


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_the_server_itself_refuses_is_in_the_access_log_with_the_id_of_the_answer(serve: Serve, form: str) -> None:
    """Regression: 400, 408, 413, 414, 417, 431, 501, 505 were in no log, and the client's own id was replaced."""
    server = serve("--workers", "1", "--access-logfile", "-", INLET_LOG=form)
    mine = b"X-Request-Id: mine-%d\r\n"
    key = f"Authorization: Bearer {KEY}\r\nUser-Agent: {KEY}\r\n".encode()
    for number, (request, expected, method) in enumerate(
        [
            (b"POST /ingest?key=swordfish HTTP/1.1\r\nHost: a b\r\nReferer: \x1b\r\n" + key + mine, 400, "POST"),
            (b"POST /ingest HTTP/1.1\r\nHost: x\r\nExpect: foo\r\n" + key + mine, 417, "POST"),
            (b"FOO /ingest HTTP/1.1\r\nHost: x\r\n" + key + mine, 501, "FOO"),
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n", 414, "GET"),
            (b"\x1b[31m\x00\r\n", 400, None),
        ]
    ):
        status, headers, body = server.send(request.replace(b"%d", b"%d" % number) + b"\r\n")
        given = headers["x-request-id"]
        assert (status, json.loads(body)["request_id"]) == (expected, given)
        assert (given == f"mine-{number}") is (b"mine" in request)
        line = line_with(server, given)
        assert (KEY[-20:] in line, "swordfish" in line, "\x1b" in line) == (False, False, False)
        if form == "json":
            access = json.loads(line)
            assert (access["logger"], access["status"], access["method"]) == ("gunicorn.access", status, method)
            assert access["path"] is None if method is None else access["path"].startswith("/")
        else:
            assert ACCESS_LINE.fullmatch(line), line
            assert f'"{method or "-"} ' in line


def test_without_an_access_log_refusals_do_not_fill_the_log(serve: Serve) -> None:
    server = serve("--workers", "1")
    before = server.log()
    for _ in range(10):
        assert server.send(b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 501
    assert server.log() == before


def serve_json(serve: Serve, *options: str, **more: str) -> Server:
    """A server with INLET_LOG=json. Its log is read for what the text would say."""
    return serve(*options, INLET_LOG="json", **more)


def boots(server: Server) -> int:
    return len(server.booted())


def test_a_store_that_is_away_is_reported_as_json(serve: Serve, own_store: Any) -> None:
    server = serve_json(serve, "--workers", "1", REDIS_URL=own_store.url)
    own_store.stop()
    wait_until(lambda: post(server).status_code == 503, "the store is missed")
    wait_until(lambda: any(line["logger"] == "inlet" and line["level"] == "error" for line in lines(server)), "a line")


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_python_prints_by_itself_is_in_the_log_too(serve: Serve, noisy: tuple[str, ...], form: str) -> None:
    server = serve(*noisy, app="noisy:application", INLET_LOG=form)
    for path in ("thread", "warning", "finalizer", "library", "misfit", "raise"):
        httpx.get(f"{server.url}/{path}", timeout=DEADLINE_SECONDS)
    wait_until(lambda: "RuntimeError: a bug" in server.log(), "the log")
    log = server.log()
    for text in ("ZeroDivisionError", "an old way", "in a finalizer", "of a library", "%d records"):
        assert text in log, text
    if form == "json":
        found = {line["logger"]: line for line in lines(server)}
        assert found["some.library"]["message"] == "of a library\n    with two lines"
        assert "py.warnings" in found
        traces = [line["exception"] for line in lines(server) if "exception" in line]
        assert all(trace.startswith("Traceback (most recent call last):\n") for trace in traces)
    else:
        for line in log.splitlines():
            assert line == "" or line.startswith("    ") or TEXT_LINE.fullmatch(line), line


def test_a_log_level_changed_at_a_reload_reached_gunicorn_but_not_inlet(serve: Serve, tmp_path: Path) -> None:
    """Regression: the inlet logger kept the handler, and the level, of the start."""
    config = tmp_path / "own.conf.py"
    text = (
        "import runpy\nglobals().update({k: v for k, v in runpy.run_path('gunicorn.conf.py').items() if k[0] != '_'})\n"
    )
    config.write_text(text + "loglevel = 'info'\n")
    server = serve("-c", str(config), "--workers", "1")
    config.write_text(text + "loglevel = 'critical'\n")
    server.signal(signal.SIGHUP)
    (store,) = [pid for pid, words in processes_of(server.directory).items() if "valkey-server" in words]
    wait_until(lambda: server.workers() != server.booted()[:1], "a new worker")
    before = len(server.log())
    os.kill(store, signal.SIGKILL)
    wait_until(
        lambda: (
            [pid for pid, words in processes_of(server.directory).items() if "valkey-server" in words]
            not in ([store], [])
        ),
        "a store",
    )
    wait_until(lambda: post(server).status_code == 202, "it stores again")
    assert "it was killed by SIGKILL" not in server.log()[before:]


def test_the_log_file_is_reopened(serve: Serve, tmp_path: Path, noisy: tuple[str, ...]) -> None:
    """USR1, as after a rotation: the lines of gunicorn and of all others go to the new file."""
    access = tmp_path / "access.log"
    server = serve(*noisy, "--access-logfile", str(access), app="noisy:application", INLET_LOG="json")
    httpx.get(f"{server.url}/", timeout=DEADLINE_SECONDS)
    wait_until(lambda: access.exists() and access.read_text(), "a line")
    shutil.move(access, tmp_path / "old.log")
    server.signal(signal.SIGUSR1)
    wait_until(lambda: httpx.get(server.url, timeout=DEADLINE_SECONDS) and access.exists() and access.read_text(), "it")
    line = json.loads(access.read_text().splitlines()[0])
    assert (line["logger"], line["request_id"]) == ("gunicorn.access", "of-noisy")


def test_an_operators_own_log_configuration_is_kept_and_masked(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "log.json"
    config.write_text(json.dumps({
        "version": 1, "disable_existing_loggers": False,
        "formatters": {"generic": {"format": "OWN %(name)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"}},
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {"gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False}},
    }))  # fmt: skip
    server = serve("--workers", "1", "--log-config-json", str(config))
    httpx.get(f"{server.url}/healthz?key={KEY}", timeout=DEADLINE_SECONDS)
    wait_until(lambda: "OWN gunicorn.access" in server.log(), "a line of its own form")
    assert "key=***" in server.log()
    assert KEY[-20:] not in server.log()


def test_an_operators_json_stays_json() -> None:
    inner = logging.Formatter('{"message": "%(message)s", "more": 1}')
    record = logging.LogRecord("x", logging.INFO, "", 0, f"GET /?key=abc&a=b {KEY} \x1b", None, None)
    record.request_id = "r"
    line = TextLines(inner, foreign=True).format(record)
    assert line == '{"message": "GET /?key=***&a=b inlet_0123456789ab_*** \\x1b", "more": 1}'


def test_another_logger_class_gets_the_lines_of_inlet(serve: Serve, own_store: Any) -> None:
    server = serve("--workers", "1", "--logger-class", "gunicorn.glogging.Logger", REDIS_URL=own_store.url)
    own_store.stop()
    wait_until(lambda: post(server).status_code == 503, "the store is missed")
    wait_until(lambda: "sink: commits" in server.log(), "a line of Inlet's")


def test_a_setting_that_is_wrong_is_one_line_of_text_with_json_too(serve: Serve) -> None:
    with pytest.raises(AssertionError, match="INLET_LOG='xml'"):
        serve(INLET_LOG="xml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {KEY} b", "a inlet_0123456789ab_*** b"),
        (KEY.upper(), "INLET_0123456789AB_***"),
        (f"{KEY}x", "inlet_0123456789ab_***x"),
        (KEY.replace("_", "%5f"), "inlet_0123456789ab_***"),
        ("0123456789ab_" + "a" * 16, "0123456789ab_***"),
        ("0123456789ab_" + "a" * 15, "0123456789ab_" + "a" * 15),
        ("/ingest?key=abc&x=1", "/ingest?key=***&x=1"),
        ("/ingest?x=1&%6Bey=abc", "/ingest?x=1&%6Bey=***"),
        ("/ingest?x=1;key=abc", "/ingest?x=***"),
        ('/ingest?key=a"b\'c<d', "/ingest?key=***"),
        ("/ingest?dd-api-key=abc&access_token=d", "/ingest?dd-api-key=***&access_token=***"),
        ("/ingest?x=%69nlet_0123456789ab_" + "f" * 64, "/ingest?x=***"),
        ("/ingest?monk=abc", "/ingest?monk=abc"),
        # Regressions: a secret without its id, percent-encoded, or in base64 was shown.
        (f"/a/{KEY[-64:]}?b", "/a/***?b"),
        ("f" * 63, "f" * 63),
        ("F" * 65, "***"),
        ("/inlet_0123456789ab_%35" + KEY[-63:], "/inlet_0123456789ab_***"),
        (f"/{KEY[:50]}%61{KEY[51:]}", "/inlet_0123456789ab_***"),
        (KEY.replace("0", "%2530").replace("_", "%255F"), "inlet_0123456789ab_***"),
        (f"/basic/{basic('user:' + KEY)}.", "***."),
        (f"x {basic('u:' + KEY[-64:])} y", "x *** y"),
        (f"x {basic('ab:' + KEY).replace('=', '%3D')} y", "x *** y"),
        (f"?q={basic('>?>?>?:' + KEY).replace('+', '-').replace('/', '_')}", "?q=***"),
        ("/" + basic("any text, which is not secret"), "/" + basic("any text, which is not secret")),
        ("redis://user:pass@host:1/0", "redis://***@host:1/0"),
        ("mail me@example.com", "mail me@example.com"),
        ("Invalid request from ip=127.0.0.1: Invalid HTTP request line: 'body'",
         "Invalid request from ip=127.0.0.1: Invalid HTTP request line***"),
        ("Invalid request from ip=::1: Invalid HTTP Header: 'X: y\\n'",
         "Invalid request from ip=::1: Invalid HTTP Header***"),
        ("Ignored premature client disconnection. No more data after: b'POST'",
         "Ignored premature client disconnection. No more data after***"),
    ],
)  # fmt: skip
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_what_is_not_printable_is_escaped_and_no_line_can_be_forged() -> None:
    assert printable("as it is: é") == "as it is: é"
    assert printable("a\x1b[31m\r\x00\x7f\x85\u2028\u202e\udcff") == (
        "a\\x1b[31m\\r\\x00\\x7f\\x85\\u2028\\u202e\\udcff"
    )
    forged = "a\n[2026-01-31 23:59:59 +0000] [1] [INFO] forged\n\n"
    assert printable(forged) == "a\n    [2026-01-31 23:59:59 +0000] [1] [INFO] forged\n\n"
    assert quotable('a"b\\c\né\x1b') == 'a\\"b\\\\c\\n\\xe9\\x1b'


def test_a_credential_is_masked_wherever_else_the_request_has_it() -> None:
    environ = {
        "HTTP_AUTHORIZATION": "Basic dXNlcjpodW50ZXJodW50ZXI=", "HTTP_X_API_KEY": "swordfish",
        "HTTP_USER_AGENT": "swordfish/1 hunterhunter", "QUERY_STRING": "key=opensesame&x=1",
    }  # fmt: skip
    atoms = Atoms(
        {"a": environ["HTTP_USER_AGENT"], "q": environ["QUERY_STRING"], "f": "http://x/opensesame", "B": None, "D": 7,
         "{X-Api-Key}i": "swordfish", "{authorization}i": "Basic x", "{http_dd_api_key}e": "short", "s": "200"},
        credentials(environ),
    )  # fmt: skip
    text = "%(a)s|%(q)s|%(f)s|%({x-api-key}i)s|%({Authorization}i)s|%({HTTP_DD_API_KEY}e)s|%(B)s|%(D)s|%(none)s"
    text %= atoms
    assert text == "***/1 ***|key=***&x=1|http://x/***|***|***|***|-|7|-"
