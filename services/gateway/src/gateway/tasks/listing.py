"""The list of tasks: which are wanted, found piece by piece, a page at a time."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.tasks.views import status_url
from gateway.timestamps import rfc3339
from offload_core.task_store import Found, Place, Wanted

if TYPE_CHECKING:
    import redis.asyncio

    from offload_core.task_store import TaskStore

# One request looks at so many tasks, for so long; then its page is short, and `next` goes on. One script looks at few
# enough that nobody else waits for Redis meanwhile.
EXAMINED_LIMIT = 10_000
EXAMINED_SECONDS = 0.04
EXAMINED_AT_ONCE = 250
FIELDS = (
    "kind", "state", "owner", "reason", "created_at", "due_at", "finished_at", "cancel_requested", "user_id",
    "trace_id", "parent_task_id", "batch", "schedule", "tags", "metadata", "steps",
)  # fmt: skip


class Page(NamedTuple):
    """Tasks, the newest first, and the places from which to go on; None where there is nothing more."""

    rows: list[dict[str, Any]]
    older: Place | None
    newer: Place | None


async def page(
    client: redis.asyncio.Redis, store: TaskStore, wanted: Wanted, *, limit: int, place: Place | None, newer: bool
) -> Page:
    """Return one page of the tasks that are wanted.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    rows: list[tuple[str, list[str | None]]] = []
    begun, examined, first = time.monotonic(), 0, place
    while True:
        call = store.find(wanted, FIELDS, limit=limit - len(rows), examine=EXAMINED_AT_ONCE, place=place, newer=newer)
        found = Found.of(await call.run_async(client))
        rows += found.rows
        examined += found.examined
        place = found.place
        is_over = examined >= EXAMINED_LIMIT or time.monotonic() - begun > EXAMINED_SECONDS
        if found.is_end or len(rows) == limit or is_over:
            break
    last = None if found.is_end else place
    shown = [_row(*row) for row in (reversed(rows) if newer else rows)]
    if newer:
        # What is older than this page is known to be there: its cursor came from it.
        return Page(shown, _place(rows[0]) if rows else first, last)
    return Page(shown, last, (_place(rows[0]) if rows else first) if first else None)


def _place(row: tuple[str, list[str | None]]) -> Place:
    return Place(int(row[1][FIELDS.index("created_at")] or 0), row[0])


def _row(task_id: str, values: list[str | None]) -> dict[str, Any]:
    found = dict(zip(FIELDS, values, strict=True))
    steps = json.loads(found["steps"] or "[]")

    def moment(name: str) -> str | None:
        value = found[name]
        return rfc3339(int(value)) if value else None

    return {
        "task_id": task_id,
        "kind": found["kind"],
        "task": steps[0]["name"],
        "queue": steps[0]["queue"],
        "step_count": len(steps),
        "state": found["state"],
        "reason": found["reason"],
        "created_at": moment("created_at"),
        "due_at": moment("due_at"),
        "finished_at": moment("finished_at"),
        "tags": json.loads(found["tags"] or "[]"),
        "metadata": json.loads(found["metadata"] or "null"),
        "cancel_requested": found["cancel_requested"] is not None,
        "user_id": found["user_id"],
        "trace_id": found["trace_id"],
        "parent_task_id": found["parent_task_id"],
        "batch_id": found["batch"],
        "schedule": found["schedule"],
        "tenant": found["owner"],
        "status_url": status_url(task_id),
    }
