"""Who sends a request: API keys of at least 128 random bits, kept as SHA-256.

A slow hash would be the accept path's whole cost, and makes random keys no safer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.access import UNLIMITED, AccessStore, ChangedError, TenantLimits
from gateway.configured_keys import ConfiguredKey, ConfiguredKeys
from gateway.problems import Problem, redis_unavailable
from gateway.scopes import OPERATOR, SCOPES, TENANT_SCOPES, scope_of
from offload_core.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import redis.asyncio
    from fastapi import Request

    from gateway.access import Access, ApiKey, Tenant
    from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

PREFIX = "offload_"
# So much of a key is kept as it is, to be recognised by.
SHOWN_LENGTH = len(PREFIX) + 6
# How often the key file, and the version of what Redis holds, are looked at.
WATCH_SECONDS = 1.0
# How often it is written down which keys were used, at most.
NOTE_USE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    tenant: str
    scopes: frozenset[str]
    # When the key ends, in seconds since the epoch; None: never.
    expires_at: float | None = None
    # Of a key that is a record.
    key_id: str | None = None
    limits: TenantLimits = UNLIMITED

    @property
    def is_operator(self) -> bool:
        """Whether this key may see what is for operators."""
        return OPERATOR in self.scopes

    @property
    def has_expired(self) -> bool:
        """Whether the key's time has passed."""
        return self.expires_at is not None and self.expires_at <= time.time()


DEVELOPER = Caller("development", SCOPES)


