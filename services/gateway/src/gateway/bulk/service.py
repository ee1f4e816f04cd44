"""What is done with bulk operations."""

from __future__ import annotations

import dataclasses
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway.bulk.schemas import BulkOfFilter
from gateway.intake import idempotency
from gateway.problems import Problem
from gateway.tasks.service import wanted
from gateway.timestamps import rfc3339
from offload_contracts.maintenance import RUN_BULK, RunBulk
from offload_core import bulk, keys
from offload_core.bulk import Bulk
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import Wanted

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.bulk.schemas import BulkOfThese
    from gateway.dependencies import Dependencies
    from gateway.intake.idempotency import Key

# The task that does it is Offload's own.
OWNER, KIND = "offload", "bulk"
_PUBLISHER = Publisher("gateway")


async def begin(
    deps: Dependencies, caller: Caller, asked: BulkOfThese | BulkOfFilter, key: Key | None, fingerprint: str
) -> tuple[Bulk, bool]:
    """Begin an operation; returns it, and whether an earlier request with the same key has done so.

    Raises:
        Problem: 409 ``bulk.limit``, 422 ``idempotency.conflict``.

    """
    client, prefix, now = deps.redis, deps.settings.key_prefix, round(time.time() * 1000)
    new = _bulk(caller, asked, now)
    known = await idempotency.claim(client, prefix, caller.tenant, key, fingerprint, new.id)
    if known is not None:
        earlier = await read(deps, known)
        if earlier is not None:
            return earlier, True
        # It died between the claim and the operation.
        new = dataclasses.replace(new, id=known)
    if not await new.begin(prefix).run_async(client):
        raise Problem(HTTPStatus.CONFLICT, "bulk.limit", f"{bulk.RUNNING_LIMIT} bulk operations are under way already")
    step = NewStep.of(RUN_BULK, RunBulk(bulk_id=new.id))
    with _PUBLISHER.publishing(new.id, KIND, OWNER, [step]) as task:
        await deps.tasks.accept(task).run_async(client)
    return new, False


async def find(deps: Dependencies, bulk_id: str) -> Bulk:
    """Return an operation.

    Raises:
        Problem: 404 ``bulk.not_found``.

    """
    found = await read(deps, bulk_id)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "bulk.not_found", "there is no such bulk operation")
    return found


async def read(deps: Dependencies, bulk_id: str) -> Bulk | None:
    """Return an operation, or None."""
    found: Any = await deps.redis.hgetall(keys.bulk(deps.settings.key_prefix, bulk_id))
    return Bulk.of(bulk_id, found)


async def abort(deps: Dependencies, asked: Bulk) -> Bulk:
    """Have an operation stop after the piece that it is at; one that has ended stays as it is."""
    if asked.finished_at is None:
        await deps.redis.hset(keys.bulk(deps.settings.key_prefix, asked.id), "abort_requested", "1")
    return await find(deps, asked.id)


def view(found: Bulk) -> dict[str, Any]:
    """Return an operation as the API shows it."""
    return {
        "id": found.id,
        "action": found.action,
        "dry_run": found.dry_run,
        "state": found.state,
        "matched": found.matched,
        "done": found.done,
        "skipped": found.skipped,
        "abort_requested": found.abort_requested,
        "actor": found.actor,
        "created_at": rfc3339(found.created_at),
        "finished_at": rfc3339(found.finished_at),
    }


def _bulk(caller: Caller, asked: BulkOfThese | BulkOfFilter, now: int) -> Bulk:
    found, task_ids = Wanted(owner=""), None
    if isinstance(asked, BulkOfFilter):
        found = wanted(asked.filter, caller)
        if asked.filter.state is None:
            found = dataclasses.replace(found, states=bulk.STATES[asked.action])
    else:
        task_ids = asked.ids
    # Frozen: not what comes after it.
    before = min(found.before, now + 1) if found.before else now + 1
    return Bulk(
        id=f"bulk_{secrets.token_hex(10)}",
        action=asked.action,
        actor=caller.tenant,
        dry_run=asked.dry_run,
        created_at=now,
        wanted=dataclasses.replace(found, before=before),
        task_ids=task_ids,
    )
