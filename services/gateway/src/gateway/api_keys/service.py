"""What is done with API keys."""

from __future__ import annotations

import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway import auth
from gateway.access import ApiKey, ChangedError, Secret
from gateway.problems import Problem, invalid_fields
from gateway.tenants import service as tenants
from gateway.timestamps import rfc3339

if TYPE_CHECKING:
    from gateway.access import Access
    from gateway.api_keys.schemas import NewApiKey
    from gateway.dependencies import Dependencies

ID_PREFIX = "key_"


async def create(deps: Dependencies, asked: NewApiKey) -> tuple[ApiKey, str]:
    """Make a key; returns it with its secret.

    Raises:
        Problem: 404 ``tenant.not_found``, 422 ``request.invalid`` for an expiry that is not ahead.

    """
    now = round(time.time() * 1000)
    expires_at = None if asked.expires_at is None else round(asked.expires_at.timestamp() * 1000)
    if expires_at is not None and expires_at <= now:
        raise invalid_fields({"expires_at": "must lie ahead"})
    text, secret = _new_secret()
    key = ApiKey(
        id=f"{ID_PREFIX}{secrets.token_hex(12)}",
        tenant=asked.tenant,
        scopes=tuple(sorted(map(str, set(asked.scopes)))),
        secrets=(secret,),
        created_at=now,
        expires_at=expires_at,
        description=asked.description,
    )
    try:
        await deps.keys.store.change(await deps.keys.store.read(), key)
    except ChangedError:
        raise tenants.not_found() from None
    await deps.keys.refresh()
    return key, text


async def find(deps: Dependencies, key_id: str) -> tuple[Access, ApiKey]:
    """Return a key, and the records that it was read with.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    seen = await deps.keys.store.read()
    found = seen.api_keys.get(key_id)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "key.not_found", "there is no such API key")
    return seen, found


async def rotate(deps: Dependencies, key_id: str, grace_seconds: int) -> tuple[ApiKey, str]:
    """Give a key another secret; returns it with that. The one before it is good for so long as well.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    text, secret = _new_secret()
    while True:
        seen, key = await find(deps, key_id)
        rotated = key.rotated(secret, grace_seconds * 1000, round(time.time() * 1000))
        try:
            await deps.keys.store.change(seen, rotated)
        except ChangedError:
            continue
        await deps.keys.refresh()
        return rotated, text


async def revoke(deps: Dependencies, key_id: str) -> None:
    """Revoke a key for good.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    while True:
        seen, key = await find(deps, key_id)
        try:
            await deps.keys.store.change(seen, key, delete=True)
        except ChangedError:
            continue
        await deps.keys.refresh()
        return


def view(key: ApiKey, used_at: int | None = None) -> dict[str, Any]:
    """Return a key as the API shows it, which was used last at this time (ms)."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "prefix": key.secrets[0].prefix,
        "description": key.description,
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at),
        "last_used_at": rfc3339(used_at),
    }


def _new_secret() -> tuple[str, Secret]:
    text = auth.new_secret()
    return text, Secret(auth.digest(text), text[: auth.SHOWN_LENGTH])
