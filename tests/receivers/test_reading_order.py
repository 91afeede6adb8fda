"""The reading order of README, held to the running application over a real store.

What lives here: which modules one warm ``POST /ingest`` runs. What must not: the server's side of a request.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.support import DEADLINE_SECONDS, ROOT

PROGRAM = """
import sys
import app
from tests.receivers.support import ONE, Told, ask, environ
assert ask(app.application, environ(ONE)).status == 202
seen, env, told = [], environ(ONE), Told()
def profile(frame, event, argument):
    name = frame.f_globals.get("__name__", "")
    if event == "call" and name not in seen and name.partition(".")[0] in ("wsgi", "inlet", "falcon"):
        seen.append(name)
sys.setprofile(profile)
body = b"".join(app.application(env, told))
sys.setprofile(None)
assert told.answers[0][0] == "202 Accepted"
print(*seen)
"""


HELPERS = {
    "wsgi.metrics", "wsgi.receivers.application", "wsgi.receivers.requestid",
    "wsgi.sink.batch", "wsgi.sink.batches", "wsgi.sink.circuit", "wsgi.sink.connecting",
    "wsgi.sink.driver", "wsgi.sink.link", "wsgi.sink.tally", "wsgi.sink.waits", "wsgi.sink.watcher", "wsgi.sink.wire",
}  # fmt: skip
"""What the six use on the way: the front door, the request's id, a batch's data, its lane, the circuit, the connection
to the store, the watcher; and the metrics of a commit."""


def reading_order() -> list[str]:
    """The modules that README lists, in its order."""
    paths = re.findall(r"^\d\. \[[^]]+\]\(([\w/.]+)\)", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [path.removesuffix(".py").replace("/", ".") for path in paths]


def test_one_record_passes_the_modules_of_the_reading_order_in_this_order(valkey: str, stream: str) -> None:
    env = {**os.environ, "REDIS_URL": valkey, "INLET_STREAM": stream}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    server, *application = reading_order()
    assert server == "wsgi.server.turn"
    assert len(application) == 5
    assert [name for name in done.stdout.split() if name not in HELPERS] == application


def test_the_package_gives_the_reading_order_of_readme() -> None:
    found = re.findall(r"^\d\. ``([\w.]+)``", (ROOT / "wsgi/__init__.py").read_text(), re.MULTILINE)
    assert found == reading_order()
