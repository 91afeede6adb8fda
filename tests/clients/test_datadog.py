"""``datadog-api-client``, Datadog's own client for Python, configured only by its Configuration."""

from __future__ import annotations

from typing import Any

import pytest
from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException
from datadog_api_client.v1.api.authentication_api import AuthenticationApi
from datadog_api_client.v2.api.logs_api import LogsApi
from datadog_api_client.v2.model.content_encoding import ContentEncoding
from datadog_api_client.v2.model.http_log import HTTPLog
from datadog_api_client.v2.model.http_log_item import HTTPLogItem

from tests.clients.support import RECORDS, Inlet, check_messages, in_background, outage

T = "2026-01-31T23:59:59.123Z"
CODINGS = (None, ContentEncoding.GZIP, ContentEncoding.DEFLATE)


def configuration(target: Inlet, key: str | None = None, **more: Any) -> Configuration:
    """Datadog's configuration for another server: the one with a full name."""
    made = Configuration(
        server_index=1,
        server_variables={"protocol": "http", "name": f"127.0.0.1:{target.port}"},
        api_key={"apiKeyAuth": key or target.key or "any"},
        **more,
    )
    made.proxy = None
    return made


def item(number: int) -> HTTPLogItem:
    """A log with everything that one can hold."""
    return HTTPLogItem(
        message=f"paid ü€\U0001f600 {number}", ddsource="python", ddtags="env:prod,team:shop", hostname="web-1",
        service="checkout", status="info", timestamp=T, amount=str(number),
    )  # fmt: skip


def test_a_thousand_logs_are_stored_field_by_field_in_every_coding(keyed: Inlet) -> None:
    with ApiClient(configuration(keyed)) as client:
        api = LogsApi(client)
        for start in range(0, RECORDS, 50):
            coding = CODINGS[start // 50 % 3]
            more: dict[str, Any] = {"content_encoding": coding} if coding else {}
            body = HTTPLog([item(number) for number in range(start, start + 50)])
            assert api.submit_log(body, ddtags="from:query", **more) == {}
    for number, record in enumerate(keyed.wait_for(RECORDS)):
        assert record[1:] == (
            T, "checkout", f"paid ü€\U0001f600 {number}",
            {"ddsource": "python", "ddtags": "env:prod,team:shop", "hostname": "web-1", "status": "info",
             "amount": str(number)},
        )  # fmt: skip


def test_nothing_is_lost_or_doubled_where_the_store_is_killed(inlet: Inlet) -> None:
    sent = [item(number) for number in range(400)]

    def send_all() -> None:
        with ApiClient(configuration(inlet, enable_retry=True, max_retries=8)) as client:
            for start in range(0, len(sent), 4):
                LogsApi(client).submit_log(HTTPLog(sent[start : start + 4]))

    join = in_background(send_all)
    inlet.wait_for(20)
    with outage(inlet):
        pass
    join()
    check_messages(inlet, [each.message for each in sent])


def test_the_check_of_a_key_tells_a_right_one_from_a_wrong_one(keyed: Inlet) -> None:
    with ApiClient(configuration(keyed)) as client:
        assert AuthenticationApi(client).validate().valid
    with ApiClient(configuration(keyed, "wrong", enable_retry=True, max_retries=3)) as client:
        with pytest.raises(ApiException) as caught:
            AuthenticationApi(client).validate()
        assert caught.value.status == 403
        with pytest.raises(ApiException) as caught:
            LogsApi(client).submit_log(HTTPLog([item(1)]))
        assert caught.value.status in (401, 403)
    assert keyed.count() == 0
