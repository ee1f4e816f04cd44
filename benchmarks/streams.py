"""What clients cost that follow events while nothing happens, and how fast one event reaches all of them."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.idle import megabytes
from benchmarks.measure import console, cpu_seconds
from devstack.stack import Stack
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from pathlib import Path

STREAMS = 2000
SECONDS = 60
STORE = TaskStore("offload:", "offload:queue:")


def measure(folder: Path) -> None:
    """Open streams, half of them of a task of their own; wait; then let one event come to the others."""
    shutil.rmtree(folder, ignore_errors=True)
    with Stack(folder, {"OFFLOAD_LOG_LEVEL": "WARNING"}) as stack:
        client = stack.redis.client()
        for number in range(STREAMS // 2):
            task = Publisher("bench").task(f"t{number}", "task", "bench", [NewStep("a.b.v1", "nobody", {})])
            STORE.accept(task).run(client)
        gateway = stack.gateway()
        asyncio.run(_measure(stack, gateway.pid))


async def _measure(stack: Stack, pid: int) -> None:
    client = stack.redis.client()
    before = megabytes([pid])
    opened = [await _open(stack.port, f"/v1/tasks/t{number}/events") for number in range(STREAMS // 2)]
    all_tasks = [await _open(stack.port, "/v1/events") for _ in range(STREAMS // 2)]
    await asyncio.sleep(5)  # not a wait: what opening them has cost is over
    cpu = cpu_seconds(pid)
    await asyncio.sleep(SECONDS)  # not a wait: the time that is measured
    share = (cpu_seconds(pid) - cpu) / SECONDS * 100
    memory = megabytes([pid]) - before
    began = time.perf_counter()
    task = Publisher("bench").task("last", "task", "bench", [NewStep("a.b.v1", "nobody", {})])
    await asyncio.to_thread(STORE.accept(task).run, client)
    await asyncio.gather(*(reader.readuntil(b"event: task.accepted") for reader, _ in all_tasks))
    reached = time.perf_counter() - began
    table = Table(f"{STREAMS:,} idle streams, one gateway", "measured", title_justify="left")
    table.add_row("processor", f"{share:.1f} % of a core")
    table.add_row("memory", f"{memory:.0f} MB: {memory / STREAMS * 1000:.0f} kB a stream")
    table.add_row(f"one event to {len(all_tasks):,} of them", f"{reached * 1000:.0f} ms to the last one")
    console.print(table)
    for _, writer in (*opened, *all_tasks):
        writer.close()


async def _open(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"retry: 3000")
    return reader, writer
