"""rsyslog's omelasticsearch (Debian: rsyslog-elasticsearch) sends lines of a file to Inlet's bulk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.clients.support import RECORDS, Inlet, agent, check_messages, check_once, outage
from tests.support import wait_until

MODULE = Path("/usr/lib/x86_64-linux-gnu/rsyslog/omelasticsearch.so")
CONFIGURATION = """
global(workDirectory="{directory}")
module(load="imfile" mode="polling" pollingInterval="1")
module(load="omelasticsearch")
template(name="document" type="list" option.jsonf="on") {{
    property(outname="@timestamp" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="severity" name="syslogseverity-text" format="jsonf")
    property(outname="service.name" name="programname" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
template(name="id" type="string" string="%msg:F,32:2%")
input(type="imfile" file="{directory}/app.log" tag="checkout" severity="notice")
action(
    type="omelasticsearch" server="127.0.0.1" serverport="{port}" {credentials}
    template="document" searchIndex="rsyslog" searchType="" bulkmode="on" maxbytes="1m"
    bulkid="id" dynbulkid="on" writeoperation="create" retryfailures="off"
    errorfile="{directory}/errors.log" queue.type="linkedList" queue.dequeueBatchSize="100"
    action.resumeRetryCount="-1" action.resumeInterval="1" action.resumeIntervalMax="1"
)
"""

pytestmark = pytest.mark.skipif(
    shutil.which("rsyslogd") is None or not MODULE.exists(), reason="Debian's rsyslog-elasticsearch is not installed"
)


class Rsyslog:
    """An rsyslogd of the test's own that reads one file."""

    def __init__(self, inlet: Inlet, directory: Path, credentials: str = "") -> None:
        self.directory = directory
        configuration = CONFIGURATION.format(directory=directory, port=inlet.port, credentials=credentials)
        (directory / "rsyslog.conf").write_text(configuration)
        (directory / "app.log").write_text("")
        self.words = [
            "rsyslogd", "-n", "-f", str(directory / "rsyslog.conf"), "-i", str(directory / "rsyslog.pid"),
        ]  # fmt: skip

    def write(self, messages: list[str]) -> None:
        """Append lines to the file that it reads."""
        with open(self.directory / "app.log", "a") as file:
            file.writelines(message + "\n" for message in messages)


def test_every_line_is_stored_with_its_parts(inlet: Inlet, tmp_path: Path) -> None:
    rsyslog = Rsyslog(inlet, tmp_path)
    sent = [f'message {n} é€ "quoted" \\ end' for n in range(RECORDS)]
    with agent(rsyslog.words, log=tmp_path / "rsyslogd.log"):
        rsyslog.write(sent)
        records = check_messages(inlet, sent)
    assert {record.service for record in records} == {"checkout"}
    assert sorted(record.event_id for record in records) == sorted(f"rsyslog/{n}" for n in range(RECORDS))
    for record in records:
        assert record.metadata.pop("host")
        assert record.metadata == {"_index": "rsyslog", "severity": "notice"}
        assert record.timestamp.startswith("20")
    assert not (tmp_path / "errors.log").exists()


def test_what_is_refused_while_the_store_is_away_is_in_its_error_file_and_nothing_is_doubled(
    inlet: Inlet, tmp_path: Path
) -> None:
    """omelasticsearch looks at no HTTP status: an answer without items is an error for it, never tried again."""
    rsyslog, errors = Rsyslog(inlet, tmp_path), tmp_path / "errors.log"
    sent = [f"message {n}." for n in range(RECORDS)]

    def refused() -> list[str]:
        return re.findall(r"message \d+\.", errors.read_text()) if errors.exists() else []

    def messages() -> list[str]:
        return [record.message for record in inlet.records()]

    with agent(rsyslog.words, log=tmp_path / "rsyslogd.log"):
        rsyslog.write(sent[:500])
        inlet.wait_for(100)
        with outage(inlet):
            rsyslog.write(sent[500:])
        wait_until(lambda: inlet.count() + len(refused()) >= RECORDS, "every line is stored, or in the error file")
        rsyslog.write(["message 1000."])
        wait_until(lambda: "message 1000." in messages(), "it goes on afterwards")
    # A commit whose outcome was unknown may be both: nothing is lost, and nothing stored twice.
    check_once(messages(), {*messages()})
    assert {*messages(), *refused()} == {*sent, "message 1000."}


def test_a_key_is_its_password(keyed: Inlet, tmp_path: Path) -> None:
    rsyslog = Rsyslog(keyed, tmp_path, f'uid="rsyslog" pwd="{keyed.key}"')
    with agent(rsyslog.words, log=tmp_path / "rsyslogd.log"):
        rsyslog.write(["message 1"])
        wait_until(lambda: keyed.count() == 1, f"the record; {(tmp_path / 'rsyslogd.log').read_text()}")
