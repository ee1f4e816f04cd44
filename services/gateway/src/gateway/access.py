"""Tenants and API keys as records in Redis, which every gateway reads again when one of them has changed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from offload_core import keys
from offload_core.rotation import rotated
from offload_core.task_store import TaskScript

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import redis.asyncio

_CHANGE = TaskScript("gateway/lua/access.lua")


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may do; None: as the gateway's settings have it, or no limit where they have none."""

    # Tasks that it may post a second in the long run, and how many of them at once.
    rate_per_second: float | None = None
    burst: int | None = None
    # Tasks that have not started.
    max_waiting: int | None = None
    # Of a JSON body or an upload.
    max_payload_bytes: int | None = None


UNLIMITED = TenantLimits()


@dataclass(frozen=True, slots=True)
class Tenant:
    """One for whom Offload works. Times are ms since the epoch."""

    KIND: ClassVar = "tenants"

    name: str
    created_at: int
    description: str = ""
    limits: TenantLimits = UNLIMITED

    @classmethod
    def of(cls, name: str, text: str) -> Self:
        """Return the tenant of a record."""
        fields: dict[str, Any] = json.loads(text)
        return cls(name, **fields | {"limits": TenantLimits(**fields["limits"])})

    @property
    def id(self) -> str:
        """What it is known by."""
        return self.name

    def text(self) -> str:
        """Return its record."""
        return _text(self, "name")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of an API key, kept as its SHA-256; until a time (ms) where it was replaced."""

    digest: str
    # How it begins, for people who look for it.
    prefix: str
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, which may have an older secret beside its own for a while. Times are ms since the epoch."""

    KIND: ClassVar = "api-keys"

    id: str
    tenant: str
    scopes: tuple[str, ...]
    secrets: tuple[Secret, ...]
    created_at: int
    expires_at: int | None = None
    description: str = ""

    @classmethod
    def of(cls, key_id: str, text: str) -> Self:
        """Return the API key of a record."""
        fields: dict[str, Any] = json.loads(text)
        secrets = tuple(Secret(**one) for one in fields["secrets"])
        return cls(key_id, **fields | {"scopes": tuple(fields["scopes"]), "secrets": secrets})

    def text(self) -> str:
        """Return its record."""
        return _text(self, "id")

    def rotated(self, secret: Secret, grace_ms: int, now_ms: int) -> ApiKey:
        """Return it with a new secret; those before it hold for so long as well."""
        return dataclasses.replace(self, secrets=rotated(self.secrets, secret, grace_ms, now_ms))


@dataclass(frozen=True, slots=True)
class Access:
    """All tenants and API keys at one moment."""

    version: int
    tenants: Mapping[str, Tenant]
    api_keys: Mapping[str, ApiKey]
    # The records as they are, by kind and id: what a change is compared with.
    texts: Mapping[tuple[str, str], str]


class ChangedError(Exception):
    """The records do not allow a change, or not any more: `why` is what the script has found."""

    def __init__(self, why: str) -> None:
        """Take the script's answer."""
        super().__init__(why)
        self.why = why


class AccessStore:
    """Reads and writes the records. Every method raises redis.RedisError when Redis cannot be reached."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        """Take the client and the key prefix."""
        self._client, self._prefix = client, prefix

    async def version(self) -> int:
        """Return a number that grows with each change."""
        return int(await self._client.get(keys.access_version(self._prefix)) or 0)

    async def read(self) -> Access:
        """Return all of it. What changes meanwhile has a later version."""
        version = await self.version()
        tenants: Any = await self._client.hgetall(keys.tenants(self._prefix))
        api_keys: Any = await self._client.hgetall(keys.api_keys(self._prefix))
        texts = {(Tenant.KIND, name.decode()): text.decode() for name, text in tenants.items()}
        texts |= {(ApiKey.KIND, key_id.decode()): text.decode() for key_id, text in api_keys.items()}
        return Access(
            version,
            {name: Tenant.of(name, text) for (kind, name), text in texts.items() if kind == Tenant.KIND},
            {key_id: ApiKey.of(key_id, text) for (kind, key_id), text in texts.items() if kind == ApiKey.KIND},
            texts,
        )

    async def change(self, seen: Access, one: Tenant | ApiKey, *, delete: bool = False) -> None:
        """Write or delete a record, which is created unless it was `seen`.

        Raises:
            ChangedError: ``changed`` since it was read, ``no_tenant`` for an API key of a tenant that there is not,
                ``in_use`` for a tenant that has API keys.

        """
        call = _CHANGE.of(
            prefix=self._prefix,
            kind=one.KIND,
            id=one.id,
            before=seen.texts.get((one.KIND, one.id), False),
            after=False if delete else one.text(),
            tenant=one.tenant if isinstance(one, ApiKey) else "",
        )
        outcome = (await call.run_async(self._client)).decode()
        if outcome != "done":
            raise ChangedError(outcome)

    async def used_at(self, ids: Iterable[str]) -> dict[str, int]:
        """Return when API keys were last used (ms); those that were are in it."""
        wanted = list(ids)
        if not wanted:
            return {}
        found: Any = await self._client.hmget(keys.api_keys_used(self._prefix), wanted)
        return {key_id: int(value) for key_id, value in zip(wanted, found, strict=True) if value is not None}

    async def note_use(self, used_at: Mapping[str, int]) -> None:
        """Note when API keys were used (ms)."""
        mapping: Any = dict(used_at)
        await self._client.hset(keys.api_keys_used(self._prefix), mapping=mapping)


def _text(record: Tenant | ApiKey, name: str) -> str:
    """Return a record as JSON, without what it is known by."""
    fields = dataclasses.asdict(record)
    del fields[name]
    return json.dumps(fields)
