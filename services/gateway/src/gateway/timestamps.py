"""Times as the API writes and reads them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.problems import invalid_fields
from offload_core import events

if TYPE_CHECKING:
    from datetime import datetime


def ahead(field: str, moment: datetime | None) -> int | None:
    """Return the time of a request's field in ms since the epoch; None for none.

    Raises:
        Problem: 422 ``request.invalid`` where it does not lie ahead.

    """
    if moment is None:
        return None
    at = round(moment.timestamp() * 1000)
    if at <= time.time() * 1000:
        raise invalid_fields({field: "must lie ahead"})
    return at


def rfc3339(milliseconds: int | None) -> str | None:
    """Return a time, given since the epoch, in RFC 3339 and UTC; None for none."""
    return None if milliseconds is None else events.rfc3339(milliseconds)
