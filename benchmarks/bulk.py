"""Cancelling a hundred thousand tasks by a filter: how long it takes, and how long anybody else waits for Redis."""

from __future__ import annotations

import os
import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measure import console
from devstack.stack import Stack
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from pathlib import Path

    import redis

TASKS = int(os.environ.get("BENCH_TASKS", "100000"))
SLOW_MICROSECONDS = 10_000
STORE = TaskStore("offload:", "offload:queue:", keep_ms=86_400_000)


def measure(folder: Path) -> None:
    """Fill Redis, cancel all of it, and look at Redis meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    with Stack(folder, {"OFFLOAD_LOG_LEVEL": "WARNING"}) as stack:
        client = stack.redis.client()
        _fill(client)
        stack.gateway()
        stack.worker("housekeeper", {"OFFLOAD_LOG_LEVEL": "INFO"})
        client.config_set("slowlog-log-slower-than", SLOW_MICROSECONDS)
        client.config_set("latency-monitor-threshold", SLOW_MICROSECONDS // 1000)
        client.slowlog_reset()
        stop, pings = threading.Event(), []
        pinging = threading.Thread(target=_ping, args=(stack.redis.client(), stop, pings))
        pinging.start()
        api, began = stack.client(), time.monotonic()
        asked = {"action": "cancel", "filter": {"tenant": "development"}}
        location = api.post("/v1/bulk", json=asked).raise_for_status().headers["Location"]
        while not (found := api.get(location).json())["finished_at"]:
            time.sleep(0.2)
        seconds = time.monotonic() - began
        stop.set()
        pinging.join()
        scripts = [one["duration"] / 1000 for one in client.slowlog_get(128) if b"EVAL" in one["command"]]
        table = Table(f"{found['done']:,} tasks cancelled by a filter", "", title_justify="left")
        table.add_row("in all", f"{seconds:.0f} s, {found['done'] / seconds:,.0f} tasks a second")
        table.add_row(
            "scripts of more than 10 ms (SLOWLOG)", f"{len(scripts)}, the longest {max(scripts, default=0):.1f} ms"
        )
        latency = {one[0].decode(): one[3] for one in client.execute_command("LATENCY", "LATEST")}
        table.add_row("latency monitor, the worst in ms", str(latency or "nothing of 10 ms or more"))
        quantiles = statistics.quantiles(pings, n=1000)
        table.add_row(
            "another client's PING, p50 / p99 / p99.9 ms", " / ".join(f"{quantiles[n]:.1f}" for n in (499, 989, 998))
        )
        console.print(table)


def _fill(client: redis.Redis) -> None:
    publisher, pipe = Publisher("bench"), client.pipeline(transaction=False)
    steps = [NewStep("report.render.v1", "reports", {"rows": 1})]
    for number in range(TASKS):
        call = STORE.accept(publisher.task(f"{number:032x}", "report", "development", steps))
        pipe.execute_command(*call.script.command((), call.arguments, full=number < 1000))
        if number % 1000 == 999:
            pipe.execute()
    pipe.execute()


def _ping(client: redis.Redis, stop: threading.Event, found: list[float]) -> None:
    while not stop.wait(0.002):
        began = time.perf_counter()
        client.ping()
        found.append((time.perf_counter() - began) * 1000)
