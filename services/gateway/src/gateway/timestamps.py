"""Times as the API writes them."""

from __future__ import annotations

from offload_core import events


def rfc3339(milliseconds: int | None) -> str | None:
    """Return a time, given since the epoch, in RFC 3339 and UTC; None for none."""
    return None if milliseconds is None else events.rfc3339(milliseconds)
