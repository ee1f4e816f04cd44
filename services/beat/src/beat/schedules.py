"""Schedules, as pure functions of time: which occurrence is the newest, and when is the next.

An occurrence is a moment in UTC. A local time that daylight saving skips is an occurrence at the next valid minute;
one that it doubles is one occurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo  # noqa: TC003 -- read at run time by whoever resolves the annotations

from offload_core.timing import Timing, TimingError

if TYPE_CHECKING:
    from offload_core.messages import NewStep


class ScheduleError(ValueError):
    """A schedule cannot be read."""


# An occurrence that is found this late was missed, where missed occurrences are not caught up: a tick takes a second.
PUNCTUAL = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Every:
    """An occurrence each so many seconds, counted from the epoch: two beats agree on them."""

    seconds: int

    def newest(self, now: datetime, _grace: timedelta) -> datetime | None:
        """Return the newest occurrence up to now."""
        return datetime.fromtimestamp(now.timestamp() // self.seconds * self.seconds, UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """Occurrences by a cron expression in a time zone."""

    expression: str
    zone: ZoneInfo

    def __post_init__(self) -> None:
        """Refuse an expression that cannot be read, or that never comes true.

        Raises:
            ScheduleError: with the expression.

        """
        try:
            next(self._timing.after(datetime.now(UTC)))
        except (TimingError, StopIteration):
            message = f"{self.expression!r} is not a cron expression that comes true"
            raise ScheduleError(message) from None

    @property
    def _timing(self) -> Timing:
        return Timing(cron=self.expression, time_zone=self.zone.key)

    def newest(self, now: datetime, grace: timedelta) -> datetime | None:
        """Return the newest occurrence up to now and within the grace, or None."""
        newest = None
        for occurrence in self._timing.after(now - grace - timedelta(minutes=1)):
            if occurrence > now:
                break
            newest = occurrence
        return newest


@dataclass(frozen=True, slots=True)
class Schedule:
    """One thing to be done again and again."""

    name: str
    when: Every | Cron
    step: NewStep
    # Of the occurrences missed while beat was down only the newest is caught up, and only within this.
    grace: timedelta

    @property
    def latest(self) -> timedelta:
        """How late an occurrence may be published at all."""
        return max(self.grace, PUNCTUAL)

    def due(self, now: datetime) -> datetime | None:
        """Return the occurrence that is to be published now, if it was not before; None when there is none."""
        occurrence = self.when.newest(now, self.latest)
        return occurrence if occurrence is not None and now - occurrence <= self.latest else None

    def task_id(self, occurrence: datetime) -> str:
        """Return the id of an occurrence's task: the same from every beat."""
        return f"{self.name}@{occurrence:%Y%m%dT%H%M%SZ}"
