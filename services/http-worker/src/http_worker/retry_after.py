"""When a receiver wants to be asked again: ``Retry-After`` of RFC 9110, section 10.2.3."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(header: str | None) -> float | None:
    """Return in how many seconds, from a number or a date; None where the header is missing or says neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        # Longer numbers are no time at all.
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
