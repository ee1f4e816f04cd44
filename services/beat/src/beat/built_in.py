"""The schedules that Offload itself needs: entries as those of tenants, which the settings create and change.

What an operator edits stays, and so does what was deleted. A setting that changes overrides what it says, and nothing
else: what the settings said last is kept, and compared with what they say now.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from offload_contracts.maintenance import CHECK_HEALTH, CLEAN_UP, REPORT_DAILY, CleanUp, HealthCheck, Report
from offload_core import keys, schedules
from offload_core.schedules import MAINTENANCE, OURS, Definition, Schedule, Template
from offload_core.settings import SettingsError
from offload_core.timing import TimingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import redis
    from pydantic import BaseModel

    from beat.settings import BeatSettings
    from offload_contracts.contract import TaskContract
    from offload_core.task_store import TaskStore

logger = logging.getLogger(__name__)

# Of an owner; nobody makes so many of ours.
LIMIT = 1_000


def definitions(settings: BeatSettings, now: datetime) -> dict[str, Definition]:
    """Return what the settings ask for, by name.

    Raises:
        SettingsError: for an expression that cannot be read, or that never comes true.

    """
    zone, report = settings.time_zone, Report(recipients=settings.report_recipients)
    grace = settings.clean_up_grace_seconds
    found = {
        # One that is missed is not made up for.
        "health": _definition(
            CHECK_HEALTH, HealthCheck(), every_seconds=settings.health_interval_seconds, catch_up_seconds=0
        ),
        "daily-report": _definition(
            REPORT_DAILY,
            report,
            cron=settings.report_cron,
            time_zone=zone,
            catch_up_seconds=settings.report_grace_seconds,
        ),
        "nightly-clean-up": _definition(
            CLEAN_UP, CleanUp(), cron=settings.nightly_clean_up_cron, time_zone=zone, catch_up_seconds=grace
        ),
        "weekly-clean-up": _definition(
            CLEAN_UP,
            CleanUp(thorough=True),
            cron=settings.weekly_clean_up_cron,
            time_zone=zone,
            catch_up_seconds=grace,
        ),
    }
    for name, definition in found.items():
        is_ever = False
        try:
            with contextlib.suppress(OverflowError):
                is_ever = next(definition.timing.after(now), None) is not None
        except TimingError as error:
            message = f"the schedule {name}: {definition.cron!r}: {error}"
            raise SettingsError(message) from None
        if not is_ever:
            message = f"the schedule {name}: {definition.cron!r} never comes true"
            raise SettingsError(message)
    return found


def _definition[M: BaseModel](contract: TaskContract[M, Any], message: M, **given: Any) -> Definition:  # noqa: ANN401 -- the fields of a definition
    task = Template(contract.name, str(contract.queue), "", contract.encode(message), kind=MAINTENANCE)
    return Definition(task, overlap="allow", **given)


def configure(client: redis.Redis, tasks: TaskStore, wanted: Mapping[str, Definition], now_ms: int) -> None:
    """Create the schedules that are new, and change those whose settings have changed. Two beats may do it at once.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    for name, definition in wanted.items():
        try:
            _configure(client, tasks, name, definition, now_ms)
        except (ValueError, KeyError, TypeError):
            # One that cannot be read, as after a rollback, holds up none of the others.
            logger.exception("the schedule %s cannot be read, and stays as it is", name)


def _configure(client: redis.Redis, tasks: TaskStore, name: str, definition: Definition, now_ms: int) -> None:
    key, said = keys.configured_schedules(tasks.prefix), definition.as_text()
    last: Any = client.hget(key, name)
    if last is not None and last.decode() == said:
        return
    record: Any = client.hgetall(keys.schedule(tasks.prefix, OURS, name))
    found = Schedule.of(OURS, name, record)
    if found is None:
        since = now_ms if last is not None else _since(client, tasks, name, now_ms)
        schedule = Schedule.new(OURS, name, definition, now_ms, since=since)
    else:
        before = _flat(last.decode()) if last is not None else {}
        changes = {field: value for field, value in _flat(said).items() if before.get(field, ...) != value}
        edited = Definition.of(_nested(_flat(found.definition.as_text()) | changes))
        schedule = Schedule.new(OURS, name, edited, now_ms, is_paused=found.is_paused, note=found.note)
    call = schedules.put(
        tasks,
        schedule,
        if_match=found.revision if found else None,
        must_be_new=found is None,
        due=None if schedule.is_paused else schedule.next_due(schedule.since),
        limit=LIMIT,
    )
    outcome = call.run(client)[0].decode()
    logger.info("the schedule %s is as the settings have it now: %s", name, outcome)
    if outcome in {"created", "changed"}:
        client.hset(key, name, said)


def _since(client: redis.Redis, tasks: TaskStore, name: str, now_ms: int) -> int:
    """Return after which moment (ms) occurrences of a schedule that is new are run: from now on.

    A release before 0.3 has noted the last one that it ran: what was missed since then is caught up.
    """
    noted = client.hget(keys.occurrences(tasks.prefix), name)
    return min(int(noted), now_ms) if noted is not None else now_ms


def _flat(text: str) -> dict[str, Any]:
    """Return a definition's fields, with those of its task among them: each is compared by itself."""
    fields: dict[str, Any] = json.loads(text)
    task = fields.pop("task")
    return fields | {f"task.{name}": value for name, value in task.items()}


def _nested(fields: Mapping[str, Any]) -> str:
    """Return the definition of such fields, as a record has it."""
    task = {name.removeprefix("task."): value for name, value in fields.items() if name.startswith("task.")}
    return json.dumps({name: value for name, value in fields.items() if not name.startswith("task.")} | {"task": task})
