"""Endpoints of webhooks: what is kept of each, and what the scripts that write events read of it."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from offload_core import keys, signing
from offload_core.records import text_of
from offload_core.rotation import rotated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis.asyncio

# The owner of deliveries, which are tasks: that of Offload's own.
OWNER = "offload"
KIND = "webhook"
ID_PREFIX = "wh_"
# A longer result does not travel with its event.
RESULT_BYTES = 19_000
# Of each number in the id of a stream's entry.
MAX_ENTRY = 2**64 - 1
# So many endpoints are counted at a scrape.
COUNTED_LIMIT = 1_000
# Why an endpoint is disabled.
BY_OWNER, GONE, FAILING = "disabled_by_owner", "gone", "failing"


@dataclass(frozen=True, slots=True)
class Secret:
    """One that signs what is sent; until a time (ms) where it was replaced."""

    text: str
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom an owner wants to be told, of what, and how it went so far. Times are ms since the epoch."""

    id: str
    owner: str
    url: str
    created_at: int
    secrets: tuple[Secret, ...]
    signature: Literal["hmac", "ed25519"] = "hmac"
    events: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    description: str = ""
    rate_per_second: float | None = None
    retry_seconds: tuple[float, ...] | None = None
    disabled_at: int | None = None
    disabled_reason: str | None = None
    # Since when every attempt has failed.
    failing_since: int | None = None
    # The share of its rate that it gets: less after it has said that it is too much.
    share: float = 1.0

    @classmethod
    def of(cls, endpoint_id: str, found: Mapping[bytes, bytes]) -> Endpoint | None:
        """Return the endpoint of a hash in Redis; None where there is none."""
        if not found:
            return None
        text = text_of(found)
        fixed: dict[str, Any] = json.loads(text["endpoint"])
        return cls(
            id=endpoint_id,
            owner=text["owner"],
            created_at=int(text["created_at"]),
            secrets=tuple(Secret(*one) for one in json.loads(text["secrets"])),
            disabled_at=int(text["disabled_at"]) if "disabled_at" in text else None,
            disabled_reason=text.get("disabled_reason"),
            failing_since=int(text["failing_since"]) if "failing_since" in text else None,
            share=float(text.get("share", 1)),
            **_with_tuples(fixed),
        )

    def fields(self) -> dict[str, Any]:
        """Return what of it an owner decides, as the hash has it."""
        fixed = {
            "url": self.url, "signature": self.signature, "events": self.events, "tags": self.tags,
            "description": self.description, "rate_per_second": self.rate_per_second,
            "retry_seconds": self.retry_seconds,
        }  # fmt: skip
        return {
            "owner": self.owner,
            "created_at": str(self.created_at),
            "secrets": json.dumps([[one.text, one.expires_at] for one in self.secrets]),
            "endpoint": json.dumps(fixed),
        }

    def subscription(self) -> str:
        """Return what the scripts that write events read."""
        retry = {} if self.retry_seconds is None else {"retry": {"schedule": list(self.retry_seconds)}}
        return json.dumps({"events": self.events, "tags": self.tags} | retry)

    def signers(self, now_ms: int) -> list[signing.Signer]:
        """Return what signs a message now: the newest secret first, and those before it that still hold."""
        kind = signing.Hmac if self.signature == "hmac" else signing.Ed25519
        return [kind(one.text) for one in self.secrets if one.expires_at is None or one.expires_at > now_ms]

    def rotated(self, secret: str, grace_ms: int, now_ms: int) -> Endpoint:
        """Return it with a new secret; the ones before it sign for so long as well."""
        return replace(self, secrets=rotated(self.secrets, Secret(secret), grace_ms, now_ms))


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def new_id() -> str:
    """Return the id of a new endpoint."""
    return ID_PREFIX + secrets.token_hex(10)


def new_secret(signature: str) -> str:
    """Return a new secret for a kind of signature."""
    return signing.new_secret() if signature == "hmac" else signing.new_private_key()


