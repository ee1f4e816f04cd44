"""Accepting the items of a long batch beside single posts of the same tasks, to one gateway."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

from benchmarks.measure import Comparison, http, in_turn, load
from devstack.stack import Stack
from devstack.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = 5_000
TASK = {"task": "report.render.v1", "input": {"rows": 1}}
NO_LIMIT = {"OFFLOAD_QUEUE_LIMIT": "10000000", "OFFLOAD_LOG_LEVEL": "WARNING"}


def accept(folder: Path) -> None:
    """Compare them by throughput, and by the gateway's processor time for a task."""
    shutil.rmtree(folder, ignore_errors=True)
    with Stack(folder, NO_LIMIT, telemetry=False) as stack:
        gateway = stack.gateway()
        # Only that the task type is known: nothing is to run beside it.
        worker = stack.worker("image_worker", {"OFFLOAD_LOG_LEVEL": "INFO"})
        client = stack.client()
        until(lambda: client.post("/v1/tasks", json=TASK).status_code == 202, "the task type")
        worker.stop()
        single = http("POST", "/v1/tasks", json.dumps(TASK).encode(), "application/json")
        lines = b"".join(json.dumps({"index": index, **TASK}).encode() + b"\n" for index in range(ITEMS))
        cpu: dict[str, list[float]] = {"single posts": [], "a long batch": []}

        def posts() -> float:
            found = load(stack.port, single, gateway.pid, requests=2000, connections=8)
            cpu["single posts"].append(found.cpu_microseconds)
            return found.per_second

        def batch() -> float:
            url = client.post("/v1/batches", json={"expected": ITEMS}).raise_for_status().headers["Location"]
            body = http("POST", f"{url}/items", lines, "application/x-ndjson")
            began = time.perf_counter()
            found = load(stack.port, body, gateway.pid, requests=1, connections=1)
            seconds = time.perf_counter() - began
            cpu["a long batch"].append(found.cpu_microseconds / ITEMS)
            assert client.get(url).json()["have"] == ITEMS
            return ITEMS / seconds

        sides = {"single posts": posts, "a long batch": batch}
        for side in sides.values():
            side()  # warm
        for found in cpu.values():
            found.clear()
        rate = in_turn(sides)
    Comparison("accept, throughput", "tasks/s", rate, more_is_better=True).show("5 x or more")
    Comparison("accept, gateway's CPU", "µs/task", cpu, more_is_better=False).show("3 x or more")
