"""What clients of Elasticsearch ask for before they send: who it is, its license, templates, policies, nodes, health.

What lives here: the smallest answers with which they go on. What must not: anything that is stored.

A template, policy, pipeline, data stream or alias that a client looks for exists, and one that it sends is
acknowledged; none is kept. Nothing here is secret, so no key is asked for. The list is in
docs/receivers/elasticsearch.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import MappingProxyType

import falcon
import ujson

from wsgi.receivers.elasticanswer import PRODUCT
from wsgi.receivers.resources import Operator, Resource

VERSION = "8.19.0"
"""The version of Elasticsearch that clients are given to see: the last minor one of 8, so that no client of 8 finds it
too old, and clients of 9 still speak to it."""
CLIENTS = ("logstash", "elastic", "beat")
"""What the User-Agent of a client holds that may ask for an index by its bare name."""

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LICENSE = {"uid": "inlet", "type": "basic", "mode": "basic", "status": "active"}
_FEATURE = {"available": True, "enabled": True}
_INFO = {
    "name": "inlet",
    "cluster_name": "inlet",
    "cluster_uuid": "inlet",
    "version": {
        "number": VERSION,
        "build_flavor": "default",
        "build_type": "docker",
        "build_hash": "unknown",
        "build_date": "2025-01-01T00:00:00.000000000Z",
        "build_snapshot": False,
        "lucene_version": "9.12.0",
        "minimum_wire_compatibility_version": "7.17.0",
        "minimum_index_compatibility_version": "7.0.0",
    },
    "tagline": "You Know, for Search",
}
_ACKNOWLEDGED = {"acknowledged": True}

Make = Callable[[falcon.Request, Operator], object]


def _info(req: falcon.Request, operator: Operator) -> object:
    # A browser asks for HTML by name, and never gets this.
    if "text/html" in req.env.get("HTTP_ACCEPT", ""):
        raise falcon.HTTPRouteNotFound
    return _INFO


def _license(req: falcon.Request, operator: Operator) -> object:
    return {"license": _LICENSE}


def _xpack(req: falcon.Request, operator: Operator) -> object:
    return {"build": {}, "license": _LICENSE, "features": {"ilm": _FEATURE, "security": _FEATURE}}


def _nodes(req: falcon.Request, operator: Operator) -> object:
    """One node, at the address that the client came by: a client that looks for nodes then keeps it."""
    host = req.env.get("HTTP_HOST", "")
    nodes = {}
    if _HOST.fullmatch(host):
        if not re.search(r":\d+$", host):
            host += ":443" if req.scheme == "https" else ":80"
        nodes["inlet"] = {
            "name": "inlet",
            "version": VERSION,
            "roles": ["data", "ingest"],
            "http": {"bound_address": [host], "publish_address": host},
        }
    return {"_nodes": {"total": 1, "successful": 1, "failed": 0}, "cluster_name": "inlet", "nodes": nodes}


def _health(req: falcon.Request, operator: Operator) -> object:
    """Green while records can be stored; as in Elasticsearch, the status is 200 either way."""
    status = "green" if operator.readiness() is None else "red"
    return {
        "cluster_name": "inlet",
        "status": status,
        "timed_out": False,
        "number_of_nodes": 1,
        "number_of_data_nodes": 1,
        "active_shards_percent_as_number": 100.0,
    }


def _exists(req: falcon.Request, operator: Operator) -> object:
    return {}


class Page(Resource):
    """A page that clients read."""

    def __init__(self, make: Make, operator: Operator) -> None:
        self._make, self._operator = make, operator

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Return it."""
        _put(resp, self._make(req, self._operator))

    on_head = on_get


class CatHealth(Resource):
    """``/_cat/health``, which rsyslog asks for before it sends: a line of text."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return it."""
        status = "green" if self._operator.readiness() is None else "red"
        resp.set_header(*PRODUCT)
        resp.content_type = "text/plain; charset=utf-8"
        resp.data = f"{int(time.time())} {time.strftime('%H:%M:%S', time.gmtime())} inlet {status} 1 1\n".encode()

    on_head = on_get


class Acknowledging(Page):
    """A template, policy, pipeline or data stream: there is one, and another is acknowledged."""

    allow = "GET, HEAD, PUT, POST, OPTIONS"

    def on_put(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Acknowledge it."""
        _put(resp, _ACKNOWLEDGED)

    on_post = on_put


class Index(Resource):
    """An index by its bare name, for clients of Elasticsearch alone: for anybody else there is nothing at this path.

    Logstash looks for its alias, and makes an index where there is none.
    """

    def __init__(self, operator: Operator) -> None:
        """``operator`` is not needed."""

    def on_head(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Say that it exists, or acknowledge it."""
        agent = req.env.get("HTTP_USER_AGENT", "").lower()
        if not any(name in agent for name in CLIENTS):
            raise falcon.HTTPRouteNotFound
        _put(resp, _ACKNOWLEDGED)

    on_put = on_head

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Find nothing."""
        raise falcon.HTTPRouteNotFound

    on_post = on_delete = on_patch = on_get

    def on_options(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Find nothing."""
        raise falcon.HTTPRouteNotFound


def _put(resp: falcon.Response, value: object) -> None:
    resp.set_header(*PRODUCT)
    resp.data = ujson.dumps(value, escape_forward_slashes=False).encode()


def _page(make: Make, kind: type[Page] = Page) -> Callable[[Operator], Resource]:
    return lambda operator: kind(make, operator)


_KEPT = (
    "/_ilm/policy/{name}", "/_index_template/{name}", "/_template/{name}", "/_component_template/{name}",
    "/_ingest/pipeline/{name}", "/_data_stream/{name}", "/_alias/{name}",
)  # fmt: skip
PAGES = MappingProxyType(
    {
        "/": _page(_info),
        "/_license": _page(_license),
        "/_xpack": _page(_xpack),
        "/_nodes": _page(_nodes),
        "/_nodes/http": _page(_nodes),
        "/_nodes/_all/http": _page(_nodes),
        "/_cluster/health": _page(_health),
        "/_cat/health": CatHealth,
        **dict.fromkeys(_KEPT, _page(_exists, Acknowledging)),
        "/{index}": Index,
    }
)
"""Path -> what makes its resource."""
