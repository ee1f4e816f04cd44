"""Lists of tasks among a million records, while more arrive: how long a page takes, whatever it is asked for."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING

import httpx
from rich.table import Table

from benchmarks.measure import console
from devstack.stack import Stack
from offload_core import keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.records import STATES
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from pathlib import Path

    import redis

TASKS = int(os.environ.get("BENCH_TASKS", "1000000"))
PAGES = 100
PER_SECOND = 100
STORE = TaskStore("offload:", "offload:queue:", keep_ms=86_400_000)
FILTERS: dict[str, dict[str, str]] = {
    "none": {},
    "state=FAILURE (5 %)": {"state": "FAILURE"},
    "state, many": {"state": "PENDING,STARTED,RETRY"},
    "tag of one in 20": {"tag": "n:7"},
    "tag of one in 100,000": {"tag": "rare"},
    "tag of none": {"tag": "none"},
    "task type of none": {"task": "no.such.v1"},
    "error code": {"error_code": "it.failed"},
    "trace of none": {"trace_id": "0" * 32},
    "created before the middle": {},
}


def measure(folder: Path) -> None:
    """Fill Redis, list with each filter while tasks arrive, and turn the pages of one list to its end."""
    shutil.rmtree(folder, ignore_errors=True)
    with Stack(folder, {"OFFLOAD_QUEUE_LIMIT": "10000000", "OFFLOAD_LOG_LEVEL": "WARNING"}) as stack:
        client = stack.redis.client()
        empty = client.info("memory")["used_memory"]
        _fill(client)
        used = client.info("memory")["used_memory"] - empty
        lists = sum(
            client.memory_usage(key, samples=0) or 0 for key in client.scan_iter("offload:tasks:*", count=10_000)
        )
        middle = client.zrange(keys.tasks("offload:", "", "SUCCESS"), -1, -1, withscores=True)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle[0][1] / 1000 - 60))
        stack.gateway()
        stop = threading.Event()
        arriving = threading.Thread(target=_arrive, args=(stack.url, stop))
        arriving.start()
        try:
            table = Table(f"{TASKS:,} records, {PER_SECOND} more a second", "p50 ms", "p95 ms", "tasks on a page")
            with httpx.Client(base_url=stack.url, timeout=30) as api:
                for name, filters in FILTERS.items():
                    asked = filters or ({"created_before": created} if "middle" in name else {})
                    table.add_row(name, *_pages(api, asked))
                console.print(table)
                console.print("aim: p95 of 50 ms or less, whatever the filter\n")
                _turn(api, client)
        finally:
            stop.set()
            arriving.join()
        console.print(f"Redis: {used / TASKS:,.0f} bytes a task, {lists / TASKS:,.0f} of them for the lists\n")


def _fill(client: redis.Redis) -> None:
    rng, publisher = random.Random(1), Publisher("bench")
    steps = [NewStep("report.render.v1", "reports", {"rows": 1})]
    pipe = client.pipeline(transaction=False)
    for number in range(TASKS):
        tags = (f"n:{number % 20}", *(["rare"] if number % 100_000 == 5 else []))
        task = publisher.task(f"{rng.getrandbits(128):032x}", "report", "development", steps, tags=tags)
        step, run = keys.step_of(task.task_id), (0, 1)
        calls = [STORE.accept(task)]
        state = STATES[3] if number % 20 else rng.choice(STATES)
        if state not in {"PENDING", "REVOKED"}:
            calls.append(STORE.start(step, run, "bench", {}))
        if state == "REVOKED":
            calls.append(STORE.cancel(task.task_id))
        elif state == "RETRY":
            calls.append(STORE.retry(step, run, {"code": "it.failed", "message": ""}, 1))
        elif state == "SUCCESS":
            calls.append(STORE.finish(step, run, state, {}))
        elif state == "FAILURE":
            calls.append(STORE.finish(step, run, state, {"code": "it.failed", "message": ""}))
        for call in calls:
            pipe.execute_command(*call.script.command((), call.arguments, full=number < 1000))
        if number % 1000 == 999:
            pipe.execute()


def _arrive(url: str, stop: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        due = time.monotonic()
        while not stop.is_set():
            client.post("/v1/reports", json={"rows": 1, "tags": ["late"]}).raise_for_status()
            due += 1 / PER_SECOND
            stop.wait(max(due - time.monotonic(), 0))


def _pages(api: httpx.Client, asked: dict[str, str]) -> tuple[str, str, str]:
    """Turn pages until there are so many; returns p50, p95 and the tasks on a page."""
    times, found, after = [], [], None
    for _ in range(PAGES):
        began = time.perf_counter()
        page = api.get("/v1/tasks", params=asked | ({"after": after} if after else {})).raise_for_status().json()
        times.append((time.perf_counter() - began) * 1000)
        found.append(len(page["data"]))
        after = page["next"]
    p95 = statistics.quantiles(times, n=20)[-1]
    return f"{statistics.median(times):.1f}", f"{p95:.1f}", f"{statistics.mean(found):.1f}"


def _turn(api: httpx.Client, client: redis.Redis) -> None:
    """Turn all pages of the failed tasks: each of them comes once."""
    expected = {one.decode() for one in client.zrange(keys.tasks("offload:", "development", "FAILURE"), 0, -1)}
    found: list[str] = []
    after: str | None = None
    while True:
        asked = {"state": "FAILURE", "limit": "100"} | ({"after": after} if after else {})
        page = api.get("/v1/tasks", params=asked).raise_for_status().json()
        found += [task["task_id"] for task in page["data"]]
        after = page["next"]
        if after is None:
            break
    missed, repeated = len(expected - set(found)), len(found) - len(set(found))
    console.print(f"all pages of {len(expected):,} failed tasks: {missed} missed, {repeated} repeated\n")
