"""What is done with tasks for a caller: accept one, find one, cancel one."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from gateway import dependencies
from gateway.dispatch import new_task_id
from gateway.intake import idempotency
from gateway.problems import Problem, blobs_unavailable
from gateway.tasks import views
from offload_core import blobs, keys, records
from offload_core.records import STATES
from offload_core.task_store import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fastapi import Request

    from gateway.auth import Caller
    from gateway.dependencies import Dependencies
    from gateway.dispatch import Accepted
    from gateway.intake.fields import TaskRequest
    from gateway.tasks.schemas import TaskFilter
    from offload_core.messages import NewStep, Stage


async def accept_json(
    request: Request,
    caller: Caller,
    kind: str,
    stages: Sequence[NewStep | Stage],
    options: TaskRequest,
    **fields: str | int | None,
) -> JSONResponse:
    """Accept the task that a JSON body asked for, and answer 202. `fields` are the record's.

    Raises:
        Problem: what `Admission.check` and `Dispatcher.accept` refuse.

    """
    deps = dependencies.of(request)
    key = idempotency.key_of(request.headers)
    deps.admission.check(caller, key)
    accepted = await deps.dispatcher.accept(
        caller,
        kind,
        stages,
        options,
        task_id=new_task_id(),
        idempotency_key=key,
        fingerprint=idempotency.fingerprint("POST", request.url.path, options) if key else "",
        **fields,
    )
    return answer(deps, accepted, kind)


def answer(deps: Dependencies, accepted: Accepted, kind: str) -> JSONResponse:
    """Return the 202 of a task that was accepted, now or before."""
    url = views.status_url(accepted.task_id)
    headers = idempotency.created_headers(url, is_replayed=accepted.replayed)
    if not accepted.replayed:
        deps.metrics.accepted.labels(kind).inc()
    return JSONResponse({"task_id": accepted.task_id, "status_url": url}, HTTPStatus.ACCEPTED, headers)


async def find(deps: Dependencies, caller: Caller, task_id: str) -> records.Record | records.Ended:
    """Return a task of this caller's, or what is left of it.

    Raises:
        Problem: 404 ``task.not_found`` for what is not there, or is another key's.

    """
    found = await read(deps, task_id)
    if found is None or (found.owner != caller.tenant and not caller.is_operator):
        raise not_found()
    return found


async def read(deps: Dependencies, task_id: str) -> records.Record | records.Ended | None:
    """Return a task, or what is left of it; None for what is not there.

    The id of any step of an adopted application's chain leads to the chain.
    """
    client, prefix = deps.redis, deps.settings.key_prefix
    found: records.Record | records.Ended | None = records.decode(
        task_id, await client.hgetall(keys.record(prefix, task_id))
    )
    if found is None:
        found = records.decode_ended(task_id, await client.hgetall(keys.ended(prefix, task_id)))
    of_chain: Any = await client.get(keys.step(prefix, task_id)) if found is None else None
    if of_chain is not None:
        root_id = keys.adopted_step(task_id, of_chain).task_id
        found = records.decode(root_id, await client.hgetall(keys.record(prefix, root_id)))
    return found


def wanted(query: TaskFilter, caller: Caller) -> Wanted:
    """Return which tasks a caller asks for: its own, or for operators those of any tenant."""

    def milliseconds(moment: datetime | None) -> int:
        return max(round(moment.timestamp() * 1000), 1) if moment else 0

    return Wanted(
        owner=(query.tenant or "") if caller.is_operator else caller.tenant,
        states=tuple(dict.fromkeys(query.state.split(","))) if query.state else STATES,
        after=milliseconds(query.created_after),
        before=milliseconds(query.created_before),
        task=query.task or "",
        queue=query.queue or "",
        error_code=query.error_code or "",
        trace_id=query.trace_id or "",
        batch=query.batch or "",
        schedule=query.schedule or "",
        tags=tuple(tuple(one.split(",")) for one in query.tag),
    )


async def cancel(deps: Dependencies, caller: Caller, task_id: str) -> bool:
    """Cancel a task; returns whether it has ended with that, and False where it ends with the step that runs.

    Raises:
        Problem: 404 ``task.not_found``, 409 ``task.finished``.

    """
    found = await find(deps, caller, task_id)
    if isinstance(found, records.Ended):
        raise _finished()
    outcome = (await deps.tasks.cancel(found.task_id).run_async(deps.redis)).decode()
    if outcome == "record.missing":
        raise not_found()
    if outcome == "finished":
        raise _finished()
    has_ended: bool = outcome == "revoked"
    return has_ended


async def erase(deps: Dependencies, caller: Caller, task_id: str) -> None:
    """Erase what a task that has ended was given, and what it gave; files first, so that it can be asked for again.

    Raises:
        Problem: 404 ``task.not_found``, 409 ``task.not_finished``, 503 ``blobs.unavailable``.

    """
    found = await find(deps, caller, task_id)
    if isinstance(found, records.Record) and found.state not in records.TERMINAL:
        raise _not_finished()

    try:
        await asyncio.to_thread(deps.blobs.delete_files_of, found.task_id)
    except blobs.BlobError:
        raise blobs_unavailable() from None
    # Of a record that has expired nothing is left but the files.
    if isinstance(found, records.Record):
        outcome = await deps.tasks.erase(found.task_id).run_async(deps.redis)
        if outcome == b"task.not_finished":
            # It was redriven a moment ago.
            raise _not_finished()


def _not_finished() -> Problem:
    return Problem(HTTPStatus.CONFLICT, "task.not_finished", "the task has not ended: cancel it first")


def not_found() -> Problem:
    """Return the problem of a task that is not there."""
    return Problem(HTTPStatus.NOT_FOUND, "task.not_found", "there is no such task")


def _finished() -> Problem:
    return Problem(HTTPStatus.CONFLICT, "task.finished", "the task has ended already")
