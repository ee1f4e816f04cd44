"""When the occurrences of a schedule are, as pure functions of time.

An occurrence is a moment in UTC. A local time that daylight saving skips is an occurrence at the next valid minute; one
that it doubles is one occurrence, but an expression that is for every hour is for both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = 5
# As cron(8) of Debian and others have them.
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_SPACES = re.compile(r"[ \t]+")


class TimingError(ValueError):
    """A schedule's time cannot be read, or never comes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A cron expression of five fields in a time zone, or each so many seconds, within bounds.

    Intervals count from `starts_at`, without one from the epoch: all who look agree on them.
    """

    cron: str = ""
    every_seconds: int = 0
    time_zone: str = "UTC"
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the occurrences after a moment, the first one first.

        Raises:
            TimingError: when the expression or the zone cannot be read.

        """
        if self.starts_at is not None:
            # One at the very start counts.
            moment = max(moment, self.starts_at - timedelta(microseconds=1))
        for occurrence in self._intervals(moment) if self.every_seconds else self._by_cron(moment):
            if self.ends_at is not None and occurrence > self.ends_at:
                return
            yield occurrence

    def description(self) -> str:
        """Return it in words.

        Raises:
            TimingError: when the expression cannot be read.

        """
        if self.every_seconds:
            return "Every second" if self.every_seconds == 1 else f"Every {self.every_seconds:,} seconds"
        text: str = self._cron(datetime.now(UTC)).explain()
        return text if self.time_zone == "UTC" else f"{text} ({self.time_zone})"

    def _intervals(self, moment: datetime) -> Iterator[datetime]:
        anchor = self.starts_at or datetime.fromtimestamp(0, UTC)
        step = timedelta(seconds=self.every_seconds)
        number = (moment - anchor) // step + 1
        while True:
            yield anchor + number * step
            number += 1

    def _by_cron(self, moment: datetime) -> Iterator[datetime]:
        try:
            for occurrence in self._cron(moment):
                yield occurrence.astimezone(UTC)
        except CronSimError as error:
            raise TimingError(str(error)) from None

    def _cron(self, moment: datetime) -> CronSim:
        expression = ALIASES.get(self.cron, self.cron).strip()
        if len(_SPACES.split(expression)) != FIELDS:
            message = "a cron expression has five fields, or is one of " + ", ".join(ALIASES)
            raise TimingError(message)
        try:
            return CronSim(expression, moment.astimezone(zone(self.time_zone)))
        except CronSimError as error:
            raise TimingError(str(error)) from None


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its name.

    Raises:
        TimingError: when there is none of this name.

    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = "is not the name of a time zone, like Europe/Berlin"
        raise TimingError(message) from None