class Keys:
    """The keys that this gateway knows, by digest."""

    def __init__(self, settings: GatewaySettings, client: redis.asyncio.Redis) -> None:
        """Read those that are configured; those in Redis are read by the first `refresh`.

        Raises:
            SettingsError: when a line is not a key, or when there is none and development mode is off.

        """
        self._configured = ConfiguredKeys(settings)
        self.store = AccessStore(client, settings.key_prefix)
        self._access: Access | None = None
        self._refreshing = asyncio.Lock()
        self._callers: dict[str, Caller] = {}
        # What is told when a key is no longer good, by digest.
        self._told: dict[str, set[Callable[[], None]]] = defaultdict(set)
        # When each key was used (ms), until it has been written down.
        self._used: dict[str, int] = {}
        self._noted_at = 0.0
        self._open = settings.development_mode
        if self._open:
            logger.warning("DEVELOPMENT MODE: every request is served without an API key, as an operator's")
        elif not self._configured.keys:
            raise SettingsError(
                "no API keys: set OFFLOAD_API_KEYS or OFFLOAD_API_KEYS_FILE (`python -m gateway new-key NAME` makes "
                "one), or OFFLOAD_DEVELOPMENT_MODE=true on your own machine"
            )
        self._index()

    async def refresh(self) -> None:
        """Take over what has changed, in the file and in Redis. While Redis is away, what it held goes on to hold."""
        # One after the other: what was read first must not come last.
        async with self._refreshing:
            has_changed = self._configured.refresh()
            with contextlib.suppress(RedisError, OSError):
                if self._access is None or await self.store.version() != self._access.version:
                    self._access = await self.store.read()
                    has_changed = True
                await self._note_use()
            if has_changed:
                self._index()
        for digest_ in [one for one in self._told if not self._is_good(one)]:
            for tell in tuple(self._told[digest_]):
                tell()

    async def change[One: (Tenant, ApiKey)](self, make: Callable[[Access], One], *, delete: bool = False) -> One:
        """Write, or delete, the record that `make` makes of all as they are; made again when somebody was faster.

        This gateway knows of it at once.

        Raises:
            ChangedError: ``no_tenant`` or ``in_use``, as the store has them.
            Problem: what `make` raises.

        """
        while True:
            seen = await self.store.read()
            one = make(seen)
            try:
                await self.store.change(seen, one, delete=delete)
            except ChangedError as error:
                if error.why == "changed":
                    continue
                raise
            await self.refresh()
            return one

    def caller(self, request: Request) -> Caller:
        """Return who sends a request, whose key has the scope of its route.

        Raises:
            Problem: 401 ``auth.missing`` without a key, ``auth.refused`` with one that is not known or has expired, 403
                ``auth.scope``; 503 ``redis.unavailable`` for one that may be known to Redis, which has not answered.

        """
        caller = self.known(request)
        if caller is None:
            if not token_of(request):
                raise Problem(
                    HTTPStatus.UNAUTHORIZED, "auth.missing", "send an API key: Authorization: Bearer offload_…"
                )
            if self._access is None:
                raise redis_unavailable()
            raise Problem(HTTPStatus.UNAUTHORIZED, "auth.refused", "this API key is not known, or has expired")
        if caller.key_id is not None:
            self._used[caller.key_id] = round(time.time() * 1000)
        route = request.scope["route"]
        scope = scope_of(request.method, route.path, route.tags[0])
        if scope not in caller.scopes:
            raise Problem(HTTPStatus.FORBIDDEN, "auth.scope", f"this needs an API key with the scope {scope}")
        return caller

    def known(self, request: Request) -> Caller | None:
        """Return who sends a request, whatever its key may do; None for a key that is not good, or for none."""
        token = token_of(request)
        if not token:
            return DEVELOPER if self._open else None
        # A digest is looked up, never a key compared: there is no time to be measured.
        caller = self._callers.get(digest(token))
        return None if caller is None or caller.has_expired else caller

    @contextlib.contextmanager
    def telling(self, request: Request, tell: Callable[[], None]) -> Iterator[None]:
        """Have `tell` called when a request's key is revoked, or its time has passed, while the context is open."""
        key = digest(token_of(request))
        if key not in self._callers:
            # Nobody's key: in development mode, or where a token of one task is shown instead.
            yield
            return
        self._told[key].add(tell)
        try:
            yield
        finally:
            self._told[key].discard(tell)
            if not self._told[key]:
                del self._told[key]

    def _is_good(self, key: str) -> bool:
        caller = self._callers.get(key)
        return caller is not None and not caller.has_expired

    def _index(self) -> None:
        """Work out who each key is. A key of the configuration stands before one of Redis."""
        access = self._access
        tenants = {name: tenant.limits for name, tenant in access.tenants.items()} if access else {}
        callers = {}
        for one in access.api_keys.values() if access else ():
            for secret in one.secrets:
                ends = [at for at in (one.expires_at, secret.expires_at) if at is not None]
                callers[secret.digest] = Caller(
                    one.tenant,
                    _with_included(one.scopes),
                    min(ends) / 1000 if ends else None,
                    one.id,
                    tenants.get(one.tenant, UNLIMITED),
                )
        for line in self._configured.keys:
            limits = tenants.get(line.tenant, UNLIMITED)
            callers[line.digest] = Caller(line.tenant, _with_included(line.scopes), line.expires_at, limits=limits)
        self._callers = callers

    async def _note_use(self) -> None:
        if not self._used or time.monotonic() - self._noted_at < NOTE_USE_SECONDS or self._access is None:
            return
        # One that was revoked since is not to come back.
        used = {key_id: at for key_id, at in self._used.items() if key_id in self._access.api_keys}
        self._used, self._noted_at = {}, time.monotonic()
        if used:
            await self.store.note_use(used)


def _with_included(scopes: Iterable[str]) -> frozenset[str]:
    found = frozenset(scopes)
    return found | TENANT_SCOPES if OPERATOR in found else found


def token_of(request: Request) -> str:
    """Return the key that a request sends; an empty text where it sends none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def digest(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_secret() -> str:
    """Return a new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def new_key(name: str, scopes: Iterable[str], expires: str | None = None) -> tuple[str, str]:
    """Return a new key, and the line that makes it known.

    Raises:
        SettingsError: when the name, a scope or the expiry (RFC 3339, or a date) cannot be one.

    """
    key = new_secret()
    line = f"{name}:{digest(key)}:{','.join(sorted(scopes))}" + (f":{expires}" if expires else "")
    ConfiguredKey.of(line)
    return key, line
