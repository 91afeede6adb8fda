"""Names of header fields that clients commonly send, and the environ key of each: a table that is built at import.

What lives here: names, in the spellings in use. What must not: rules about fields (``wsgi.server.fields``), and nothing
that a request adds: a table that clients can fill is one that a client can flush for the others.

A name that is missing here, or spelled in another way, is checked and converted each time; that costs about 0.7 us.
"""

from __future__ import annotations

_COMMON = """
    A-IM Accept Accept-Charset Accept-Datetime Accept-Encoding Accept-Language Accept-Patch Accept-Post Accept-Ranges
    Access-Control-Request-Headers Access-Control-Request-Method Access-Control-Request-Private-Network
    Alt-Used Authentication-Info Authorization Available-Dictionary Cache-Control CDN-Loop Client-Cert Client-Cert-Chain
    Connection Content-Digest Content-Disposition Content-Encoding Content-ID Content-Language Content-Length
    Content-Location Content-MD5 Content-Range Content-Type Cookie Correlation-ID Date Depth Destination Device-Memory
    Dictionary-ID Digest DNT Downlink DPoP DPR Early-Data ECT ETag Expect Expires Forwarded From Host HTTP2-Settings
    Idempotency-Key If If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Keep-Alive Last-Event-ID
    Last-Modified Link Location Lock-Token Max-Forwards MIME-Version Negotiate Origin Overwrite Ping-From Ping-To Pragma
    Prefer Priority Proxy-Authorization Proxy-Connection Purpose Range Referer Repeatability-First-Sent
    Repeatability-Request-ID Repr-Digest RTT Save-Data Sec-CH-Prefers-Color-Scheme Sec-CH-UA Sec-CH-UA-Arch
    Sec-CH-UA-Bitness Sec-CH-UA-Full-Version-List Sec-CH-UA-Mobile Sec-CH-UA-Model Sec-CH-UA-Platform
    Sec-CH-UA-Platform-Version Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-Storage-Access Sec-Fetch-User
    Sec-GPC Sec-Purpose Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version
    Service-Worker Signature Signature-Input SOAPAction TE Timeout Trailer Transfer-Encoding Upgrade
    Upgrade-Insecure-Requests User-Agent Via Viewport-Width Want-Content-Digest Want-Digest Want-Repr-Digest Warning
    Width X-CSRF-Token X-Do-Not-Track X-HTTP-Method-Override X-Requested-With X-XSRF-Token
"""
"""Of the IANA registry of HTTP field names (RFC 9110 section 18.4), what a request may carry; and what browsers add."""

_PROXIES = """
    CF-Connecting-IP CF-IPCountry CF-Ray CF-Visitor CF-Worker Client-IP Fastly-Client-IP Fly-Client-IP
    Fly-Forwarded-Port Fly-Region Fly-Request-ID Front-End-Https True-Client-IP X-Amz-Cf-Id X-Amzn-Trace-Id
    X-Appengine-Country X-ARR-LOG-ID X-ARR-SSL X-Azure-ClientIP X-Azure-FDID X-Azure-Ref X-Azure-SocketIP X-Client-IP
    X-Cloud-Trace-Context X-Cluster-Client-IP X-Envoy-Attempt-Count X-Envoy-Decorator-Operation
    X-Envoy-Expected-Rq-Timeout-Ms X-Envoy-External-Address X-Envoy-Internal X-Envoy-Original-Path
    X-Envoy-Peer-Metadata X-Envoy-Peer-Metadata-Id X-Forwarded X-Forwarded-By X-Forwarded-Client-Cert X-Forwarded-For
    X-Forwarded-Host X-Forwarded-Path X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Proto X-Forwarded-Protocol
    X-Forwarded-Scheme X-Forwarded-Server X-Forwarded-Ssl X-Forwarded-Uri X-Nginx-Proxy X-Original-Forwarded-For
    X-Original-Host X-Original-URI X-Original-URL X-Proxy-User-Ip X-Real-IP X-Request-Start X-Scheme X-Url-Scheme
    X-Varnish X-Vercel-Id
"""
"""What proxies, load balancers and content networks add."""

_TRACES = """
    b3 baggage Request-Id Request-Context sentry-trace Server-Timing sw8 sw8-correlation sw8-x traceparent tracestate
    uber-trace-id X-B3-Flags X-B3-ParentSpanId X-B3-Sampled X-B3-SpanId X-B3-TraceId X-Correlation-ID
    X-Datadog-Origin X-Datadog-Parent-Id X-Datadog-Sampling-Priority X-Datadog-Tags X-Datadog-Trace-Id X-Instana-L
    X-Instana-S X-Instana-T X-Ot-Span-Context X-Request-ID X-Trace-Id X-Transaction-ID
"""
"""Trace contexts and request identifiers."""

_SHIPPERS = """
    ApiKey Api-Key CE-DataContentType CE-DataSchema CE-Id CE-Source CE-SpecVersion CE-Subject CE-Time CE-Type DD-API-KEY
    DD-Application-Key DD-EVP-ORIGIN DD-EVP-ORIGIN-VERSION DD-MESSAGE-TIMESTAMP DD-PROTOCOL Datadog-Meta-Lang
    Datadog-Meta-Tracer-Version X-Api-Key X-API-Token X-Api-Version X-Auth-Token X-Elastic-Client-Meta
    X-Elastic-Internal-Origin X-Elastic-Product-Origin X-GitHub-Delivery X-GitHub-Event X-GitHub-Hook-ID X-Gitlab-Event
    X-Gitlab-Token X-Hub-Signature X-Hub-Signature-256 X-Opaque-Id X-Prometheus-Remote-Write-Version X-Scope-OrgID
    X-Sentry-Auth X-Splunk-Request-Channel X-Vector-Version
"""
"""What agents, collectors and webhooks add."""


def environ_key(upper: str) -> str:
    """Return the environ key (PEP 3333) of a field's name in capitals."""
    mapped = upper.replace("-", "_")
    return mapped if upper in ("CONTENT-TYPE", "CONTENT-LENGTH") else "HTTP_" + mapped


def _spellings(name: str) -> set[str]:
    """Return a name as it is registered, in lower case (as HTTP/2 wants it), in Title-Case, and with -Id for -ID."""
    return {name, name.lower(), name.title(), "-".join(part[:1].upper() + part[1:] for part in name.split("-"))}


KEYS = {
    spelling: environ_key(name.upper())
    for name in (_COMMON + _PROXIES + _TRACES + _SHIPPERS).split()
    for spelling in _spellings(name)
}
"""Name -> environ key. No name has an underscore: whether such a one is taken depends on the configuration."""
