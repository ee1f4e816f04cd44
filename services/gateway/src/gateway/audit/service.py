"""What operators and administrators have done: one entry of a stream for each, kept for 90 days."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.timestamps import rfc3339
from offload_core import keys
from offload_core.events import position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio

    from gateway.audit.schemas import AuditFilter

RETENTION_MS = 90 * 86_400_000
# So many entries are read at once, and looked at for one page at most.
READ_COUNT = 500
EXAMINED_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was done, or refused: `result` is the status of the answer."""

    actor: str
    key_prefix: str
    action: str
    resource_type: str
    resource_id: str
    ip: str
    user_agent: str
    trace_id: str
    result: int

    def text(self) -> str:
        """Return what the stream holds."""
        return json.dumps(dataclasses.asdict(self))


async def append(client: redis.asyncio.Redis, prefix: str, row: Row) -> None:
    """Write a row; what is older than 90 days goes.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    oldest = round(time.time() * 1000) - RETENTION_MS
    await client.xadd(keys.audit(prefix), {"row": row.text()}, minid=oldest, approximate=True)


async def newest(
    client: redis.asyncio.Redis, prefix: str, wanted: AuditFilter, limit: int, place: str | None, *, newer: bool
) -> tuple[list[tuple[dict[str, Any], list[str]]], bool]:
    """Return rows behind a place, the newest first, each with its own; and whether there are more beyond them.

    With `newer`, those before it. A page may be short where few rows are wanted: so many are looked at.
    """
    found: list[tuple[dict[str, Any], list[str]]] = []
    examined = 0
    while len(found) <= limit and examined < EXAMINED_LIMIT:
        entries = await _read(client, prefix, place, wanted, newer=newer)
        for entry_id, row in entries:
            place = entry_id
            if wanted.takes(row):
                found.append((row, [entry_id]))
        examined += len(entries)
        if len(entries) < READ_COUNT:
            break
    more = len(found) > limit
    found = found[:limit]
    return found[::-1] if newer else found, more


async def export(client: redis.asyncio.Redis, prefix: str, wanted: AuditFilter) -> AsyncIterator[bytes]:
    """Yield all wanted rows as lines of JSON, the oldest first."""
    place: str | None = None
    while True:
        entries = await _read(client, prefix, place, wanted, newer=True)
        lines = [json.dumps(row) for _, row in entries if wanted.takes(row)]
        if lines:
            yield ("\n".join(lines) + "\n").encode()
        if len(entries) < READ_COUNT:
            return
        place = entries[-1][0]


async def _read(
    client: redis.asyncio.Redis, prefix: str, place: str | None, wanted: AuditFilter, *, newer: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return entries behind a place, and within the time that is asked for."""
    first, last = wanted.bounds()
    key = keys.audit(prefix)
    entries: Any
    if newer:
        entries = await client.xrange(key, min=f"({place}" if place else first, max=last, count=READ_COUNT)
    else:
        entries = await client.xrevrange(key, max=f"({place}" if place else last, min=first, count=READ_COUNT)
    return [(entry_id.decode(), _row(entry_id.decode(), fields)) for entry_id, fields in entries]


def _row(entry_id: str, fields: dict[bytes, bytes]) -> dict[str, Any]:
    milliseconds, _ = position(entry_id)
    row: dict[str, Any] = json.loads(fields[b"row"])
    return {"at": rfc3339(milliseconds), **row}
