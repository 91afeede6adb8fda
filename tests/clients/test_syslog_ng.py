"""syslog-ng's ``http()`` from Debian, as its recipe in docs/clients.md configures it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.clients import programs
from tests.clients.recipes import recipe
from tests.clients.support import RECORDS, Inlet, Target, agent, check_messages, outage
from tests.support import wait_until

HALF = RECORDS // 2
DATA = '[shop@32473 order="o-1" note="\\"quoted\\" ü€😀"]'


def lines(numbers: Iterable[int]) -> bytes:
    """RFC 5424 messages with structured data, framed by their lengths (RFC 6587)."""
    framed = b""
    for number in numbers:
        text = f'<134>1 2026-01-31T23:59:59.{number:06d}+01:00 web-1 checkout 4711 PAID {DATA} m-{number} ü€😀 \\ "q"'
        octets = text.encode()
        framed += b"%d %b" % (len(octets), octets)
    return framed


def texts(count: int) -> list[str]:
    return [f'm-{number} ü€😀 \\ "q"' for number in range(count)]


@contextlib.contextmanager
def shipper(inlet: Target, folder: Path) -> Iterator[socket.socket]:
    """syslog-ng in the foreground, and a connection to it."""
    started = programs.syslog_ng()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    configuration = folder / "syslog-ng.conf"
    configuration.write_text(recipe("syslog-ng", "conf", inlet).replace("5514", str(port)))
    state = [f"--{name}={folder / name}" for name in ("persist-file", "pidfile", "control")]
    words = [*started.words, "--foreground", "--stderr", "--no-caps", f"--cfgfile={configuration}", *state]
    log = folder / "syslog-ng.log"
    with agent(words, cwd=folder, log=log, **started.env) as process:

        def connected() -> socket.socket | None:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), 5)
            return None

        with wait_until(connected, f"syslog-ng listens: {log}") as connection:
            yield connection


def test_every_message_is_stored_with_its_structured_data(keyed: Inlet, tmp_path: Path) -> None:
    with shipper(keyed, tmp_path) as connection:
        connection.sendall(lines(range(RECORDS)))
        records = check_messages(keyed, texts(RECORDS))
    for record in records:
        number = int(record.message.split()[0].removeprefix("m-"))
        assert record.timestamp.startswith(f"2026-01-31T23:59:59.{number:06d}")
        assert record.service == "checkout"
        assert record.metadata["HOST"] == "web-1"
        assert record.metadata["PID"] == "4711"
        assert record.metadata["MSGID"] == "PAID"
        assert (record.metadata["FACILITY"], record.metadata["PRIORITY"]) == ("local0", "info")
        data = {name.rpartition(".")[2]: value for name, value in record.metadata.items() if "SDATA" in name}
        assert data == {"order": "o-1", "note": '"quoted" ü€😀'}


@pytest.mark.parametrize("sent_before", [100])
def test_nothing_is_lost_or_doubled_while_the_store_is_away(sent_before: int, inlet: Inlet, tmp_path: Path) -> None:
    with shipper(inlet, tmp_path) as connection:
        connection.sendall(lines(range(sent_before)))
        inlet.wait_for(sent_before)
        with outage(inlet):
            connection.sendall(lines(range(sent_before, RECORDS)))
        check_messages(inlet, texts(RECORDS))
