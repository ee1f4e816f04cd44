"""The key by which a request is sent again, and what makes two requests the same."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from celery_leases.publish import load
from celery_leases.scripts import Script
from gateway.intake.fields import LATER_OPTIONS
from gateway.problems import Problem
from offload_core import keys

if TYPE_CHECKING:
    import redis.asyncio
    from pydantic import BaseModel
    from starlette.datastructures import Headers

MAX_LENGTH = 255
# Seconds that a client may have its key live: a minute to a week.
MIN_TTL, MAX_TTL = 60, 604_800
DEFAULT_TTL_MS = 86_400_000
_CLAIM = Script(load("gateway/intake/lua/claim.lua"))


class Key(NamedTuple):
    """An idempotency key, and how long it lives where the client says so."""

    text: str
    ttl_ms: int | None


def key_of(headers: Headers) -> Key | None:
    """Return the request's idempotency key, if it has one.

    Raises:
        Problem: 400 ``idempotency.invalid`` when it is empty, too long, not printable ASCII, or given twice, or when
            ``Idempotency-TTL`` is no number of seconds within its bounds.

    """
    given = headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "idempotency.invalid", "send one Idempotency-Key")
    key = given[0]
    if not 0 < len(key) <= MAX_LENGTH or not key.isascii() or not key.isprintable():
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "idempotency.invalid",
            f"an Idempotency-Key has 1 to {MAX_LENGTH} printable ASCII characters",
        )
    return Key(key, _ttl_ms(headers.get("idempotency-ttl")))


async def claim(
    client: redis.asyncio.Redis, prefix: str, owner: str, key: Key | None, fingerprint: str, new_id: str
) -> str | None:
    """Claim an owner's key for something that is created under an id.

    Returns the id that an earlier request has claimed it for; None where there is none, or no key.

    Raises:
        Problem: 422 ``idempotency.conflict`` where that request was another one.

    """
    if key is None:
        return None
    name, ttl_ms = keys.idempotency(prefix, owner, key.text), key.ttl_ms or DEFAULT_TTL_MS
    was_claimed, known, known_id = await _CLAIM.run_async(client, (), (name, fingerprint, new_id, ttl_ms))
    if not was_claimed:
        return None
    if known.decode() != fingerprint:
        raise conflict()
    found: str = known_id.decode()
    return found


def created_headers(url: str, *, is_replayed: bool) -> dict[str, str]:
    """Return the headers of an answer about what was created, now or by an earlier request of the same key."""
    return {"Location": url} | ({"Idempotent-Replayed": "true"} if is_replayed else {})


def conflict() -> Problem:
    """Return the problem of a key that was used for another request."""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency.conflict",
        "this Idempotency-Key was used for another request",
    )


def _ttl_ms(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TTL)) and MIN_TTL <= int(text) <= MAX_TTL):
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "idempotency.invalid",
            f"Idempotency-TTL is a number of seconds, from {MIN_TTL} to {MAX_TTL:,}",
        )
    return int(text) * 1000


def fingerprint(method: str, path: str, options: BaseModel, sha256: str = "") -> str:
    """Return what makes two requests the same: method, path, what was asked for, and the file's own digest.

    What was asked for, not how: the order of members, a default that is written out and ``010`` for 10 change nothing.
    """
    asked = options.model_dump(mode="json")
    # A request that was sent before an upgrade, and again after it, is the same.
    asked = {name: value for name, value in asked.items() if name not in LATER_OPTIONS or value not in (None, [])}
    text = json.dumps([method, path, asked, sha256], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
