"""What the embedded store reports. Start-up only: no request sees it."""

from __future__ import annotations

from inlet.stream.errors import InletError


class StoreError(InletError):
    """The embedded store cannot be started, or its data directory is in use. The detail says what to do."""

    reason = "store"
