"""The brokers alone: the same application under the same faults on celery-leases and on stock Redis.

An effect here is a line in a file, which nothing makes idempotent: a task killed after its effect and before its
acknowledgement does it again on either. Offload's own effects are once; see the rows before.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from devstack.processes import Process, python
from devstack.servers import RedisServer
from devstack.waiting import until

from .report import Row, figures

if TYPE_CHECKING:
    from pathlib import Path

BROKERS = ("leases", "stock")
# A queue that has not moved for so long, three times what either broker needs to give back, moves no more.
STILL_SECONDS = 35


class Peer:
    """Workers on one of the two brokers, and the file of effects."""

    def __init__(self, folder: Path, broker: str, beside: Peer | None = None) -> None:
        """`beside` another one: on its server, with its file of effects."""
        folder.mkdir()
        self.folder, self.broker = folder, broker
        self.server = beside.server if beside else RedisServer(folder / "redis").start()
        self.ledger = beside.ledger if beside else folder / "ledger.txt"
        self.environment = {
            "BROKER_URL": self.server.url,
            "PEER": broker,
            "LEDGER": str(self.ledger),
            "PYTHONPATH": str(__file__).rpartition("/")[0],
            "C_FORCE_ROOT": "1",
        }
        self.workers: list[Process] = []
        self.ended: list[float] = []
        self._count = 0

    def start(self, slots: int = 2) -> None:
        self._count += 1
        name = f"w{self._count}"
        arguments = ("-c", str(slots), "--without-gossip", "--without-mingle", "--without-heartbeat")
        command = python("celery", "-A", "peer_app", "worker", "-n", f"{name}@peer", "-l", "INFO", *arguments)
        self.workers.append(Process(name, command, self.folder / f"{name}.log", self.environment))

    def publish(self, count: int, seconds: float, first: int = 0) -> None:
        """Publish tasks, numbered from `first` on, as a process of its own."""
        code = (
            "import sys, peer_app\n"
            "with peer_app.app.producer_pool.acquire(block=True) as producer:\n"
            "    for n in range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[1])):\n"
            "        peer_app.effect.apply_async((str(n), float(sys.argv[2])), producer=producer)\n"
        )
        environment = {**os.environ, **self.environment}
        command = [sys.executable, "-c", code, str(count), str(seconds), str(first)]
        subprocess.run(command, env=environment, check=True)

    def end_one(self, chance: random.Random, *, in_order: bool) -> None:
        ready = until(self._ready, "a worker to be ready", seconds=90)
        victim = chance.choice(ready)
        self.workers.remove(victim)
        self.ended.append(time.time())
        self.start()
        if in_order:
            victim.terminate()
            until(lambda: victim.exit_code is not None, "the worker to stop", seconds=60)
        else:
            victim.kill()

    def _ready(self) -> list[Process]:
        return [one for one in self.workers if " ready." in one.output()]

    def notes(self) -> list[tuple[str, str, float]]:
        if not self.ledger.exists():
            return []
        lines = (line.split() for line in self.ledger.read_text().splitlines())
        return [(what, key, float(at)) for what, key, at in lines]

    def wait_until_still(self, tasks: int) -> None:
        """Wait until all are done, or nothing has happened for so long that the rest is lost."""
        last = [time.monotonic(), 0]

        def still() -> bool:
            notes = self.notes()
            if len(notes) != last[1]:
                last[:] = [time.monotonic(), len(notes)]
            done = {key for what, key, _ in notes if what == "done"}
            return len(done) == tasks or time.monotonic() - last[0] > STILL_SECONDS

        until(still, "the end of the work", seconds=600, pause_seconds=0.5)

    def verdict(self, tasks: int) -> tuple[int, int, list[float]]:
        """Return how many were not done and done again, and how long after a kill those that it ended began again."""
        done = Counter(key for what, key, _ in self.notes() if what == "done")
        starts: dict[str, list[float]] = defaultdict(list)
        for what, key, at in self.notes():
            if what == "start":
                starts[key].append(at)
        recovery = []
        for times in starts.values():
            for first, again in itertools.pairwise(sorted(times)):
                killed = next((kill for kill in sorted(self.ended) if first <= kill + 0.05 and kill <= again), None)
                if killed is not None:
                    recovery.append(again - killed)
        again = sum(len(times) > 1 for times in starts.values()) if not self.ended else 0
        return tasks - len(done), max(sum(count > 1 for count in done.values()), again), recovery

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.stop()


FAULTS = {
    "kill -9, tasks of 30 ms": (31, 3_000, 0.03, 30),
    "kill -9, tasks of 1 ms": (32, 6_000, 0.001, 20),
    "SIGTERM, tasks of 30 ms": (33, 3_000, 0.03, 15),
    "Redis kill -9 under load": (34, 2_000, 0.03, 4),
    "a task of 35 s": (35, 1, 35.0, 0),
}


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS)
def test_both_brokers(tmp_path, scale, fault):
    order, tasks, seconds, times = FAULTS[fault]
    found = {}
    for broker in BROKERS:
        peer = Peer(tmp_path / broker, broker)
        chance = random.Random(scale.seed)
        try:
            for _ in range(3):
                peer.start()
            until(lambda peer=peer: len(peer._ready()) == 3, "the workers", seconds=90)
            peer.publish(tasks, seconds)
            until(peer.notes, "the first effect", seconds=60)
            for _ in range(times):
                if fault.startswith("Redis"):
                    time.sleep(chance.uniform(2, 3))  # not a wait: the load goes on between two kills
                    peer.server.kill()
                    time.sleep(1)  # the outage itself
                    peer.server.start()
                else:
                    peer.end_one(chance, in_order=fault.startswith("SIGTERM"))
                    time.sleep(chance.uniform(0.5, 1))  # not a wait: kills come at random moments
            peer.wait_until_still(tasks)
            if not times:
                time.sleep(STILL_SECONDS)  # not a wait: a second run would show by then
            found[broker] = peer.verdict(tasks)
        finally:
            peer.stop()
    lost, doubled, recovery = found["leases"]
    stock_lost, stock_doubled, stock_recovery = found["stock"]
    Row(
        order=order,
        fault=f"the broker alone: {fault}",
        load=f"{tasks:,} tasks that append a line to a file, 3 workers of 2 slots",
        injected=times,
        lost=lost,
        doubled=doubled,
        recovery=recovery,
        seen="doubled here: a bare effect, by a task that was killed after it",
        stock=f"not done {stock_lost}, doubled {stock_doubled}, {figures(stock_recovery)}",
        seed=scale.seed,
    ).note()
    assert lost == 0


def test_from_stock_to_leases_and_back(tmp_path):
    """As the page about it says: workers beside the old ones, then the producers, then wait until nothing is left."""
    stock = Peer(tmp_path / "stock", "stock")
    leases = Peer(tmp_path / "leases", "leases", beside=stock)
    redis = stock.server.client()

    def drained(*keys: str) -> None:
        until(lambda: not any(redis.hlen(key) for key in keys), "the leases to be empty", seconds=60)

    def stock_is_empty() -> bool:
        return not redis.llen("work") and not redis.hlen("unacked")

    def end_stock() -> None:
        """Until its list is empty with no worker left: what a worker has popped last stands in neither key."""
        while True:
            until(stock_is_empty, "stock to be empty", seconds=60)
            assert stock.workers.pop().stop() == 0
            if stock_is_empty():
                return
            stock.start()

    try:
        stock.start()
        stock.publish(150, 0.02)
        leases.start()
        leases.publish(150, 0.02, first=150)
        end_stock()
        drained("leases:work:live")
        assert stock.verdict(300)[:2] == (0, 0)

        leases.publish(150, 0.02, first=300)
        stock.start()
        stock.publish(150, 0.02, first=450)
        drained("leases:work:live", "leases:work:delayed-messages")
        assert leases.workers.pop().stop() == 0
        end_stock()
        assert stock.verdict(600)[:2] == (0, 0)
    finally:
        leases.stop()
        stock.stop()
