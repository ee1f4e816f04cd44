"""Times as the API writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(milliseconds: int | None) -> str | None:
    """Return a time, given since the epoch, in RFC 3339 and UTC; None for none."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