def event_id(source: str, entry: str) -> str:
    """Return the `webhook-id` of an event: of the task or endpoint that it is of, and its id in that one's stream."""
    return f"evt_{entry.replace('-', '_')}_{source}"


def source_of(event: str) -> tuple[str, str] | None:
    """Return the source and the entry of an event's id; None where it is none."""
    prefix, _, rest = event.partition("_")
    milliseconds, _, rest = rest.partition("_")
    number, _, source = rest.partition("_")
    numbers = (milliseconds, number)
    if prefix != "evt" or not source or not all(one.isascii() and one.isdecimal() for one in numbers):
        return None
    if max(map(int, numbers)) > MAX_ENTRY:
        return None
    return source, f"{milliseconds}-{number}"


def with_result(data: str, results: Sequence[Any]) -> str:
    """Return what an event says with the results of a task's last steps, unless they are too long: as `states.lua`."""
    text = json.dumps(results[0] if len(results) == 1 else results)
    return data if len(text) > RESULT_BYTES else f'{data[:-1]}, "result": {text}}}'


async def counts(client: redis.asyncio.Redis, prefix: str) -> dict[str, int]:
    """Return how many endpoints of all owners, of the newest thousand, are `delivering`, `failing` or `disabled`."""
    newest: Any = await client.zrange(keys.webhooks(prefix, ""), 0, COUNTED_LIMIT - 1, desc=True)
    async with client.pipeline(transaction=False) as pipe:
        for member in newest:
            pipe.hmget(keys.webhook(prefix, member.decode()), ["disabled_at", "failing_since"])
        found = await pipe.execute() if newest else []
    states = ["disabled" if disabled else "failing" if failing else "delivering" for disabled, failing in found]
    return {name: states.count(name) for name in ("delivering", "failing", "disabled")}


async def read(client: redis.asyncio.Redis, prefix: str, endpoint_id: str) -> Endpoint | None:
    """Return an endpoint, or None."""
    found: Any = await client.hgetall(keys.webhook(prefix, endpoint_id))
    return Endpoint.of(endpoint_id, found)


async def write(client: redis.asyncio.Redis, prefix: str, endpoint: Endpoint) -> None:
    """Write an endpoint, and what it asks for."""
    key, asked = keys.webhook(prefix, endpoint.id), keys.subscriptions(prefix, endpoint.owner)
    async with client.pipeline(transaction=True) as pipe:
        fields: Any = endpoint.fields()
        pipe.hset(key, mapping=fields)
        if endpoint.failing_since is None:
            pipe.hdel(key, "failing_since")
        if endpoint.disabled_at is None:
            pipe.hdel(key, "disabled_at", "disabled_reason")
            pipe.hset(asked, endpoint.id, endpoint.subscription())
        else:
            disabled: Any = {"disabled_at": endpoint.disabled_at, "disabled_reason": endpoint.disabled_reason or ""}
            pipe.hset(key, mapping=disabled)
            pipe.hdel(asked, endpoint.id)
        for owner in ("", endpoint.owner):
            pipe.zadd(keys.webhooks(prefix, owner), {endpoint.id: endpoint.created_at})
        await pipe.execute()


async def delete(client: redis.asyncio.Redis, prefix: str, endpoint: Endpoint) -> None:
    """Delete an endpoint. What waits for it fails."""
    async with client.pipeline(transaction=True) as pipe:
        pipe.delete(keys.webhook(prefix, endpoint.id), keys.webhook_attempts(prefix, endpoint.id))
        pipe.hdel(keys.subscriptions(prefix, endpoint.owner), endpoint.id)
        for owner in ("", endpoint.owner):
            pipe.zrem(keys.webhooks(prefix, owner), endpoint.id)
        await pipe.execute()


def now_ms() -> int:
    """Return the time in ms since the epoch."""
    return round(time.time() * 1000)
