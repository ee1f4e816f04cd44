"""What an installation costs that has nothing to do: processor time, memory, and commands to Redis."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.measure import console, cpu_seconds
from devstack import history
from devstack.stack import WORKERS, Stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import redis

    from devstack.processes import Process

SECONDS = 60
# The first look at everything is over: caches are filled, health was checked.
SETTLE_SECONDS = 15


def measure(folder: Path, before: Mapping[str, Mapping[str, str]]) -> None:
    """Start the services of each commit in `before`, and then ours, with their defaults, and print what they cost."""
    for name, environment in (*before.items(), ("now", {})):
        shutil.rmtree(folder, ignore_errors=True)
        with Stack(folder, environment, telemetry=False) as stack:
            stack.start_all(one for one in WORKERS if name == "now" or history.has_service(name, one))
            time.sleep(SETTLE_SECONDS)
            _show(name, stack)


def _show(name: str, stack: Stack) -> None:
    trees = {process.name: list(_tree(process)) for process in stack.processes}
    client = stack.redis.client()
    cpu = {process: sum(map(cpu_seconds, pids)) for process, pids in trees.items()}
    commands = _commands(client)
    time.sleep(SECONDS)
    table = Table(f"idle, {name}", "CPU, % of a core", "memory, MB", title_justify="left")
    for process, pids in trees.items():
        percent = (sum(map(cpu_seconds, pids)) - cpu[process]) / SECONDS * 100
        table.add_row(process, f"{percent:.1f}", f"{megabytes(pids):.0f}")
    console.print(table)
    console.print(f"Redis: {(_commands(client) - commands) / SECONDS:.1f} commands a second\n")


def _tree(process: Process) -> Iterable[int]:
    waiting = [process.pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())


def megabytes(pids: Iterable[int]) -> float:
    """Return the proportional set size: what processes share is counted once."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total * 1024 / 1e6


def _commands(client: redis.Redis) -> int:
    found: Any = client.info("stats")
    return int(found["total_commands_processed"])
