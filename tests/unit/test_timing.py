"""When occurrences are: over daylight saving in several zones, over bounds, and after an absence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from offload_core.schedules import LOOK_LIMIT, Definition, Schedule, Template, milliseconds
from offload_core.timing import Timing, TimingError

# By hand, from the tz database: the zone, the expression, a moment, and the next occurrences, all in UTC. A local time
# that is skipped comes at the next valid minute, one that is doubled comes once, and what is for every hour, in both.
CASES = [
    # Berlin: 2027-03-28 2:00 becomes 3:00; 2027-10-31 3:00 becomes 2:00.
    ("Europe/Berlin", "30 2 * * *", "2027-03-27T02:00", ["03-28T01:00", "03-29T00:30"]),
    ("Europe/Berlin", "0 2 * * *", "2027-03-27T02:00", ["03-28T01:00", "03-29T00:00"]),
    ("Europe/Berlin", "30 1 * * *", "2027-03-28T00:00", ["03-28T00:30", "03-28T23:30"]),
    ("Europe/Berlin", "30 3 * * *", "2027-03-27T03:00", ["03-28T01:30", "03-29T01:30"]),
    ("Europe/Berlin", "0 * * * *", "2027-03-27T23:30", ["03-28T00:00", "03-28T01:00", "03-28T02:00"]),
    ("Europe/Berlin", "30 2 * * *", "2027-10-30T02:00", ["10-31T00:30", "11-01T01:30"]),
    ("Europe/Berlin", "0 * * * *", "2027-10-30T23:30", ["10-31T00:00", "10-31T01:00", "10-31T02:00"]),
    ("Europe/Berlin", "*/30 * * * *", "2027-10-31T00:00", ["10-31T00:30", "10-31T01:00", "10-31T01:30"]),
    ("Europe/Berlin", "0 8 * * *", "2027-10-30T07:00", ["10-31T07:00", "11-01T07:00"]),
    ("Europe/Berlin", "0 8 * * *", "2027-03-27T08:00", ["03-28T06:00", "03-29T06:00"]),
    # New York: 2027-03-14 2:00 becomes 3:00; 2027-11-07 2:00 becomes 1:00.
    ("America/New_York", "30 2 * * *", "2027-03-13T08:00", ["03-14T07:00", "03-15T06:30"]),
    ("America/New_York", "30 1 * * *", "2027-11-07T00:00", ["11-07T05:30", "11-08T06:30"]),
    ("America/New_York", "15 * * * *", "2027-11-07T05:00", ["11-07T05:15", "11-07T06:15", "11-07T07:15"]),
    ("America/New_York", "0 9 * * MON", "2027-11-05T00:00", ["11-08T14:00", "11-15T14:00"]),
    ("America/New_York", "0 9 * * MON", "2027-03-12T00:00", ["03-15T13:00", "03-22T13:00"]),
    # Lord Howe: half an hour. 2027-10-03 2:00 becomes 2:30; 2027-04-04 2:00 becomes 1:30.
    ("Australia/Lord_Howe", "15 2 * * *", "2027-10-02T00:00", ["10-02T15:30", "10-03T15:15"]),
    ("Australia/Lord_Howe", "0 3 * * *", "2027-10-02T00:00", ["10-02T16:00", "10-03T16:00"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2027-04-03T14:00", ["04-03T14:45", "04-04T15:15"]),
    # No daylight saving, and odd offsets.
    ("Asia/Kolkata", "0 8 * * *", "2027-03-27T00:00", ["03-27T02:30", "03-28T02:30"]),
    ("Asia/Kathmandu", "0 0 * * *", "2027-03-27T00:00", ["03-27T18:15", "03-28T18:15"]),
    ("UTC", "30 2 * * *", "2027-03-28T00:00", ["03-28T02:30", "03-29T02:30"]),
    # The end of a month, the second Monday, a leap day.
    ("UTC", "0 0 L * *", "2027-01-30T00:00", ["01-31T00:00", "02-28T00:00"]),
    ("UTC", "0 8 * * 1#2", "2027-01-01T00:00", ["01-11T08:00", "02-08T08:00"]),
    ("Pacific/Auckland", "30 2 * * *", "2027-09-25T00:00", ["09-25T14:00", "09-26T13:30"]),
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("zone", "cron", "after", "wanted"), CASES)
def test_daylight_saving(zone, cron, after, wanted):
    found = islice(Timing(cron=cron, time_zone=zone).after(at(after)), len(wanted))
    assert [f"{one:%m-%dT%H:%M}" for one in found] == wanted


def test_intervals_count_from_their_start():
    epoch = Timing(every_seconds=90)
    assert [one.timestamp() % 90 for one in islice(epoch.after(at("2027-01-01T00:00")), 3)] == [0, 0, 0]
    bounded = Timing(every_seconds=90, starts_at=at("2027-01-01T00:00:07"), ends_at=at("2027-01-01T00:03:07"))
    assert [f"{one:%H:%M:%S}" for one in bounded.after(at("2020-01-01T00:00"))] == ["00:00:07", "00:01:37", "00:03:07"]
    assert list(bounded.after(at("2027-01-01T00:03:07"))) == []


def test_bounds_of_an_expression():
    timing = Timing(cron="@daily", starts_at=at("2027-01-02T00:00"), ends_at=at("2027-01-03T12:00"))
    assert [one.day for one in timing.after(at("2020-01-01T00:00"))] == [2, 3]


@pytest.mark.parametrize("cron", ["", "* * * *", "* * * * * *", "61 * * * *", "@never", "0 0 * * 8", "a b c d e"])
def test_what_is_no_expression(cron):
    with pytest.raises(TimingError):
        next(Timing(cron=cron, every_seconds=0).after(at("2027-01-01T00:00")))


def test_what_never_comes():
    with pytest.raises(TimingError):
        next(Timing(cron="0 0 30 2 *").after(at("2027-01-01T00:00")))
    over = Timing(cron="@daily", ends_at=at("2020-01-01T00:00"))
    assert next(over.after(at("2027-01-01T00:00")), None) is None


SCHEDULE = Schedule.new(
    "shop",
    "x",
    Definition(Template("a.b.v1", "q", "", {}), every_seconds=60, catch_up_seconds=600),
    milliseconds(at("2027-01-01T00:00")),
)


@pytest.mark.parametrize(
    ("catch_up", "minutes", "missed", "found"),
    [("latest", 0, 0, 0), ("latest", 1, 0, 1), ("latest", 5, 4, 1), ("all", 5, 0, 5), ("all", 30, 19, 11),
     ("latest", 30, 29, 1)],
)  # fmt: skip
def test_a_look_after_an_absence(catch_up, minutes, missed, found):
    schedule = replace(SCHEDULE, definition=replace(SCHEDULE.definition, catch_up=catch_up))
    now = at("2027-01-01T00:00") + timedelta(minutes=minutes)
    look = schedule.look(now)
    assert (look.missed, len(look.occurrences)) == (missed, found)
    if found:
        assert look.occurrences[-1] == milliseconds(now)
        # Nothing is left out between what was missed and what is run.
        assert look.occurrences[0] - look.since == 60_000


def test_a_look_after_a_year_is_bounded():
    look = SCHEDULE.look(at("2028-01-01T00:00"))
    assert LOOK_LIMIT <= look.missed <= LOOK_LIMIT + 11
    assert look.occurrences == (milliseconds(at("2028-01-01T00:00")),)


def test_jitter_is_the_same_for_whoever_asks_and_within_its_bounds():
    schedule = replace(SCHEDULE, definition=replace(SCHEDULE.definition, jitter_seconds=30))
    occurrences = list(islice(schedule.occurrences(SCHEDULE.since), 200))
    delays = [(schedule.due(one) - one).total_seconds() for one in occurrences]
    assert delays == [(schedule.due(one) - one).total_seconds() for one in occurrences]
    assert 0 <= min(delays) < 3
    assert 27 < max(delays) < 30
