"""The parser of request heads agrees with the one before it: real heads, mutated; the old one is ``llhttp_heads``.

What lives here: the mutations and the comparison. Where the two may differ is ``excused``. A million heads:

python -m tests.server.test_head_differential 1000000 1
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from typing import Any

import pytest
from gunicorn.config import Config

from tests.server import llhttp_heads
from wsgi.server.head import Head, NoHead, Site
from wsgi.server.refusal import HttpError

HEADS_TESTED = 20_000
"""Heads that the suite compares: a few seconds."""
LENGTH_BOUND = 10**llhttp_heads.LENGTH_DIGITS_MAX
"""The old parser read any longer Content-Length as this."""

REAL = [
    b"GET /healthz HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*",
    b"POST /ingest HTTP/1.1\r\nHost: logs.example.com\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 467\r\n"
    b"Content-Type: application/json\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    b"X-Request-Id: 7f1d6e0c\r\nAccept-Encoding: gzip",
    b"POST /ingest?receipt=1 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: python-requests/2.32.3\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept: */*\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer abcdef\r\nContent-Length: 12",
    b"POST /v1/logs HTTP/1.1\r\nhost: [::1]:4318\r\nuser-agent: OTel-OTLP-Exporter-JavaScript/0.57.0\r\n"
    b"content-type: application/x-protobuf\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive",
    b"POST /_bulk HTTP/1.1\r\nHost: es:9200\r\nUser-Agent: Elastic-Filebeat/8.15.0 (linux; amd64)\r\n"
    b"Content-Length: 5120\r\n"
    b"Accept: application/json\r\nContent-Type: application/json; charset=UTF-8\r\n"
    b"X-Elastic-Product-Origin: observability\r\nAccept-Encoding: gzip",
    b"POST /services/collector/event HTTP/1.1\r\nHost: splunk:8088\r\nAuthorization: Splunk 1-2-3\r\n"
    b"X-Splunk-Request-Channel: 0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba\r\nContent-Length: 300\r\nExpect: 100-continue",
    b"OPTIONS /ingest HTTP/1.1\r\nHost: logs.example.com\r\nConnection: keep-alive\r\nOrigin: https://app.example\r\n"
    b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
    b'sec-ch-ua: "Chromium";v="128"\r\nsec-ch-ua-mobile: ?0\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n'
    b"Sec-Fetch-Mode: cors\r\nReferer: https://app.example/\r\nCookie: a=b; c=d\r\nDNT: 1",
    b"POST /api/v2/logs?ddtags=env%3Aprod HTTP/1.1\r\nHost: dd\r\nDD-API-KEY: 0123\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Encoding: gzip\r\nDD-EVP-ORIGIN: agent\r\nContent-Length: 999\r\nUser-Agent: datadog-agent/7.56.0",
    b"POST /loki/api/v1/push HTTP/1.0\r\nHost: upstream\r\nX-Real-IP: 10.0.0.1\r\n"
    b"X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n"
    b"X-Forwarded-Proto: https\r\nConnection: close\r\nContent-Length: 33\r\nX-Scope-OrgID: tenant\r\nX-My-Own: 1",
    b"GET /app/x%20y?z=%41 HTTP/1.0\r\nConnection: Keep-Alive\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*",
    b"GET http://proxy.example:81/app/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: Keep-Alive",
    b"OPTIONS * HTTP/1.1\r\nHost: x",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443",
    b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhl\r\n"
    b"Sec-WebSocket-Version: 13",
    b"GET /x HTTP/1.2\r\nHost: x\r\nX-Forwarded-Ssl: on\r\nX-Forwarded-Protocol: ssl\r\nX-Forwarded-Port: 443",
]  # fmt: skip
"""What clients of all kinds send, less the empty line."""

NAMES = [
    b"Host", b"host", b"HOST", b"Content-Length", b"content-length", b"Content_Length", b"Content-Type",
    b"CONTENT-TYPE", b"Transfer-Encoding", b"transfer-encoding", b"Transfer_Encoding", b"Connection", b"Expect",
    b"X-Forwarded-Proto", b"x-forwarded-proto", b"X_Forwarded_Proto", b"X-Forwarded-Ssl", b"X-Forwarded-Protocol",
    b"SCRIPT_NAME", b"Script-Name", b"PATH_INFO", b"Upgrade", b"Accept", b"aCCept", b"Cookie", b"X-New", b"X_New",
    b"x-new", b"Date", b"!#$%&'*+-.^_`|~0", b"Bad Name", b"Content-Length ", b"", b" Host", b"H\xf6st", b"a(b", b"_",
]  # fmt: skip
VALUES = [
    b"", b" ", b"\t", b"x", b"0", b"5", b"00005", b"5 ", b"5\t", b"+5", b"-1", b"5,5", b"5 5", b"5x", b"\xb2", b"1e3",
    b"9" * 18, b"9" * 19, b"18446744073709551615", b"18446744073709551616", b"9" * 40, b"0" * 60 + b"7",
    b"9" * 40 + b"x",
    b"chunked", b"CHUNKED", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked,chunked", b",chunked", b"chunked,",
    b"xchunked", b"chunked;q=1", b"gzip;q=1,chunked", b"chunked x", b"chunked x, chunked", b"identity", b"close",
    b"Close, x", b"keep-alive", b"Keep-Alive", b"upgrade", b"keep-alive, Upgrade", b"100-continue", b"100-Continue",
    b"miracles", b"https", b"http", b"ssl", b"on", b"off", b"/app", b"h", b"h:80", b"h:", b":80", b"a b", b"h:x",
    b"[::1]", b"[::1]:80", b"[::g]", b"u@h", b"a/b", b"h\xe9",
    b"\x85", b"\xa0x\xa0", b"x\xad", b"a: b", b": b", b"a\x1cb",
    b"a\x7fb", b"a\0b", b"  padded  ", b"\ttabbed\t", b"a\tb", b"a" * 150, b"a" * 5000,
]  # fmt: skip
REQUEST_PARTS = [
    [b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"M-SEARCH", b"SOURCE", b"PRI", b"SETUP", b"BREW",
     b"get",     b"GETX", b"", b"G\xe9T", b"G(T"],
    [b"/", b"/x", b"/app", b"/app/", b"/application", b"*", b"*x", b"//x", b"/%41%zz", b"/a?b?c", b"/a#b", b"/?#",
     b"?x",     b"x", b"h:80", b"http://h/app/x", b"HTTPS://h?q", b"http://h", b"http://", b"http:///x", b"http://u@h/",
     b"http://u@@h/", b"http://h:80:80/", b"http://[::1]:8/app", b"http://[::g]/", b"http://h#f", b"ftp://h/", b"x://",
     b"1http://h/", b"http:/x", b"http://h<i/", b"/\xe9", b"/" + b"a" * 150, b"/" + b"a" * 5000, b'/"<>\\^`{|}',
     b"/a\tb", b"/\x7f", b"/\x01"],
    [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.",
     b"HTTP/1.10",     b"HTTP/11", b"ICE/1.0", b"", b"HTTP/1.1 ", b"HTTP/1.\xb2"],
]  # fmt: skip
BYTES = [bytes([byte]) for byte in range(256)] + [b"\r\n", b"\r\n ", b"\r\n\t", b"\n", b"\r", b":", b": ", b" ", b"_"]


def configurations() -> list[tuple[Site, llhttp_heads.Site]]:
    """Return a new and an old site for each configuration that changes what is a valid head, or its environ."""
    sites: list[tuple[Site, llhttp_heads.Site]] = []

    def add(*, trusted: bool, unix: bool = False, script: str = "", **settings: Any) -> None:
        cfg = Config()
        for name, value in settings.items():
            cfg.set(name, value)
        environ = {"SCRIPT_NAME": script, "wsgi.url_scheme": "http", "wsgi.input": None, "REMOTE_ADDR": "",
                   "SERVER_NAME": "here", "SERVER_PORT": "80"}  # fmt: skip
        sites.append((
            Site(environ, cfg, trusted=trusted, unix=unix, fast_bytes_max=65_536, head_bytes_max=8_192),
            llhttp_heads.Site(environ, cfg, trusted=trusted, unix=unix, fast_bytes_max=65_536, head_bytes_max=8_192),
        ))  # fmt: skip

    for trusted in (False, True):
        for header_map in ("drop", "refuse", "dangerous"):
            add(trusted=trusted, header_map=header_map)
    add(trusted=True, unix=True)
    add(trusted=True, header_map="dangerous", forwarder_headers="*")
    add(trusted=True, script="/app", secure_scheme_headers={"X_FORWARDED_PROTO": "https", "X-NEW": "x", "HOST": "h"})
    add(trusted=False, limit_request_line=120, limit_request_fields=8, limit_request_field_size=100)
    return sites


class Mutator:
    """Make heads. ``seed``: the same gives the same heads."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def head(self, before: bytes = b"") -> bytes:
        """Return a head: a real one, or (mostly) the one ``before`` it on its connection, after a few mutations."""
        pick = self.random
        lines = (before[:-4] if before and pick.random() < 0.7 else pick.choice(REAL)).split(b"\r\n")
        for _ in range(pick.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            pick.choice((self.request, self.value, self.value, self.insert, self.insert, self.repeat, self.spell,
                         self.move, self.pad, self.many, self.data))(lines)  # fmt: skip
        raw = b"\r\n".join(lines)
        for _ in range(pick.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            at = pick.randrange(len(raw) + 1)
            raw = raw[:at] + pick.choice(BYTES) + raw[at + pick.choice((0, 0, 1, 2, 9)) :]
        return raw.split(b"\r\n\r\n", maxsplit=1)[0] + b"\r\n\r\n"

    def request(self, lines: list[bytes]) -> None:
        """Change a part of the request line."""
        parts = lines[0].split(b" ")
        which = self.random.randrange(3)
        parts[min(which, len(parts) - 1)] = self.random.choice(REQUEST_PARTS[which])
        lines[0] = self.random.choice((b" ", b" ", b" ", b" ", b" ", b" ", b"  ", b"\t")).join(parts)

    def value(self, lines: list[bytes]) -> None:
        """Change a value."""
        at = self.random.randrange(len(lines))
        if at:
            lines[at] = lines[at].split(b":")[0] + b": " + self.random.choice(VALUES)

    def insert(self, lines: list[bytes]) -> None:
        """Insert a field."""
        pick = self.random
        colon = pick.choice((b": ", b": ", b": ", b": ", b":", b":\t", b" : ", b""))
        name = pick.choice(NAMES)
        lines.insert(pick.randrange(1, len(lines) + 1), name + colon + pick.choice(VALUES))

    def repeat(self, lines: list[bytes]) -> None:
        """Repeat a line."""
        lines.insert(self.random.randrange(1, len(lines) + 1), self.random.choice(lines))

    def spell(self, lines: list[bytes]) -> None:
        """Spell a name in another way."""
        at = self.random.randrange(len(lines))
        name, colon, value = lines[at].partition(b":")
        change = self.random.choice((bytes.lower, bytes.upper, bytes.title, bytes.swapcase, _underscored))
        if at:
            lines[at] = change(name) + colon + value

    def move(self, lines: list[bytes]) -> None:
        """Swap two lines, or leave one out; the first stays, mostly."""
        pick = self.random
        one, other = pick.randrange(pick.random() > 0.02, len(lines) + 1), pick.randrange(1, len(lines) + 1)
        if max(one, other) < len(lines):
            lines[one], lines[other] = lines[other], lines[one]
        elif one < len(lines) > 1:
            del lines[one]

    def pad(self, lines: list[bytes]) -> None:
        """Put white space somewhere around a line, its name or its value."""
        pick = self.random
        at = pick.randrange(len(lines))
        space = pick.choice((b" ", b"\t", b"  ", b" \t "))
        name, colon, value = lines[at].partition(b":")
        lines[at] = pick.choice((
            space + lines[at], lines[at] + space, lines[at] + space, name + space + colon + value,
            name + colon + space + value, name + colon + value.strip(), lines[at].replace(b" ", space),
        ))  # fmt: skip

    def many(self, lines: list[bytes]) -> None:
        """Add many fields: as many as are allowed, or one more or less."""
        if self.random.random() < 0.2:
            wanted = self.random.choice((8, 100)) + self.random.choice((-1, 0, 1)) - (len(lines) - 1)
            lines += [b"X-%d: %d" % (number, number) for number in range(wanted)]

    def data(self, lines: list[bytes]) -> None:
        """Change what differs from request to request, and is valid."""
        pick = self.random
        lines.append(b"X-Trace-Id: %x" % pick.getrandbits(64))
        for at, line in enumerate(lines):
            if line.lower().startswith(b"content-length:"):
                lines[at] = b"Content-Length: %d" % pick.randrange(2000)


def _underscored(name: bytes) -> bytes:
    return name.replace(b"-", b"_", 1)


Outcome = tuple[Any, ...]


def outcome_of(head: Any, environ: dict[str, Any]) -> Outcome:
    """Return what a parser says of a head that it takes."""
    length = min(head.length, LENGTH_BOUND)
    return (environ, length, head.mode, head.expects, head.sends_body, head.size)


def old_outcome(site: llhttp_heads.Site, raw: bytes) -> Outcome:
    """Return what the old parser says: as ``outcome_of``, or status and detail."""
    try:
        head = site.head(raw)
    except HttpError as error:
        return error.status, error.detail
    return outcome_of(head, head.environ)


def excused(old: Outcome, new: Outcome, raw: bytes) -> bool:
    """Return whether the two may differ: where llhttp decided, and RFC 9110 or 9112 say otherwise."""
    malformed = len(old) == 2 and str(old[1]).startswith("the head is malformed")
    if malformed and re.search(rb"(?i)transfer-encoding:[^\n]*chunked[ \t]*\t[ \t]* \r", raw):
        return True  # RFC 9110 section 5.6.3: tabs and spaces may follow a value. llhttp took one kind after chunked.
    if len(new) != 2:
        return False
    if malformed and (old[0] == new[0] or str(old[1]).endswith(" in url")):
        return True  # llhttp's words were its own; and of several faults it saw that of the authority first.
    if "chunked is not the last" in new[1]:
        # RFC 9112 section 6.3: 400. llhttp let it pass with an upgrade or CONNECT, up to what was wrong next.
        return len(old) == 2 and re.search(rb"(?i)^connect |\nupgrade:", raw) is not None
    # RFC 9110 section 15.6.2: 501 for a method that is not served. llhttp knew those of RTSP, and refused them with
    # 400, and CONNECT with a malformed target too.
    return malformed and new[0] == 501 and re.match(rb"PRI|SETUP|CONNECT", raw) is not None


class Comparison:
    """Two parsers, and one connection's past for each configuration."""

    def __init__(self) -> None:
        self.sites = configurations()
        self.last: list[Head | type[NoHead]] = [NoHead] * len(self.sites)
        self.seen: Counter[int | str] = Counter()

    def compare(self, raw: bytes, which: int) -> None:
        """Compare what both say of a head, on the connection ``which``."""
        new_site, old_site = self.sites[which]
        old = old_outcome(old_site, raw)
        for exact in (False, True):
            try:
                head = new_site._exact(raw) if exact else new_site.head(raw, self.last[which])
            except HttpError as error:
                new: Outcome = error.status, error.detail
                self.last[which] = NoHead
            else:
                new = outcome_of(head, head.take())
                if not exact:
                    self._compare_again(raw, which, head)
                    self.seen["changed"] += head is self.last[which]
                    self.last[which] = head
                said = (head.method, head.uri, "HTTP/1.0" if head.http10 else "HTTP/1.1")
                assert said == tuple(new[0][key] for key in ("REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"))
            assert old == new or excused(old, new, raw), f"configuration {which}: {raw!r}\nold {old}\nnew {new}"
        self.seen[new[0] if len(new) == 2 else "taken"] += 1
        self.seen["quick"] += new_site._quick(raw, NoHead) is not None

    def _compare_again(self, raw: bytes, which: int, head: Head) -> None:
        """Compare a head that is kept with the same one that follows it."""
        if head.template is None:
            return
        site = self.sites[which][0]
        one = head.take()
        assert site.head(bytes(bytearray(raw)), head) is head
        assert one == head.take() == head.template
        assert one is not head.template
        assert head.raw == raw
        assert head.total == (head.size + head.length if 0 <= head.length <= 65_536 else -1)


def run(count: int, seed: int) -> Counter[int | str]:
    """Compare ``count`` heads; return how many were taken, and how many refused with which status."""
    comparison, mutator = Comparison(), Mutator(seed)
    before = [b""] * len(comparison.sites)
    for _ in range(count):
        which = mutator.random.randrange(len(comparison.sites))
        raw = mutator.head(before[which])
        comparison.compare(raw, which)
        # A head that was refused ended its connection.
        before[which] = raw if comparison.last[which] is not NoHead else b""
    return comparison.seen


def test_both_parsers_agree_on_mutated_heads_of_real_clients() -> None:
    seen = run(HEADS_TESTED, seed=11)
    assert {400, 413, 414, 417, 431, 500, 501, 505} <= set(seen), seen
    assert HEADS_TESTED / 4 < seen["taken"] < HEADS_TESTED * 3 / 4, seen
    assert HEADS_TESTED / 8 < seen["quick"] < seen["taken"], seen
    assert seen["changed"] > HEADS_TESTED / 50, seen


@pytest.mark.parametrize("raw", REAL)
def test_both_parsers_agree_on_real_heads_in_every_configuration(raw: bytes) -> None:
    comparison = Comparison()
    for which in range(len(comparison.sites)):
        comparison.compare(raw + b"\r\n\r\n", which)


@pytest.mark.parametrize("name", NAMES)
def test_both_parsers_agree_on_every_name_with_every_value_before_and_after_its_like(name: bytes) -> None:
    comparison = Comparison()
    start = b"POST /app HTTP/1.1\r\nHost: h\r\nAccept: a\r\nX-New: x"
    for value in VALUES:
        line = b"\r\n" + name + b": " + value
        for which in range(len(comparison.sites)):
            comparison.compare(start + line + b"\r\n\r\n", which)
            comparison.compare(start + line + line.swapcase() + b"\r\n\r\n", which)


def main() -> None:
    """Compare as many heads as the first argument says, from the seed that the second is."""
    print(dict(run(int(sys.argv[1]), int(sys.argv[2]))))


if __name__ == "__main__":
    main()
