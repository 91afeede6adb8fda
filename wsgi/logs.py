"""The log: gunicorn's logger with request ids, as text or JSON lines, and with nothing raw that a client sent.

What lives here: the form of every line, what is masked in it, and where stray output goes. What must not: what is worth
a line (whoever calls ``logging``), gunicorn's own settings for logs (levels, files, syslog), which keep their meaning.

Every line goes through one of the formatters below. They mask secrets and escape what is not printable, so no caller
has to remember that. Newlines stay only where a line continues, and a continuation is indented: nobody can forge a
line. Before gunicorn has made its logger, and where it ends with a usage error, output is plain text.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import logging
import re
import sys
import threading
from typing import Any, ClassVar
from urllib.parse import unquote

from gunicorn import glogging

ACCESS_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %({x-request-id}o)s'
"""gunicorn's default, and the request id."""
MASK = "***"
SECRET_CHARS_MIN = 8
"""Characters of what a client sent as a credential, from which on it is masked in the whole line: a shorter one would
mask ordinary words."""
CONTINUED = "    "
"""What a continuation of a line begins with."""

_KEY = re.compile(r"([0-9a-fA-F]{12}_)[0-9a-fA-F]{16,}")
"""A key as text, from its id on, which is public and stays; a part of the secret is masked too."""
_SECRET = re.compile(r"[0-9a-fA-F]{64,}")
"""The secret of a key without its id: also any other hex number of that length."""
_ENCODED = re.compile(r"%(?:25)*(3[0-9]|[46][1-6]|5f)", re.IGNORECASE)
"""A hex digit or "_", percent-encoded, once or several times."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_%-]{39,}={0,2}")
"""Possibly base64 (RFC 4648) of a user and a key: in it, a key from its id on, with 16 digits of its secret, takes 39
characters."""
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]+")
_STANDARD = str.maketrans("-_", "+/")
_USERINFO = re.compile(r"(://)[^/\s'\"@]*@")
_SECRET_NAME = re.compile(r"auth|key|token|secret|passw|credential|cookie|signature", re.IGNORECASE)
"""Names of header fields, of environ variables and of query parameters whose values are never logged."""
_PAIR = re.compile(r"(?<=[?&])([^=&\s]{1,256})=([^&\s]*)")
_PAIR_IN_QUOTES = re.compile(r"(?<=[?&])([^=&\s\"']{1,256})=([^&\s\"'\\]*)")
"""The same within text of a form that is not ours, JSON for example, which must stay valid."""
_QUOTES = re.compile(
    r"((?:Invalid request from ip=\S*:|Ignored premature client disconnection\.) [^:'\"]*).+", re.DOTALL
)
"""What gunicorn's own workers log of a request that they cannot read. They quote it, and it may be a body, or a key."""


class Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger (``logger_class``), and the handlers of the ``inlet`` logger and of everything else."""

    as_json: ClassVar[bool] = False
    """Whether lines are JSON objects; set it before gunicorn makes its logger."""

    def setup(self, cfg: Any) -> None:
        """Set the handlers up, at the start and again at each reload."""
        super().setup(cfg)
        for handler in (*self.error_log.handlers, *self.access_log.handlers):
            _dress(handler, as_json=self.as_json)
        logging.getLogger("inlet").setLevel(self.loglevel)
        root = logging.getLogger()
        for handler in list(root.handlers):
            if getattr(handler, "_gunicorn", False):
                root.removeHandler(handler)
            else:  # An operator's own (logconfig).
                _dress(handler, as_json=False)
        if not root.handlers:
            for handler in self.error_log.handlers:
                root.addHandler(handler)
        catch_stray_output()

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: datetime.timedelta) -> None:
        """Log a request that was answered. As text in the form of ``access_log_format``, as JSON in one of its own."""
        if not self.access_log_enabled:
            return
        try:
            atoms = Atoms(self.atoms(resp, req, environ, request_time), credentials(environ))
            if self.as_json:
                extra = {
                    "access": _members(atoms, request_time.total_seconds()),
                    "request_id": atoms.member("{x-request-id}o"),
                }
                self.access_log.info("%(m)s %(U)s %(s)s", atoms, extra=extra)
            else:
                self.access_log.info(self.cfg.access_log_format, atoms)
        except Exception:
            self.exception("Error in the access log")


class Atoms(dict[str, Any]):
    """What ``access_log_format`` may name, with nothing raw in it. A name that there is not reads as "-"."""

    def __init__(self, atoms: dict[str, Any], secrets: list[str]) -> None:
        super().__init__({name.lower() if name[0] == "{" else name: value for name, value in atoms.items()})
        self._secrets = secrets

    def value(self, name: str) -> Any:
        """Return one for a JSON line: masked, and None if there is none."""
        value = self.get(name)
        if value is not None and name[0] == "{" and _SECRET_NAME.search(name):
            return MASK
        if value is None or isinstance(value, (int, float)):
            return value
        text = str(value)
        text = masked("?" + text)[1:] if name in ("q", "{query_string}e") else masked(text)
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def member(self, name: str) -> Any:
        """Return one for a JSON line, on one line and printable; None if there is none, or it could not be read."""
        value = self.value(name)
        if isinstance(value, str):
            return None if value == "-" else _visible(value)
        return value

    def __getitem__(self, name: str) -> Any:
        """Return one for a line of text."""
        value = self.value(name.lower() if name[0] == "{" else name)
        if value is None:
            return "-"
        return quotable(value) if isinstance(value, str) else value


def _members(atoms: Atoms, seconds: float) -> dict[str, Any]:
    """Return what a JSON line says about a request. ``seconds``: how long it took."""
    status = str(atoms.member("s"))
    return {
        "method": atoms.member("m"), "path": atoms.member("U"), "status": int(status) if status.isdigit() else status,
        "bytes": atoms.member("B"), "seconds": round(seconds, 6), "remote_addr": atoms.member("h"),
        "user_agent": atoms.member("a"),
    }  # fmt: skip


class TextLines(logging.Formatter):
    """Text: what ``inner`` makes, and the request id where the record has one. ``foreign``: an operator's ``inner``."""

    def __init__(self, inner: logging.Formatter, *, foreign: bool) -> None:
        super().__init__()
        self.inner, self._foreign = inner, foreign

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and continuations of it."""
        _make_fit(record)
        text = self.inner.format(record)
        if self._foreign:
            return printable(masked(text, _PAIR_IN_QUOTES))
        first, newline, rest = text.partition("\n")
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            first += f" request_id={request_id}"
        # Of the access log each part is masked already.
        return printable(text if record.name == "gunicorn.access" else masked(first + newline + rest))


def _make_fit(record: logging.LogRecord) -> str:
    """Return the message. Where the arguments do not fit it, logging would print both to stderr: say so instead."""
    try:
        return record.getMessage()
    except Exception as error:
        record.msg, record.args = f"a log line that cannot be formatted ({error}): {record.msg!r}", None
        return str(record.msg)


class JsonLines(logging.Formatter):
    """One JSON object (RFC 8259) a record, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object: time (RFC 3339, UTC), level, logger, message, pid, and what else there is."""
        message = _make_fit(record)
        created = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(masked(message)),
            "pid": record.process,
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            line["request_id"] = _visible(masked(str(request_id)))
        line.update(getattr(record, "access", {}))
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        if exception or record.stack_info:
            text = masked("\n".join(filter(None, (exception, record.stack_info))))
            line["exception"] = "\n".join(map(_visible, text.split("\n")))
        # default=str: an extra or an argument may be anything.
        return json.dumps(line, default=str)


def masked(text: str, pair: re.Pattern[str] = _PAIR) -> str:
    """Return ``text`` without keys, without passwords in URLs, and without values of parameters named like secrets."""
    if "ip=" in text or "premature" in text:
        text = _QUOTES.sub(rf"\1{MASK}", text)
    if "=" in text:
        text = pair.sub(_masked_pair, text)
    if "@" in text:
        text = _USERINFO.sub(rf"\1{MASK}@", text)
    if "%" in text and _holds_key(decoded := _ENCODED.sub(_decoded, text)):
        text = decoded
    text = _SECRET.sub(MASK, _KEY.sub(rf"\1{MASK}", text))
    return _BASE64.sub(_masked_base64, text)


def _holds_key(text: str) -> bool:
    return _KEY.search(text) is not None or _SECRET.search(text) is not None


def _decoded(mark: re.Match[str]) -> str:
    return chr(int(mark[1], 16))


def _masked_base64(found: re.Match[str]) -> str:
    """Return base64 as it is, or masked if it holds a key. Each character is decoded four times."""
    token = _NO_BASE64.sub("", unquote(unquote(found[0])).translate(_STANDARD))
    # What is before it, a path for example, may belong to the same alphabet, so it may begin at any of four places.
    for start in range(4):
        part = token[start : start + (len(token) - start) // 4 * 4]
        if _holds_key(base64.b64decode(part).decode("latin-1")):
            return MASK
    return found[0]


def _masked_pair(pair: re.Match[str]) -> str:
    # Either may be percent-encoded, and a value may hold what other programs take for a pair.
    name, value = unquote(pair[1]), unquote(pair[2])
    if _SECRET_NAME.search(name) or _KEY.search(value) or ("=" in value and _SECRET_NAME.search(value)):
        return f"{pair[1]}={MASK}"
    return pair[0]


def credentials(environ: dict[str, Any]) -> list[str]:
    """Return what a request sent as a credential, in any of the ways that clients have; to be masked, never kept."""
    found: set[str] = set()
    for name, value in environ.items():
        if name.startswith("HTTP_") and isinstance(value, str) and _SECRET_NAME.search(name):
            scheme, _, token = value.strip().partition(" ")
            found.update((value, token or scheme))
            if scheme.lower() in ("basic", "apikey"):
                with contextlib.suppress(ValueError):
                    found.add(base64.b64decode(token).partition(b":")[2].decode("latin-1"))
    for name, value in _PAIR.findall("?" + (environ.get("QUERY_STRING") or "")):
        if _SECRET_NAME.search(unquote(name)):
            found.update((value, unquote(value)))
    # The longest first: one may be a part of another.
    return sorted((secret for secret in found if len(secret) >= SECRET_CHARS_MIN), key=len, reverse=True)


def printable(text: str) -> str:
    """Return ``text`` with its continuation lines indented, and what is not printable as ``\\x1b`` or ``\\u2028``."""
    if text.isprintable():
        return text
    first, *others = map(_visible, text.split("\n"))
    return "\n".join([first, *(CONTINUED + other if other else "" for other in others)])


def _visible(text: str) -> str:
    """Return ``text`` on one line, with what is not printable escaped."""
    return text if text.isprintable() else "".join(mark if mark.isprintable() else _escape(mark) for mark in text)


def quotable(text: str) -> str:
    """Return ``text`` in printable ASCII, fit to stand between double quotes."""
    return "".join(mark if " " <= mark <= "~" and mark not in '"\\' else _escape(mark) for mark in text)


def _escape(mark: str) -> str:
    return '\\"' if mark == '"' else mark.encode("unicode_escape").decode()


def _dress(handler: logging.Handler, *, as_json: bool) -> None:
    """Give a handler our formatter. An operator's own keeps its form, and syslog's lines, which have a prefix, too."""
    formatter = handler.formatter or logging.Formatter()
    if not hasattr(handler, "_gunicorn"):
        if not isinstance(formatter, TextLines):
            handler.setFormatter(TextLines(formatter, foreign=True))
    elif as_json and isinstance(handler, logging.StreamHandler):
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(TextLines(formatter, foreign=False))


def catch_stray_output() -> None:
    """Send what Python itself would print to stderr to the log: warnings, and exceptions that nobody caught."""
    log = logging.getLogger("inlet")
    logging.captureWarnings(True)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit and args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            log.error("a thread ended: %s", name, exc_info=args.exc_value)

    def of_program(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("ended by an exception", exc_info=(kind, error, trace))

    def of_nothing(args: sys.UnraisableHookArgs) -> None:
        log.error("%s: %r", args.err_msg or "Exception ignored in", args.object, exc_info=args.exc_value or False)

    threading.excepthook, sys.excepthook, sys.unraisablehook = of_thread, of_program, of_nothing
