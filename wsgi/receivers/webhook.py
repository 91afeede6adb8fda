"""Webhooks: ``POST /webhook``, of GitHub, GitLab, Gitea, Stripe, and others that send JSON.

What lives here: which header fields name an event and its delivery, and which member of a body does. What must not: the
steps of a request (``wsgi.receivers.shaped``), signatures (a key guards the path: ``?key=``).

The message is the body, written as compact JSON, and the metadata only what the header fields say: bodies have hundreds
of members, more than metadata may, and consumers of them parse JSON anyway. Fields that hold secrets are not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi.receivers import documents
from wsgi.receivers.foreign import Lines
from wsgi.receivers.headerfields import utf8
from wsgi.receivers.members import moment
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.shaped import Reading, Shaped, Take, media_type, refuse_kind
from wsgi.receivers.written import written

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

PATH = "/webhook"
TIMES = ("timestamp", "created", "event_time")
"""Members that hold the time of an event: Standard Webhooks, Stripe, Slack."""
KINDS = ("type", "event", "event_type", "object_kind")
"""Members that name the kind of an event, where no header field does."""


class Sender(NamedTuple):
    """One that is known by a header field. Names are those of a WSGI environ."""

    service: str
    event: str
    """Field with the kind of event."""
    delivery: str
    """Field that is new for each event, and the same where it is sent again."""


SENDERS = (
    # Gitea and Forgejo also send GitHub's fields, and Gogs': they come first.
    Sender("forgejo", "HTTP_X_FORGEJO_EVENT", "HTTP_X_FORGEJO_DELIVERY"),
    Sender("gitea", "HTTP_X_GITEA_EVENT", "HTTP_X_GITEA_DELIVERY"),
    Sender("gogs", "HTTP_X_GOGS_EVENT", "HTTP_X_GOGS_DELIVERY"),
    Sender("github", "HTTP_X_GITHUB_EVENT", "HTTP_X_GITHUB_DELIVERY"),
    Sender("gitlab", "HTTP_X_GITLAB_EVENT", "HTTP_X_GITLAB_EVENT_UUID"),
    Sender("bitbucket", "HTTP_X_EVENT_KEY", "HTTP_X_REQUEST_UUID"),
    Sender("shopify", "HTTP_X_SHOPIFY_TOPIC", "HTTP_X_SHOPIFY_WEBHOOK_ID"),
)
IDEMPOTENCY = "HTTP_IDEMPOTENCY_KEY"
"""Field with the id of a delivery, the same in each attempt (draft-ietf-httpapi-idempotency-key-header). It goes first:
GitLab's recursive webhooks share their X-Gitlab-Event-UUID."""
DELIVERIES: tuple[str, ...] = ("HTTP_WEBHOOK_ID", "HTTP_SVIX_ID")
"""Fields with an id of others: Standard Webhooks, Svix."""
SERVICE = "webhook"
"""Service of whom nobody knows."""


def mount(bounds: Bounds) -> Mount:
    """Mount ``POST /webhook``."""

    def begin(environ: WSGIEnvironment, body: bytes) -> Reading:
        media_type(environ)
        return Reading(documents.read(body), _taker(environ))

    return Mount({PATH: Shaped("webhook", bounds, begin, probed=True)})


def _taker(environ: WSGIEnvironment) -> Take:
    """Return what takes the events of one request."""
    sender = next((each for each in SENDERS if each.event in environ), None)
    names, kind, service = (IDEMPOTENCY, *DELIVERIES), "", ""
    if sender is not None:
        names, kind, service = (IDEMPOTENCY, sender.delivery, *DELIVERIES), environ[sender.event], sender.service
    delivery = utf8(next((environ[name] for name in names if environ.get(name)), "")).strip()
    # No delivery's id may look like that of a further record of another.
    delivery = delivery.replace("%", "%25").replace("#", "%23")

    def take(lines: Lines, value: Any) -> None:
        if type(value) is not dict:
            refuse_kind(lines, value)
            return
        event_id, named = delivery, service
        if event_id and lines.read:
            event_id = f"{delivery}#{lines.read}"
        if not service and value.get("object") == "event" and type(value.get("id")) is str:
            event_id, named = event_id or value["id"], "stripe"
        metadata: dict[str, str] = {}
        event = kind or next((value[name] for name in KINDS if type(value.get(name)) is str), "")
        if event:
            metadata["event"] = utf8(event).strip() if kind else event
        if type(value.get("action")) is str:
            metadata["action"] = value["action"]
        timestamp = next((found for name in TIMES if (found := moment(value.get(name)))), None)
        lines.take(event_id, timestamp, named or SERVICE, written(value), metadata)

    return take
