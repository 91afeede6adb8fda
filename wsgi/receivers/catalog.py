"""Every receiver by name, with its paths, and the pages that its clients ask for besides.

What lives here: the one list of receivers, and which of them are open. What must not: what any of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wsgi.receivers import cloudevents, datadog, elastic, gelf, loki, mapped, otlp, splunk, webhook
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.native import Native
from wsgi.receivers.routes import INGEST


def native(bounds: Bounds) -> Mount:
    """Mount ``POST /ingest``."""
    return Mount({INGEST: Native(bounds.payload, bounds.record, keep_rejected=bounds.keep_rejected)})


MOUNTS: dict[str, Callable[[Bounds], Mount]] = {
    "native": native,
    "json": mapped.mount,
    "gelf": gelf.mount,
    "datadog": datadog.mount,
    "cloudevents": cloudevents.mount,
    "webhook": webhook.mount,
    "otlp": otlp.mount,
    "elasticsearch": elastic.mount,
    "splunk": splunk.mount,
    "loki": loki.mount,
}
"""Name of a receiver -> what makes it. ``inlet.keyfile.RECEIVERS`` lists the same names; a test compares the two."""


def mount(names: Iterable[str], bounds: Bounds) -> Mount:
    """Return all paths and pages of these receivers."""
    found = [MOUNTS[name](bounds) for name in names]
    receivers = {path: receiver for each in found for path, receiver in each.receivers.items()}
    return Mount(receivers, {path: page for each in found for path, page in each.pages.items()})
