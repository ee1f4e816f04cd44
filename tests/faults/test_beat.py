"""Beat killed around its due times, and two of them at once: each occurrence is one task."""

from __future__ import annotations

import random
import time

import pytest
from integration.test_beat import EVERY_SECOND, moments, occurrences, published

from devstack.waiting import until

from .report import Row


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
