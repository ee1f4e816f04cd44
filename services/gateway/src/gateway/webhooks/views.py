"""Endpoints and attempts as the API shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gateway.timestamps import rfc3339
from offload_core import signing

if TYPE_CHECKING:
    from offload_core.webhooks import Endpoint


def webhook(endpoint: Endpoint, *, with_secret: bool = False) -> dict[str, Any]:
    """Return an endpoint, with its newest secret only where that is new."""
    newest = endpoint.secrets[0].text
    is_hmac = endpoint.signature == "hmac"
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "tags": list(endpoint.tags),
        "description": endpoint.description,
        "signature": endpoint.signature,
        "public_key": None if is_hmac else signing.public_key_of(newest),
        "rate_per_second": endpoint.rate_per_second,
        "retry_seconds": list(endpoint.retry_seconds) if endpoint.retry_seconds else None,
        "created_at": rfc3339(endpoint.created_at),
        "disabled_at": rfc3339(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": rfc3339(endpoint.failing_since),
        "tenant": endpoint.owner,
    } | ({"secret": newest if is_hmac else None} if with_secret else {})


def attempt(text: bytes) -> dict[str, Any]:
    """Return an attempt as `http-worker` has written it down."""
    found: dict[str, Any] = json.loads(text)
    return found | {"at": rfc3339(found["at"])}
