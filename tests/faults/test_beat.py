"""Beat killed around its due times, and two of them at once: each occurrence is one task."""

from __future__ import annotations

import random
import time

import pytest
from integration.test_beat import EVERY_SECOND, moments, occurrences, published

from devstack.waiting import until
from offload_core.schedules import Definition, Schedule, Template, put
from offload_core.task_store import TaskStore

from .ledgers import PREFIX
from .report import Row

STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=3_600_000)


@pytest.mark.full
def test_beat_killed_around_its_due_times(stack, scale):
    kills = 30
    chance = random.Random(scale.seed)
    for _ in range(kills):
        beat = stack.service("beat", settings=EVERY_SECOND)
        count = len(occurrences(stack))
        until(lambda count=count: len(occurrences(stack)) > count, "another occurrence", pause_seconds=0.01)
        # An occurrence is due each second: the kill falls anywhere around the next one.
        time.sleep(chance.uniform(0.7, 1.3))
        beat.kill()
    names = occurrences(stack)
    Row(
        order=18,
        fault="beat `kill -9` around its due times",
        load="an occurrence a second",
        injected=kills,
        # Each of them lived for one occurrence at least.
        lost=max(kills - len(names), 0),
        doubled=published(stack) - len(names),
        seen=f"{len(names)} occurrences, {published(stack)} tasks; what no beat was there for is not made up",
        seed=scale.seed,
    ).note()
    assert published(stack) == len(names) == len(set(names))
    assert len(names) >= kills


@pytest.mark.full
def test_two_beats_for_two_minutes(stack, scale):
    beats = [stack.service("beat", settings=EVERY_SECOND) for _ in range(2)]
    until(lambda: len(occurrences(stack)) >= 120, "two minutes of occurrences", seconds=180)
    for beat in beats:
        assert beat.stop() == 0
    names = occurrences(stack)
    gaps = [later - earlier for earlier, later in zip(moments(names), moments(names)[1:], strict=False)]
    Row(
        order=19,
        fault="two beats at once",
        load="an occurrence a second, for two minutes",
        injected=1,
        lost=sum(gap - 1 for gap in gaps),
        doubled=published(stack) - len(names),
        seen=f"{len(names)} occurrences, {published(stack)} tasks",
    ).note()
    assert published(stack) == len(names)
    assert set(gaps) == {1}


def test_schedules_of_tenants_while_beats_and_redis_are_killed(stack, scale):
    """Two beats, of which one is killed around a due time, and every fifth time Redis: each second is one task."""
    kills, count = scale.of(50, 4), scale.of(20, 3)
    chance = random.Random(scale.seed)
    stack.gateway()
    # Nobody works on them: what counts is what is published.
    redis, now = stack.redis.client(), round(time.time() * 1000)
    definition = Definition(Template("a.b.v1", "nobody", "", {}), every_seconds=1, overlap="allow", catch_up="all")
    for number in range(count):
        one = Schedule.new("shop", f"s{number}", definition, now)
        put(STORE, one, if_match=None, must_be_new=True, due=one.next_due(now), limit=100).run(redis)
    beats = [stack.service("beat"), stack.service("beat")]
    for number in range(kills):
        until(lambda: redis.hexists(f"{PREFIX}schedule:shop:s0", "last_at"), "the first occurrence", seconds=30)
        time.sleep(chance.uniform(0.7, 1.3))  # not a wait: kills come at random moments
        if number % 5 == 4:
            stack.redis.kill()
            stack.redis.start()
        beats.pop(0).kill()
        beats.append(stack.service("beat"))
    behind = round(time.time() * 1000)

    def records() -> list[Schedule]:
        return [
            found
            for number in range(count)
            if (found := Schedule.of("shop", f"s{number}", redis.hgetall(f"{PREFIX}schedule:shop:s{number}")))
        ]

    until(lambda: min(one.since for one in records()) >= behind, "the last ones to be caught up", seconds=60)
    for beat in beats:
        beat.kill()
    found = records()
    wanted = sum((one.since - now) // 1000 for one in found)
    tasks = len(redis.keys(f"{PREFIX}task:shop:s*"))
    queued = redis.hlen(f"{PREFIX}queue:nobody:live")
    Row(
        order=19.1,
        fault="one of two beats `kill -9` around due times of schedules, and every fifth time Redis too",
        load=f"{count} schedules, an occurrence of each in each second",
        injected=kills + kills // 5,
        lost=max(wanted - sum(one.runs + one.missed for one in found), 0),
        doubled=tasks - sum(one.runs for one in found),
        seen=f"{tasks:,} occurrences, a task and a message of each; {sum(one.missed for one in found)} missed",
        seed=scale.seed,
    ).note()
    assert tasks == queued == sum(one.runs for one in found)
    assert sum(one.missed for one in found) == 0
    # One of the first second may have been on either side of it.
    assert 0 <= tasks - wanted <= count
