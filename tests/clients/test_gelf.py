"""GELF over HTTP from ``pygelf``, a handler of Python's logging, as it is.

It does not read its answers, so it does not retry: what it sends while the store is away is lost, and no test here says
otherwise. graypy, the other such handler, sends the same head; its wheel brings a package ``tests``, so it cannot be
installed beside these.
"""

from __future__ import annotations

import logging
from typing import Any

import pygelf
import pytest

from tests.clients.support import RECORDS, Inlet, check_messages

HANDLERS = {
    "compressed": lambda port: pygelf.GelfHttpHandler("127.0.0.1", port, include_extra_fields=True, _app="shop"),
    "plain": lambda port: pygelf.GelfHttpHandler("127.0.0.1", port, compress=False, include_extra_fields=True),
}
SERVICES = {"compressed": "shop"}


@pytest.mark.parametrize("name", HANDLERS)
def test_what_a_handler_logs_is_stored_field_by_field(name: str, inlet: Inlet) -> None:
    handler: Any = HANDLERS[name](inlet.port)
    logger = logging.Logger("shop.card", logging.DEBUG)
    logger.addHandler(handler)
    sent = [f"paid ü€\U0001f600 {number}" for number in range(RECORDS)]
    for number, message in enumerate(sent):
        logger.warning(message, extra={"amount": number, "user": {"id": 7}})
    handler.close()
    for record in check_messages(inlet, sent):
        assert record.metadata["level"] == "4"
        assert record.metadata["host"]
        assert not record.timestamp.startswith("1970")
        assert record.service == SERVICES.get(name, record.metadata["host"])
        assert record.metadata["amount"] == record.message.rpartition(" ")[2]
