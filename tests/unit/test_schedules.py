"""Schedules: which occurrence is due, over daylight saving and absences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from beat.schedules import Cron, Every, Schedule, ScheduleError
from offload_contracts.maintenance import CHECK_HEALTH, HealthCheck
from offload_core.messages import NewStep

BERLIN = ZoneInfo("Europe/Berlin")
STEP = NewStep.of(CHECK_HEALTH, HealthCheck())
HOUR = timedelta(hours=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def schedule(when, grace: timedelta = HOUR) -> Schedule:
    return Schedule("x", when, STEP, grace)


def test_every_has_the_same_slots_for_everybody():
    every = Every(30)
    assert every.newest(at("2026-01-01T00:00:29Z"), HOUR) == at("2026-01-01T00:00:00Z")
    assert every.newest(at("2026-01-01T00:00:30Z"), HOUR) == at("2026-01-01T00:00:30Z")


def test_a_missed_occurrence_without_grace_is_not_caught_up():
    health = schedule(Every(30), timedelta())
    assert health.due(at("2026-01-01T00:00:31Z")) == at("2026-01-01T00:00:30Z")
    assert health.due(at("2026-01-01T00:00:44Z")) is None


def test_of_missed_slots_only_the_newest_is_due_within_the_grace():
    report = schedule(Cron("0 8 * * *", ZoneInfo("UTC")))
    assert report.due(at("2026-01-05T07:59:59Z")) is None
    assert report.due(at("2026-01-05T08:00:00Z")) == at("2026-01-05T08:00:00Z")
    assert report.due(at("2026-01-05T08:59:00Z")) == at("2026-01-05T08:00:00Z")
    assert report.due(at("2026-01-05T09:00:01Z")) is None
    often = schedule(Cron("*/10 * * * *", ZoneInfo("UTC")))
    assert often.due(at("2026-01-05T08:25:00Z")) == at("2026-01-05T08:20:00Z")


@pytest.mark.parametrize("bad", ["", "61 * * * *", "0 8 * *", "0 0 31 2 *", "x", "* * * * * * *"])
def test_an_expression_that_never_comes_true_is_refused(bad):
    with pytest.raises(ScheduleError):
        Cron(bad, BERLIN)


def test_a_slots_task_has_the_same_id_from_every_beat():
    assert schedule(Every(30)).task_id(at("2026-03-29T03:00:00+02:00")) == "x@20260329T010000Z"
