"""Log records through python-logging-loki: URL, key, version of its format, records, and when to wait for a line."""

import logging
import sys

import logging_loki

url, key, version, records, pause_at = sys.argv[1:6]
handler = logging_loki.LokiHandler(
    url=f"{url}/loki/api/v1/push",
    tags={"application": "checkout", "path": "C:\\logs"},
    auth=("anybody", key),
    version=version,
)
logger = logging.getLogger("shop.api")
logger.addHandler(handler)
logger.setLevel(logging.DEBUG)
for number in range(int(records)):
    if number and number == int(pause_at):
        sys.stdin.readline()
    logger.warning('paid %d ü€😀 "quoted" \\ \ttab\nnext line', number, extra={"tags": {"number": str(number)}})
