"""The outbox of the Django example: its relay and its writers killed between a commit, a post and its note."""

from __future__ import annotations

import random

import pytest
from integration.test_django_example import Shop, place_and_kill

from devstack.waiting import until

from .report import Row


@pytest.mark.full
def test_the_relay_killed_between_commit_and_post(stack, scale, tmp_path):
    kills = scale.of(60, 3)
    stack.gateway()
    shop = Shop(stack, tmp_path / "project")
    shop.manage("migrate", "-v", "0")
    stack.own_worker("offload_outbox.worker:worker", shop.folder, shop.environment | {"OFFLOAD_CONCURRENCY": "4"})
    client = stack.client()
    until(lambda: client.get("/v1/task-types/django.run.v1").status_code == 200, "its task type")
    figures = place_and_kill(shop, kills, orders=100, chance=random.Random(scale.seed))
    Row(
        order=27.4,
        fault="the Django outbox: its relay `kill -9`, and every fifth time a writer too",
        load=f"{figures['orders']} orders, each with a task in its transaction",
        injected=kills,
        lost=figures["lost"],
        doubled=figures["doubled"],
        seen="every committed order has one task",
        seed=scale.seed,
    ).note()
    assert (figures["lost"], figures["doubled"]) == (0, 0), figures
