"""The catalogue: the task types that there are, as the workers that run them have registered them in Redis.

Each fleet has one hash, which it alone writes: ``catalogue:{fleet}``, a field for each version of each task type. The
hash ``catalogue`` says of each fleet when it wrote last. A fleet that is scaled to zero keeps its entries, until none
of its workers has been seen for 30 days.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from offload_core import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import redis

    from offload_contracts.contract import TaskContract

KEEP_MS = 30 * 86_400_000
# How often a worker says that it is there: what was deleted from Redis by mistake is back after so long.
REGISTER_SECONDS = 15.0
# A version that was seen within this has workers.
ALIVE_MS = 3 * round(REGISTER_SECONDS * 1000)


@dataclass(frozen=True, slots=True)
class TaskType:
    """One version of a task type. Times are milliseconds since the epoch, by the worker's clock."""

    name: str
    queue: str
    # The digest of both schemas: equal contracts have the same version, whoever registers them.
    version: str
    input_schema: dict[str, Any]
    result_schema: dict[str, Any]
    # Which program runs it, and in which fleet.
    service: str
    fleet: str
    # What happens when it fails: `Policy.as_entry` of offload-worker.
    retry: dict[str, Any] = field(default_factory=dict)
    is_internal: bool = False
    # When a worker last started with this version, and when one was last there.
    registered_at: int = 0
    last_seen_at: int = 0

    @classmethod
    def of(
        cls, contract: TaskContract[Any, Any], *, service: str, fleet: str, retry: Mapping[str, Any] | None = None
    ) -> TaskType:
        """Return the task type of a contract."""
        schemas = _schemas(contract)
        now = round(time.time() * 1000)
        return cls(
            contract.name, str(contract.queue), _digest(schemas), *schemas, service, fleet,
            dict(retry or {}), contract.is_internal, now, now,
        )  # fmt: skip

    @property
    def field(self) -> str:
        """The field of its fleet's hash."""
        return f"{self.name}:{self.version}"


def version_of(contract: TaskContract[Any, Any]) -> str:
    """Return the version of a contract: a digest of the schemas of its message and its result."""
    return _digest(_schemas(contract))


def _schemas(contract: TaskContract[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON Schemas of a contract's message and of its result."""
    return contract.message.model_json_schema(), contract.result.model_json_schema(mode="serialization")


def _digest(schemas: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()[:12]


def register(client: redis.Redis, prefix: str, fleet: str, task_types: Iterable[TaskType]) -> None:
    """Write a fleet's task types, as seen now. What nobody has registered for 30 days goes.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    now, key = round(time.time() * 1000), keys.catalogue(prefix, fleet)
    known: Any = client.hgetall(key)
    forgotten = [name for name, text in known.items() if now - json.loads(text)["last_seen_at"] > KEEP_MS]
    entries = {one.field: json.dumps(asdict(one) | {"last_seen_at": now}) for one in task_types}
    with client.pipeline(transaction=False) as pipe:
        if forgotten:
            pipe.hdel(key, *forgotten)
        pipe.hset(key, mapping=entries)  # type: ignore[arg-type]  # a mapping of strings is one
        pipe.pexpire(key, KEEP_MS)
        pipe.hset(keys.catalogue(prefix), fleet, now)
        pipe.execute()


def decode(raw: Mapping[bytes, bytes], now_ms: int) -> list[TaskType]:
    """Return the task types of a fleet's hash as Redis gives it, but those that nobody has registered for 30 days."""
    # What a newer worker says beside is nothing that we know.
    known = {one.name for one in fields(TaskType)}
    entries = [json.loads(text) for text in raw.values()]
    found = [TaskType(**{name: value for name, value in entry.items() if name in known}) for entry in entries]
    return [one for one in found if now_ms - one.last_seen_at <= KEEP_MS]
