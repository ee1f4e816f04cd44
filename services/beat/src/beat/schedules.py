"""Schedules, as pure functions of time: which slot is the newest, and when is the next.

A slot is a moment in UTC. A local time that daylight saving skips is a slot at the next valid minute; one that it
doubles is one slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo  # noqa: TC003 -- read at run time by whoever resolves the annotations

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload_core.messages import ChainStep


class ScheduleError(ValueError):
    """A schedule cannot be read."""


# A slot that is found this late was missed, where missed slots are not caught up: a tick takes a second.
PUNCTUAL = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Every:
    """A slot each so many seconds, counted from the epoch: two beats agree on them."""

    seconds: int

    def newest(self, now: datetime, _grace: timedelta) -> datetime | None:
        """Return the newest slot up to now."""
        return datetime.fromtimestamp(now.timestamp() // self.seconds * self.seconds, UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """Slots by a cron expression in a time zone."""

    expression: str
    zone: ZoneInfo

    def __post_init__(self) -> None:
        """Refuse an expression that cannot be read, or that never comes true.

        Raises:
            ScheduleError: with the expression.

        """
        try:
            next(self._slots(datetime.now(UTC)))
        except (CronSimError, StopIteration):
            message = f"{self.expression!r} is not a cron expression that comes true"
            raise ScheduleError(message) from None

    def newest(self, now: datetime, grace: timedelta) -> datetime | None:
        """Return the newest slot up to now and within the grace, or None."""
        newest = None
        for slot in self._slots(now - grace - timedelta(minutes=1)):
            if slot > now:
                break
            newest = slot
        return newest

    def _slots(self, after: datetime) -> Iterator[datetime]:
        for slot in CronSim(self.expression, after.astimezone(self.zone)):
            yield slot.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One thing to be done again and again."""

    name: str
    when: Every | Cron
    step: ChainStep
    # Of the slots missed while beat was down only the newest is caught up, and only within this.
    grace: timedelta

    @property
    def latest(self) -> timedelta:
        """How late a slot may be published at all."""
        return max(self.grace, PUNCTUAL)

    def due(self, now: datetime) -> datetime | None:
        """Return the slot that is to be published now, if it was not before; None when there is none."""
        slot = self.when.newest(now, self.latest)
        return slot if slot is not None and now - slot <= self.latest else None

    def task_id(self, slot: datetime) -> str:
        """Return the id of a slot's task: the same from every beat."""
        return f"{self.name}@{slot:%Y%m%dT%H%M%SZ}"
