"""What is done with schedules."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from gateway import paging
from gateway.dispatch import headers_of
from gateway.problems import Problem, invalid_fields
from gateway.schedules.schemas import MAX_BACKFILL
from gateway.timestamps import rfc3339
from offload_core import keys, schedules, timing
from offload_core.messages import PRIVATE
from offload_core.private import redacted
from offload_core.publisher import Publisher
from offload_core.schedules import KIND, MAINTENANCE, OURS, Definition, Schedule, Template, milliseconds

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.dependencies import Dependencies
    from gateway.dispatch import Accepted
    from gateway.intake.idempotency import Key
    from gateway.schedules.schemas import Backfill, NewSchedule, Preview
    from offload_core.timing import Timing

# Of a key.
MAX_SCHEDULES = 10_000
SHOWN_RUNS = 5
# What stands in its place in the paths of the API.
RESERVED_NAME = "preview"
_PUBLISHER = Publisher("gateway")


def owner(caller: Caller, tenant: str | None) -> str:
    """Return whose schedules are meant.

    Raises:
        Problem: 403 ``auth.scope`` when somebody else's are.

    """
    if tenant is not None and tenant != caller.tenant and not caller.is_operator:
        raise Problem(HTTPStatus.FORBIDDEN, "auth.scope", "tenant needs an API key with the scope operator")
    return tenant or caller.tenant


async def put(
    deps: Dependencies, owned_by: str, name: str, asked: NewSchedule, if_match: int | None, *, must_be_new: bool
) -> tuple[Schedule, bool]:
    """Write a schedule; returns it, and whether it is new.

    Raises:
        Problem: 409 ``schedule.limit``, 412 ``schedule.changed``, 422 ``schedule.never`` or what `check` refuses.

    """
    if name == RESERVED_NAME:
        raise invalid_fields({"name": f"{RESERVED_NAME} is reserved"})
    at = now(deps)
    is_ours = owned_by == OURS
    task_type = deps.catalogue.check(asked.task, asked.input, internal=is_ours)
    definition = Definition(
        task=Template(
            name=task_type.name,
            queue=task_type.queue,
            version=task_type.version,
            arguments=asked.input,
            headers=headers_of(asked),
            tags=asked.tags,
            metadata=asked.metadata,
            callback_url=asked.callback_url,
            expires_in_ms=round((asked.expires_in_seconds or 0) * 1000),
            retain_ms=None if is_ours else deps.settings.output_retention_ms,
            kind=MAINTENANCE if is_ours else KIND,
        ),
        cron=asked.cron or "",
        every_seconds=asked.every_seconds or 0,
        time_zone=asked.time_zone,
        starts_at=milliseconds(asked.starts_at) if asked.starts_at else None,
        ends_at=milliseconds(asked.ends_at) if asked.ends_at else None,
        max_runs=asked.max_runs,
        jitter_seconds=asked.jitter_seconds,
        overlap=asked.overlap,
        catch_up_seconds=asked.catch_up_seconds,
        catch_up=asked.catch_up,
        pause_on_failure=asked.pause_on_failure,
    )
    check(definition.timing, at)
    new = Schedule.new(owned_by, name, definition, at, is_paused=asked.paused, note=asked.note)
    call = schedules.put(
        deps.tasks, new, if_match=if_match, must_be_new=must_be_new, due=new.next_due(at), limit=MAX_SCHEDULES
    )
    outcome = (await call.run_async(deps.redis))[0].decode()
    if outcome == "mismatch":
        raise changed()
    if outcome == "limit":
        raise Problem(HTTPStatus.CONFLICT, "schedule.limit", f"a key may have {MAX_SCHEDULES:,} schedules")
    return await find(deps, owned_by, name), outcome == "created"


def check(timing_: Timing, at: int) -> list[datetime]:
    """Return the next occurrence of a time that can be read.

    Raises:
        Problem: 422 ``request.invalid`` for an expression or a zone that cannot be read, ``schedule.never`` where no
            occurrence comes.

    """
    try:
        timing.zone(timing_.time_zone)
    except timing.TimingError as error:
        raise invalid_fields({"time_zone": str(error)}) from None
    try:
        found = list(islice(timing_.after(datetime.fromtimestamp(at / 1000, UTC)), 1))
    except timing.TimingError as error:
        raise invalid_fields({"cron": str(error)}) from None
    except OverflowError:
        found = []
    if not found:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "schedule.never", "no occurrence ever comes")
    return found


async def find(deps: Dependencies, owned_by: str, name: str) -> Schedule:
    """Return a schedule.

    Raises:
        Problem: 404 ``schedule.not_found``.

    """
    found = await _read(deps, owned_by, name)
    if found is None:
        raise not_found()
    return found


async def newest(
    deps: Dependencies, owned_by: str, limit: int, place: list[Any] | None, *, newer: bool
) -> tuple[list[Schedule], bool]:
    """Return schedules of an owner (``""``: of all), the newest first, and whether there are more beyond them."""
    key = keys.schedules_of(deps.settings.key_prefix, owned_by)
    members, more = await paging.newest(deps.redis, key, limit, place, newer=newer)
    found = [await _read(deps, *schedules.owner_and_name(member)) for member in members]
    return [one for one in found if one is not None], more


async def pause(deps: Dependencies, schedule: Schedule, note: str | None) -> Schedule:
    """Pause a schedule."""
    call = schedules.pause(deps.tasks, schedule.owner, schedule.name, note=note)
    await call.run_async(deps.redis)
    return await find(deps, schedule.owner, schedule.name)


async def resume(deps: Dependencies, schedule: Schedule) -> Schedule:
    """Let a schedule go on with what comes from now on."""
    at = now(deps)
    call = schedules.resume(deps.tasks, schedule.owner, schedule.name, now=at, due=schedule.next_due(at))
    await call.run_async(deps.redis)
    return await find(deps, schedule.owner, schedule.name)


async def delete(deps: Dependencies, schedule: Schedule) -> None:
    """Delete a schedule; its tasks stay."""
    await schedules.delete(deps.tasks, schedule.owner, schedule.name).run_async(deps.redis)


async def trigger(
    deps: Dependencies, caller: Caller, schedule: Schedule, key: Key | None, fingerprint: str
) -> Accepted:
    """Run a schedule's task now, whatever else runs of it.

    Raises:
        Problem: those of accepting a task.

    """
    at = datetime.fromtimestamp(now(deps) / 1000, UTC)
    task_id = f"{schedule.key}@{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    ttl_ms = key.ttl_ms if key else None
    task = schedule.new_task(_PUBLISHER, task_id, milliseconds(at), idempotency_ttl_ms=ttl_ms)
    return await deps.dispatcher.put(caller, task, idempotency_key=key, fingerprint=fingerprint)


async def backfill(deps: Dependencies, caller: Caller, schedule: Schedule, asked: Backfill) -> list[str]:
    """Run occurrences of the past that have no task; returns the tasks of all of them.

    Sent again it runs none twice, as long as their tasks have records.

    Raises:
        Problem: 422 ``request.invalid`` for a span in the future, or of too many occurrences.

    """
    at = now(deps)
    if milliseconds(asked.to) > at:
        raise invalid_fields({"to": "must not be in the future"})
    begin = asked.from_ - timedelta(microseconds=1)
    span = takewhile(lambda one: one <= asked.to, schedule.definition.timing.after(begin))
    found = [milliseconds(one) for one in islice(span, MAX_BACKFILL + 1)]
    limit = schedules.BUFFER_LIMIT if asked.overlap == "buffer_all" else MAX_BACKFILL
    if len(found) > limit:
        raise invalid_fields({"from": f"there are more than {limit:,} occurrences since then"})
    if asked.overlap == "buffer_all":
        call = schedules.buffer(deps.tasks, schedule.owner, schedule.name, found)
        if not await call.run_async(deps.redis):
            raise Problem(HTTPStatus.CONFLICT, "schedule.buffer_full", "too many occurrences wait already")
    else:
        for occurrence in found:
            task = schedule.new_task(_PUBLISHER, schedule.task_id(occurrence), at)
            await deps.dispatcher.put(caller, task)
    return [schedule.task_id(occurrence) for occurrence in found]


def preview(asked: Preview, at: int) -> dict[str, Any]:
    """Return when something would be run.

    Raises:
        Problem: those of `check`.

    """
    timing_ = timing.Timing(asked.cron or "", asked.every_seconds or 0, asked.time_zone, asked.starts_at, asked.ends_at)
    check(timing_, at)
    found = islice(timing_.after(datetime.fromtimestamp(at / 1000, UTC)), asked.count)
    return {"description": timing_.description(), "next_runs": [rfc3339(milliseconds(one)) for one in found]}


def view(schedule: Schedule, at: int) -> dict[str, Any]:
    """Return a schedule as the API shows it."""
    definition, task = schedule.definition, schedule.definition.task
    is_idle = schedule.is_paused or schedule.finished_at is not None
    left = definition.max_runs - schedule.runs if definition.max_runs is not None else SHOWN_RUNS
    coming = islice(schedule.occurrences(at), 0 if is_idle else max(min(left, SHOWN_RUNS), 0))
    return {
        "name": schedule.name,
        "task": task.name,
        "input": redacted(task.arguments, task.headers.get(PRIVATE, ())),
        "cron": definition.cron or None,
        "every_seconds": definition.every_seconds or None,
        "time_zone": definition.time_zone,
        "starts_at": rfc3339(definition.starts_at),
        "ends_at": rfc3339(definition.ends_at),
        "max_runs": definition.max_runs,
        "jitter_seconds": definition.jitter_seconds,
        "overlap": definition.overlap,
        "catch_up_seconds": definition.catch_up_seconds,
        "catch_up": definition.catch_up,
        "pause_on_failure": definition.pause_on_failure,
        "paused": schedule.is_paused,
        "note": schedule.note,
        "tags": list(task.tags),
        "metadata": task.metadata,
        "retry": task.headers.get("retry"),
        "private": task.headers.get(PRIVATE, []),
        "callback_url": task.callback_url,
        "expires_in_seconds": task.expires_in_ms / 1000 if task.expires_in_ms else None,
        "description": definition.timing.description(),
        "next_runs": [rfc3339(milliseconds(one)) for one in coming],
        "last_run": {"occurrence": rfc3339(schedule.last_at), "task_id": schedule.last_task_id}
        if schedule.last_task_id
        else None,
        "waiting": len(schedule.buffer),
        "runs_total": schedule.runs,
        "skipped_total": schedule.skipped,
        "missed_total": schedule.missed,
        "finished_at": rfc3339(schedule.finished_at),
        "created_at": rfc3339(schedule.created_at),
        "updated_at": rfc3339(schedule.updated_at),
        "tenant": schedule.owner,
    }


def changed() -> Problem:
    """Return the problem of a schedule that is not what its client has seen."""
    return Problem(HTTPStatus.PRECONDITION_FAILED, "schedule.changed", "the schedule has changed: read it again")


def not_found() -> Problem:
    """Return the problem of a schedule that is not there."""
    return Problem(HTTPStatus.NOT_FOUND, "schedule.not_found", "there is no such schedule")


async def _read(deps: Dependencies, owned_by: str, name: str) -> Schedule | None:
    found: Any = await deps.redis.hgetall(keys.schedule(deps.settings.key_prefix, owned_by, name))
    return Schedule.of(owned_by, name, found)


def now(deps: Dependencies) -> int:
    """Return the time (ms) by Redis's clock, which beat goes by."""
    return milliseconds(deps.redis_watch.now())
