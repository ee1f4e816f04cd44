"""The gateway killed under clients that follow events: each of them has every event once."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from dataclasses import dataclass, field

import httpx

from offload_core import events, keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .ledgers import PREFIX
from .report import Row

STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=3_600_000)
OWNER = "development"
ERROR = {"code": "it.failed", "message": "on purpose"}
PER_SECOND = 20


@dataclass
class Follower:
    """One client: the ids of the events that it has got, in their order, and how often it connected."""

    path: str
    stream: str
    last_id: str = "0-1"
    ids: list[str] = field(default_factory=list)
    connected: int = 0

    async def run(self, client: httpx.AsyncClient, final: dict[str, str]) -> None:
        """Follow until the stream's last event, which is known once all have been written."""
        while self.last_id != final.get(self.stream):
            try:
                async with client.stream("GET", self.path, headers={"Last-Event-ID": self.last_id}) as answer:
                    if answer.status_code == 204:
                        return
                    answer.raise_for_status()
                    self.connected += 1
                    async for line in answer.aiter_lines():
                        if self.last_id == final.get(self.stream):
                            break
                        if line.startswith("id: "):
                            self.last_id = line[4:]
                            self.ids.append(self.last_id)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)  # not a wait: the pause before the client connects again


class Changes:
    """Tasks that change all the time: each of them starts, fails, is tried again, and ends when all is over."""

    def __init__(self, redis, count: int, seed: int) -> None:
        self.redis, self.chance = redis, random.Random(seed)
        self.attempts = {f"followed-{number}": -1 for number in range(count)}
        for task_id in self.attempts:
            task = Publisher("test").task(task_id, "task", OWNER, [NewStep("a.b.v1", "nobody", {})])
            assert STORE.accept(task).run(redis)[0] == b"accepted"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(1 / PER_SECOND):
            task_id = self.chance.choice(list(self.attempts))
            step, attempt = keys.step_of(task_id), self.attempts[task_id]
            if attempt >= 0:
                STORE.retry(step, (attempt, 1), ERROR, 1).run(self.redis)
            STORE.start(step, (attempt + 1, 1), "w", {}).run(self.redis)
            self.attempts[task_id] += 1

    def end(self) -> None:
        self._stopped.set()
        self._thread.join()
        for task_id, attempt in self.attempts.items():
            step = keys.step_of(task_id)
            if attempt < 0:
                STORE.start(step, (0, 1), "w", {}).run(self.redis)
            STORE.finish(step, (max(attempt, 0), 1), "SUCCESS", {}).run(self.redis)


def test_the_gateway_killed_under_clients_that_follow_events(stack, scale):
    kills, count = scale.of(20, 3), scale.of(100, 10)
    gateway = stack.gateway()
    redis = stack.redis.client()
    changes = Changes(redis, count, scale.seed)
    followers = [
        *(Follower(f"/v1/tasks/{task_id}/events", keys.events(PREFIX, task_id)) for task_id in changes.attempts),
        *(Follower("/v1/events", keys.owner_events(PREFIX, "")) for _ in range(count)),
    ]
    final: dict[str, str] = {}

    async def follow() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=stack.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(follower.run(client, final) for follower in followers))

    clients = threading.Thread(target=asyncio.run, args=(follow(),))
    clients.start()
    chance = random.Random(scale.seed)
    for _ in range(kills):
        time.sleep(chance.uniform(0.5, 3))  # not a wait: kills come at random moments
        gateway.kill()
        gateway = stack.gateway()
    changes.end()
    written = {
        follower.stream: [entry_id.decode() for entry_id, _ in redis.xrange(follower.stream)] for follower in followers
    }
    final.update({stream: ids[-1] for stream, ids in written.items()})
    # A client that waits for events of all tasks sees by the next one that there are no more.
    redis.xadd(keys.owner_events(PREFIX, ""), {"type": "task.progressed", "data": json.dumps({"task_id": "the last"})})
    clients.join(120)
    assert not clients.is_alive(), "a client still waits for an event"
    repeated = sum(len(one.ids) - len(set(one.ids)) for one in followers)
    lost = [one.path for one in followers if set(written[one.stream]) - set(one.ids)]
    # Once each event's repetitions are left out, by its id, a client has what was written, in its order.
    wrong = [
        one.path for one in followers if list(dict.fromkeys(one.ids))[: len(written[one.stream])] != written[one.stream]
    ]
    total = sum(map(len, written.values()))
    Row(
        order=16.5,
        fault="gateway `kill -9` under clients that follow events",
        load=f"{len(followers)} streams, half of them of one task each; {total:,} events",
        injected=kills,
        lost=len(lost),
        doubled=len(set(wrong) - set(lost)),
        seen=f"{sum(one.connected for one in followers):,} connections, {repeated} events sent again; order kept",
        seed=scale.seed,
    ).note()
    assert not lost
    assert not wrong
    assert all(written[one.stream][-1] == final[one.stream] for one in followers)
    assert {event_type(redis, one) for one in followers if one.stream != keys.owner_events(PREFIX, "")} <= events.ENDS


def event_type(redis, follower: Follower) -> str:
    [(_, fields)] = redis.xrevrange(follower.stream, count=1)
    return fields[b"type"].decode()
