"""What is done with API keys."""

from __future__ import annotations

import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway import auth
from gateway.access import ApiKey, ChangedError, Secret
from gateway.problems import Problem
from gateway.tenants import service as tenants
from gateway.timestamps import ahead, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.access import Access
    from gateway.api_keys.schemas import NewApiKey
    from gateway.dependencies import Dependencies

ID_PREFIX = "key_"


async def create(deps: Dependencies, asked: NewApiKey) -> tuple[ApiKey, str]:
    """Make a key; returns it with its secret.

    Raises:
        Problem: 404 ``tenant.not_found``, 422 ``request.invalid`` for an expiry that is not ahead.

    """
    expires_at = ahead("expires_at", asked.expires_at)
    text, secret = _new_secret()
    key = ApiKey(
        id=f"{ID_PREFIX}{secrets.token_hex(12)}",
        tenant=asked.tenant,
        scopes=tuple(sorted(map(str, set(asked.scopes)))),
        secrets=(secret,),
        created_at=_now_ms(),
        expires_at=expires_at,
        description=asked.description,
    )
    return await _change(deps, lambda _: key), text


async def find(deps: Dependencies, key_id: str) -> ApiKey:
    """Return a key.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    return _of(await deps.keys.store.read(), key_id)


async def rotate(deps: Dependencies, key_id: str, grace_seconds: int) -> tuple[ApiKey, str]:
    """Give a key another secret; returns it with that. The one before it is good for so long as well.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    text, secret = _new_secret()
    grace_ms = grace_seconds * 1000
    return await _change(deps, lambda seen: _of(seen, key_id).rotated(secret, grace_ms, _now_ms())), text


async def revoke(deps: Dependencies, key_id: str) -> None:
    """Revoke a key for good.

    Raises:
        Problem: 404 ``key.not_found``.

    """
    await _change(deps, lambda seen: _of(seen, key_id), delete=True)


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


def _of(seen: Access, key_id: str) -> ApiKey:
    found = seen.api_keys.get(key_id)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "key.not_found", "there is no such API key")
    return found


async def _change(deps: Dependencies, make: Callable[[Access], ApiKey], *, delete: bool = False) -> ApiKey:
    try:
        return await deps.keys.change(make, delete=delete)
    except ChangedError:
        raise tenants.not_found() from None


def _now_ms() -> int:
    return round(time.time() * 1000)
