"""Batches while workers, the gateway and Redis are killed: each index is one task, and what follows comes once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
from integration import test_batches

from devstack.waiting import until

from .ledgers import PREFIX
from .report import Row

if TYPE_CHECKING:
    from devstack.processes import Process

    from .conftest import Stack

FOLLOWING = ("on_complete", "on_first_failure")


class Sender:
    """Sends all items of a batch again and again, as a client does that is not told, until the batch has them."""

    def __init__(self, stack: Stack, total: int) -> None:
        """Create a batch. One item in fifty fails."""
        self._stack, self.total = stack, total
        follow_ups = {name: test_batches.follower(f"{name}-{total}") for name in FOLLOWING}
        self.url = test_batches.post(stack.client(), total, **follow_ups)
        self._content = b"".join(test_batches.lines([number], fails=number % 50 == 7) for number in range(total))
        self.requests = 0

    def send(self) -> bool:
        """Send them once; return whether the batch has all of them."""
        self.requests += 1
        try:
            answer = self._stack.client().post(f"{self.url}/items", content=self._content, headers=test_batches.NDJSON)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and bool(answer.json()["sealed"])


def test_everything_killed_around_a_batch(stack, scale):
    kills, rounds, total = scale.of(6, 6), scale.of(10, 1), scale.of(3000, 300)
    stack.environment |= {"BATCH_FOLDER": str(stack.folder), "OFFLOAD_QUEUE_LIMIT": "100000"}
    chance, killed = random.Random(scale.seed), Counter()
    gateway = stack.gateway()
    stack.service("beat")

    def worker() -> Process:
        return stack.own_worker("batch_worker:worker", test_batches.HERE, {"OFFLOAD_CONCURRENCY": "4"})

    workers = [worker(), worker()]
    until(lambda: len(stack.client().get("/v1/task-types").json()["task_types"]) > 1, "the task types", seconds=30)
    senders = []
    for _ in range(rounds):
        senders.append(Sender(stack, total))
        for number in range(kills):
            # In the middle of a body, and of the work.
            sending = threading.Thread(target=senders[-1].send)
            sending.start()
            time.sleep(chance.uniform(0.1, 0.6))  # not a wait: kills come at random moments
            what = ("worker", "gateway", "Redis")[number % 3]
            killed[what] += 1
            if what == "worker":
                workers.pop(0).kill()
                workers.append(worker())
            elif what == "gateway":
                gateway.kill()
                gateway = stack.gateway()
            else:
                stack.redis.kill()
                stack.redis.start()
            sending.join(120)
        until(senders[-1].send, "all of the items to be there", seconds=120)
    found = [until(lambda one=one: ended(stack, one), "the batch's end", seconds=300) for one in senders]
    redis = stack.redis.client()
    failing = sum(number % 50 == 7 for number in range(total))
    lost = sum(total - one["counts"]["succeeded"] - one["counts"]["failed"] for one in found)
    records = sum(len(redis.keys(f"{PREFIX}task:{one['id']}-*")) for one in found)
    until(lambda: len(notes(stack)) >= 2 * rounds, "what follows", seconds=60)
    left = [f"{PREFIX}queue:{queue}:live" for queue in ("batch", "batch-notes")]
    until(lambda: not any(redis.hlen(key) for key in left), "the last acknowledgements", seconds=60)
    times = Counter((name, batch["batch_id"]) for name, _, batch in notes(stack))
    missing = 2 * rounds - len(times)
    # A function that is killed runs again: what follows twice is told by its task, of which there is one.
    tasks = {(name, batch["batch_id"], task_id) for name, task_id, batch in notes(stack)}
    Row(
        order=16.8,
        fault="workers, gateway and Redis `kill -9` around batches that are sent again after each cut",
        load=f"{rounds} batches of {total:,} items, sent {sum(one.requests for one in senders)} times",
        injected=sum(killed.values()),
        lost=lost + missing,
        doubled=records - rounds * total + len(tasks) - len(times),
        seen=f"{records:,} tasks; {failing * rounds} failed as they were told; {len(tasks)} tasks that follow; "
        + ", ".join(f"{count} kills of {what}" for what, count in sorted(killed.items())),
        seed=scale.seed,
    ).note()
    assert (lost, missing) == (0, 0)
    assert records == rounds * total
    assert len(tasks) == 2 * rounds
    assert {one["counts"]["failed"] for one in found} == {failing}


def ended(stack: Stack, sender: Sender) -> dict | None:
    """Return a batch once it has ended."""
    try:
        answer = stack.client().get(sender.url)
    except httpx.HTTPError:
        return None
    return answer.json() if answer.status_code == 200 and answer.json()["completed_at"] else None


def notes(stack: Stack) -> list[list]:
    """Return what the tasks that follow have written down."""
    file = stack.folder / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
