"""Workflows and the catalogue under faults: joins, versions of a task type, and a catalogue that vanishes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration import conftest as integration
from integration.test_task_types import SHOP

from devstack.waiting import until
from offload_core import keys

from .report import Row

if TYPE_CHECKING:
    import httpx

    from devstack.processes import Process

    from .conftest import Stack

PREFIX = integration.PREFIX
ACME = Path(integration.__file__).parent
BRANCHES = 4


def known(client: httpx.Client, task: str) -> bool:
    return client.get(f"/v1/task-types/{task}").status_code == 200


def ended(stack: Stack) -> int:
    """How often a task has ended, by the counters that the script which ends one writes."""
    redis = stack.redis.client()
    return sum(int(n) for key in redis.scan_iter(f"{PREFIX}figures:*") for n in redis.hvals(key))


@pytest.mark.full
def test_workers_killed_around_joins(stack, scale):
    """Every kill falls on branches and joins; each workflow ends once, with the sum of all its branches."""
    kills, workflows = scale.of(40, 6), scale.of(150, 20)
    chance = random.Random(scale.seed)
    stack.gateway()
    client = stack.client()

    def start() -> Process:
        settings = {"ACME_POOL": "threads", "OFFLOAD_CONCURRENCY": "4"}
        return stack.own_worker("acme_worker:worker", ACME, settings, wait=False)

    workers = [start() for _ in range(3)]
    until(lambda: known(client, "number.total.v1"), "the task types", seconds=60)
    steps = [
        {"parallel": [{"task": "number.add.v1", "input": {"a": number}} for number in range(BRANCHES)]},
        {"parallel": [{"task": "number.total.v1", "input": {"a": number}} for number in range(BRANCHES)]},
        {"task": "number.total.v1", "input": {"a": 1}},
    ]

    def post() -> str:
        return client.post("/v1/tasks", json={"steps": steps}).raise_for_status().json()["task_id"]

    tasks: list[str] = []
    for number in range(kills):

        def ready() -> list[Process]:
            return [one for one in workers if " ready." in one.output()]

        victim = chance.choice(until(ready, "a worker to be ready", seconds=90))
        tasks += [post() for _ in range(workflows * (number + 1) // kills - len(tasks))]
        time.sleep(chance.uniform(0, 0.4))  # anywhere in the midst of what was posted
        victim.kill()
        workers.remove(victim)
        workers.append(start())
    first = sum(range(BRANCHES))
    expected = {"total": BRANCHES * first + first + 1}
    done = {task_id: stack.wait(client, task_id, seconds=240) for task_id in tasks}
    lost = [task_id for task_id, task in done.items() if (task["state"], task["result"]) != ("SUCCESS", expected)]
    again = sum(step["deliveries"] > 1 for task in done.values() for step in task["steps"])
    until(stack.is_quiet, "every message to be settled", seconds=60)
    doubled = ended(stack) - len(tasks)
    Row(
        order=27.1,
        fault="workers `kill -9` around the joins of workflows",
        load=f"{len(tasks)} workflows of {BRANCHES} branches, {BRANCHES} branches and a step",
        injected=kills,
        lost=len(lost),
        doubled=doubled,
        seen=f"{again} steps run again; each stage published once",
        seed=scale.seed,
    ).note()
    assert not lost, [done[task_id] for task_id in lost][:2]
    assert doubled == 0


@pytest.mark.full
def test_two_versions_of_a_task_type_at_once(stack, scale, tmp_path):
    """Workers of both start and stop in turn, while inputs come that only one of them can read."""
    turns = scale.of(10, 2)
    for release, field in (("old", "number: str"), ("new", "name: str")):
        (tmp_path / release).mkdir()
        (tmp_path / release / "shop.py").write_text(SHOP.format(field=field, release=release))
    stack.gateway()
    client = stack.client()
    tasks: dict[str, str] = {}

    def post(release: str) -> None:
        given = {"number": "1"} if release == "old" else {"name": "1"}
        response = client.post("/v1/tasks", json={"task": "invoice.print.v1", "input": given})
        # An older version is taken while it has workers.
        if response.status_code == 202:
            tasks[response.json()["task_id"]] = release

    refused = 0
    for _ in range(turns):
        for release in ("old", "new"):
            worker = stack.own_worker("shop:worker", tmp_path / release)
            until(lambda: known(client, "invoice.print.v1"), "the task type")
            for _ in range(5):
                for either in ("old", "new"):
                    before = len(tasks)
                    post(either)
                    refused += len(tasks) == before
            worker.stop()
    # In the end both are there.
    for release in ("old", "new"):
        stack.own_worker("shop:worker", tmp_path / release)
    done = {task_id: stack.wait(client, task_id, seconds=120) for task_id in tasks}
    lost = [one for one, release in tasks.items() if done[one]["result"] != {"release": release}]
    Row(
        order=27.2,
        fault="two versions of a task type, whose workers come and go",
        load=f"{len(tasks)} tasks, each readable by one of the versions",
        injected=2 * turns,
        lost=len(lost),
        doubled=ended(stack) - len(tasks),
        seen=f"{refused} posts refused, of a version that no worker had been seen with",
    ).note()
    assert not lost, [done[one] for one in lost][:2]
    assert ended(stack) == len(tasks)


@pytest.mark.full
def test_a_catalogue_that_vanishes(stack, scale):
    """Deleted again and again while tasks are posted: none is refused, and none is lost."""
    deletions = scale.of(20, 3)
    stack.gateway()
    client, redis = stack.client(), stack.redis.client()
    stack.own_worker("acme_worker:worker", ACME, {"OFFLOAD_CONCURRENCY": "4"})
    until(lambda: known(client, "number.add.v1"), "the task types")
    tasks, refused = [], 0
    for _ in range(deletions):
        redis.delete(keys.catalogue(PREFIX), keys.catalogue(PREFIX, "acme-worker"))
        began = time.monotonic()
        while time.monotonic() - began < 1:
            response = client.post("/v1/tasks", json={"task": "number.add.v1", "input": {"a": 1}})
            if response.status_code == 202:
                tasks.append(response.json()["task_id"])
            else:
                refused += 1
    done = [stack.wait(client, task_id, seconds=120)["state"] for task_id in tasks]
    until(lambda: redis.hlen(keys.catalogue(PREFIX, "acme-worker")) > 0, "the registration", seconds=40)
    Row(
        order=27.3,
        fault="the catalogue of task types deleted from Redis",
        load=f"{len(tasks)} tasks of one's own",
        injected=deletions,
        lost=len(tasks) - done.count("SUCCESS"),
        doubled=ended(stack) - len(tasks),
        seen=f"{refused} posts refused; the workers wrote it again",
    ).note()
    assert refused == 0
    assert set(done) == {"SUCCESS"}
    assert ended(stack) == len(tasks)
