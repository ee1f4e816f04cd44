"""Runs schedules, which are in Redis: what is due of them is published, each occurrence once."""

from __future__ import annotations

import dataclasses
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from offload_core import keys, schedules
from offload_core.redis_client import time_of
from offload_core.schedules import Look, Schedule, milliseconds

if TYPE_CHECKING:
    import redis

    from offload_core.publisher import Publisher
    from offload_core.records import NewTask
    from offload_core.task_store import Call, TaskStore

logger = logging.getLogger(__name__)

# So many are read at once; one look goes on for so long, and the next one where it has ended.
READ_AT_ONCE = 100
LOOK_SECONDS = 5.0
# Of one that cannot be read.
PAUSE_MS = 60_000
# A clock that is set by less is as good as right.
CLOCK_MS = 5_000


class Runner:
    """Looks at the schedules that are due. It knows nothing by itself: two may look at once, and either may die."""

    def __init__(self, client: redis.Redis, tasks: TaskStore, publisher: Publisher) -> None:
        """Take what it stands on; nothing is read yet."""
        self._client, self._tasks, self._publisher = client, tasks, publisher
        self._key = keys.schedules(tasks.prefix)
        # By how much Redis's clock is ahead of this machine's: it is asked once for many schedules.
        self._ahead = timedelta()
        self._clock_ahead = metrics.get_meter("offload").create_counter(
            "offload.beat.clock_ahead", description="How often beat has found that Redis's clock had been ahead"
        )
        self._lag = metrics.get_meter("offload").create_histogram(
            "offload.schedule.lag", unit="s", description="How late occurrences of schedules are published"
        )

    def look(self) -> float:
        """Publish what is due; returns the seconds until there is more.

        Raises:
            redis.RedisError: when Redis cannot be reached.

        """
        ends_at = time.monotonic() + LOOK_SECONDS
        self._note_clock()
        is_full = True
        while is_full and time.monotonic() < ends_at:
            self._ask_for_time()
            now = self._now()
            due: Any = self._client.zrangebyscore(self._key, 0, milliseconds(now), start=0, num=READ_AT_ONCE)
            is_full = len(due) == READ_AT_ONCE
            members = [schedules.owner_and_name(member.decode()) for member in due]
            with self._client.pipeline(transaction=False) as pipe:
                for owner, name in members:
                    pipe.hgetall(keys.schedule(self._tasks.prefix, owner, name))
                records = pipe.execute() if members else []
            for (owner, name), record in zip(members, records, strict=True):
                try:
                    self._look_at(owner, name, record, now)
                except (ValueError, KeyError, TypeError):
                    # One that cannot be read holds up none of the others.
                    logger.exception("the schedule %s of %s cannot be read; trying again in a minute", name, owner)
                    self._client.zadd(self._key, {f"{owner}:{name}": milliseconds(now) + PAUSE_MS}, xx=True)
        first: Any = self._client.zrange(self._key, 0, 0, withscores=True)
        return max(first[0][1] / 1000 - self._now().timestamp(), 0) if first else LOOK_SECONDS

    def _note_clock(self) -> None:
        """Look at every schedule where Redis's clock was ahead: they are due in a future that it has left."""
        self._ask_for_time()
        now, key = milliseconds(self._now()), keys.clock(self._tasks.prefix)
        noted: Any = self._client.set(key, now, get=True)
        if noted is None or int(noted) <= now + CLOCK_MS:
            return
        logger.warning(
            "Redis's clock was ahead by %.0f s: schedules go on by it as it is now", (int(noted) - now) / 1000
        )
        self._clock_ahead.add(1)
        place = 0
        while True:
            page: Any = self._client.zrange(self._key, place, place + READ_AT_ONCE - 1)
            if not page:
                return
            self._client.zadd(self._key, dict.fromkeys(page, now), xx=True, lt=True)
            place += len(page)

    def _look_at(self, owner: str, name: str, record: dict[bytes, bytes], now: datetime) -> None:
        schedule = Schedule.of(owner, name, record)
        if schedule is None or schedule.is_paused:
            self._client.zrem(self._key, f"{owner}:{name}")
            return
        found = schedule.look(now)
        if not found.occurrences:
            self._run(
                schedules.occur(self._tasks, schedule, None, None, look=found, due=schedule.next_due(found.since))
            )
            schedule = dataclasses.replace(schedule, since=found.since)
        for occurrence in found.occurrences:
            outcome = self._occur(schedule, occurrence, found)
            logger.info("schedule %s of %s: %s %s", name, owner, schedule.task_id(occurrence), outcome)
            if outcome == "changed":
                return
            schedule, found = dataclasses.replace(schedule, since=occurrence), Look(0, occurrence, ())
        if schedule.buffer:
            waiting = schedule.buffer[0]
            call = schedules.occur(
                self._tasks,
                schedule,
                self._task(schedule, waiting),
                waiting,
                look=Look(0, schedule.since, ()),
                due=schedule.next_due(schedule.since),
                is_buffered=True,
            )
            self._run(call)

    def _occur(self, schedule: Schedule, occurrence: int, found: Look) -> str:
        task, due = self._task(schedule, occurrence), schedule.next_due(occurrence)
        outcome = self._run(schedules.occur(self._tasks, schedule, task, occurrence, look=found, due=due))
        was_due = schedule.due(datetime.fromtimestamp(occurrence / 1000, UTC))
        self._lag.record(max((self._now() - was_due).total_seconds(), 0))
        return outcome

    def _task(self, schedule: Schedule, occurrence: int) -> NewTask:
        return schedule.new_task(self._publisher, schedule.task_id(occurrence), milliseconds(self._now()))

    def _run(self, call: Call) -> str:
        outcome: str = call.run(self._client).decode()
        return outcome

    def _ask_for_time(self) -> None:
        self._ahead = time_of(self._client) - datetime.now(UTC)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._ahead
