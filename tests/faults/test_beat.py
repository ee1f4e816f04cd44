"""Beat killed around its due times, and two of them at once: each slot is one task."""

from __future__ import annotations

import random
import time

import pytest
from integration.test_beat import EVERY_SECOND, moments, published, slots

from devstack.waiting import until

from .report import Row


@pytest.mark.full
def test_beat_killed_around_its_due_times(stack, scale):
    kills = 30
    chance = random.Random(scale.seed)
    for _ in range(kills):
        beat = stack.service("beat", settings=EVERY_SECOND)
        count = len(slots(stack))
        until(lambda count=count: len(slots(stack)) > count, "another slot", pause_seconds=0.01)
        # A slot is due each second: the kill falls anywhere around the next one.
        time.sleep(chance.uniform(0.7, 1.3))
        beat.kill()
    names = slots(stack)
    Row(
        order=18,
        fault="beat `kill -9` around its due times",
        load="a slot a second",
        injected=kills,
        # Each of them lived for one slot at least.
        lost=max(kills - len(names), 0),
        doubled=published(stack) - len(names),
        seen=f"{len(names)} slots, {published(stack)} tasks; what no beat was there for is not made up",
        seed=scale.seed,
    ).note()
    assert published(stack) == len(names) == len(set(names))
    assert len(names) >= kills


@pytest.mark.full
def test_two_beats_for_two_minutes(stack, scale):
    beats = [stack.service("beat", settings=EVERY_SECOND) for _ in range(2)]
    until(lambda: len(slots(stack)) >= 120, "two minutes of slots", seconds=180)
    for beat in beats:
        assert beat.stop() == 0
    names = slots(stack)
    gaps = [later - earlier for earlier, later in zip(moments(names), moments(names)[1:], strict=False)]
    Row(
        order=19,
        fault="two beats at once",
        load="a slot a second, for two minutes",
        injected=1,
        lost=sum(gap - 1 for gap in gaps),
        doubled=published(stack) - len(names),
        seen=f"{len(names)} slots, {published(stack)} tasks",
    ).note()
    assert published(stack) == len(names)
    assert set(gaps) == {1}
