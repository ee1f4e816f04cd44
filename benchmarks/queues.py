"""No-op tasks a second: our broker, without and with records, beside stock Celery."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from benchmarks.measure import Comparison, in_turn
from devstack.processes import Process, python
from devstack.servers import RedisServer
from devstack.waiting import until
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core import messages, records
from offload_core.messages import NewStep
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

TASKS = 4000
SLOTS = 2


def compare(folder: Path, pool: str) -> None:
    """Fill a queue, start one worker of two slots, and time the emptying between its first and its last tenth."""
    shutil.rmtree(folder, ignore_errors=True)
    server = RedisServer(folder / "redis").start()
    try:
        sides: dict[str, Callable[[], float]] = {
            "stock, defaults": lambda: _rate(server, folder, "stock", pool),
            "stock, same safety settings": lambda: _rate(server, folder, "stock-safe", pool),
            "leases": lambda: _rate(server, folder, "leases", pool),
            "stock, the same + STARTED + results in Redis": lambda: _rate(server, folder, "stock-results", pool),
            "leases + gate + record": lambda: _rate(server, folder, "offload", pool),
            "adopted: leases + gate + record + results in Redis": lambda: _rate(server, folder, "adopted", pool),
        }
        values = in_turn(sides)
    finally:
        server.stop()
    title = f"no-op tasks, {pool} -c {SLOTS}"
    for names, aim in (
        (("stock, same safety settings", "leases"), "1.3 x or more"),
        (("stock, defaults", "leases"), "1 x or more"),
        (("stock, the same + STARTED + results in Redis", "leases + gate + record"), "none set; told apart"),
        (
            ("stock, the same + STARTED + results in Redis", "adopted: leases + gate + record + results in Redis"),
            "none set; told apart",
        ),
    ):
        chosen = {name: values[name] for name in names}
        Comparison(title, "tasks/s", chosen, more_is_better=True).show(aim)


def _rate(server: RedisServer, folder: Path, kind: str, pool: str) -> float:
    client = server.client()
    client.flushall()
    # The environment names the application that both this process and the worker load.
    environment = {"BENCH_KIND": kind, "BENCH_REDIS": server.url, "C_FORCE_ROOT": "1"}
    left = _fill(client, server.url, kind)
    command = python(
        "celery", "-A", "benchmarks.queue_apps", "worker", "-P", pool, "-c", str(SLOTS), "-l", "WARNING",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "-n", "bench@local",
        *(["-Q", "reports"] if kind == "offload" else []),
    )  # fmt: skip
    worker = Process("worker", command, folder / f"{kind}.log", os.environ | environment)
    try:
        first, last = TASKS - TASKS // 10, TASKS // 10
        until(lambda: left() <= first, "the first tenth", seconds=60, pause_seconds=0.002)
        started, at_start = time.perf_counter(), left()
        until(lambda: left() <= last, "the last tenth", seconds=60, pause_seconds=0.002)
        ended, at_end = time.perf_counter(), left()
        return (at_start - at_end) / (ended - started)
    finally:
        worker.kill()


def _fill(client: redis.Redis, url: str, kind: str) -> Callable[[], int]:
    """Publish all tasks; returns what tells how many are left, those that run included."""
    if kind == "offload":
        step = NewStep.of(RENDER_REPORT, RenderReport(rows=1))
        for number in range(TASKS):
            made = messages.envelopes(f"t{number}", [(step,)], {}, origin="bench")
            task = records.NewTask(f"t{number}", "report", "bench", ((step,),), made)
            TaskStore("offload:", "offload:queue:").accept(task).run(client)
        return lambda: int(client.hlen("offload:queue:reports:live"))
    os.environ |= {"BENCH_KIND": kind, "BENCH_REDIS": url}
    import importlib

    from benchmarks import queue_apps

    app = importlib.reload(queue_apps).app
    task = app.tasks["bench.noop"]
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(TASKS):
            task.apply_async(producer=producer)
    app.close()
    if kind in {"leases", "adopted"}:
        live = f"{'leases:' if kind == 'leases' else 'offload:queue:'}celery:live"
        return lambda: int(client.hlen(live))
    return lambda: int(client.llen("celery")) + int(client.hlen("unacked"))
