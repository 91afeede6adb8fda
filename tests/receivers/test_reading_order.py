"""The reading order of README, held to the running application over a real store.

What lives here: which modules one warm ``POST /ingest`` runs. What must not: the server's side of a request.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import DEADLINE_SECONDS, ROOT

PROGRAM = """
import sys
import app
from tests.receivers.support import ONE, Told, ask, environ
assert ask(app.application, environ(ONE)).status == 202
seen, env, told = set(), environ(ONE), Told()
def profile(frame, event, argument):
    if event == "call":
        seen.add(frame.f_globals.get("__name__", ""))
sys.setprofile(profile)
body = b"".join(app.application(env, told))
sys.setprofile(None)
assert told.answers[0][0] == "202 Accepted"
print(*sorted(name for name in seen if name.partition(".")[0] in ("wsgi", "inlet", "falcon")))
"""


def test_one_record_passes_pipeline_native_and_record_on_its_way_to_the_sink(valkey: str, stream: str) -> None:
    env = {**os.environ, "REDIS_URL": valkey, "INLET_STREAM": stream}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    outside_of_the_sink = {name for name in done.stdout.split() if not name.startswith("wsgi.sink.")}
    assert outside_of_the_sink == {"wsgi.receivers.pipeline", "wsgi.receivers.native", "inlet.stream.record"}
    assert {"wsgi.sink.batches", "wsgi.sink.link"} <= set(done.stdout.split())
