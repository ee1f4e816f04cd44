"""Ten thousand schedules: beat's processor time, and how late the occurrences are."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.measure import console, cpu_seconds
from devstack.stack import Stack
from offload_core import keys, schedules
from offload_core.schedules import Definition, Schedule, Template
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from pathlib import Path

SCHEDULES = int(os.environ.get("BENCH_SCHEDULES", "10000"))
# Each comes once in so long: so that many occurrences are due in each second.
EVERY_SECONDS = 60
SECONDS = 60
STORE = TaskStore("offload:", "offload:queue:", keep_ms=86_400_000)


def measure(folder: Path) -> None:
    """Write the schedules, spread evenly over their interval, and look at beat for a while."""
    shutil.rmtree(folder, ignore_errors=True)
    with Stack(folder, {"OFFLOAD_LOG_LEVEL": "WARNING"}, telemetry=False) as stack:
        client, now = stack.redis.client(), round(time.time() * 1000)
        for number in range(SCHEDULES):
            starts_at = now - now % 1000 + number * EVERY_SECONDS * 1000 // SCHEDULES // 1000 * 1000
            definition = Definition(
                Template("a.b.v1", "nobody", "", {"number": number}),
                every_seconds=EVERY_SECONDS,
                starts_at=starts_at,
                overlap="allow",
            )
            one = Schedule.new("bench", f"s{number}", definition, now)
            schedules.put(
                STORE, one, if_match=None, must_be_new=True, due=one.next_due(now), limit=SCHEDULES + 1
            ).run(client)  # fmt: skip
        beat = stack.service("beat")
        time.sleep(EVERY_SECONDS)  # what came due while they were written is caught up
        begun, cpu = time.time() * 1000, cpu_seconds(beat.pid)
        time.sleep(SECONDS)
        share, ended = (cpu_seconds(beat.pid) - cpu) / SECONDS, time.time() * 1000
        lags = _lags(client, begun, ended)
        quantiles = statistics.quantiles(lags, n=100)
        table = Table(f"{SCHEDULES:,} schedules, each once in {EVERY_SECONDS} s", "", title_justify="left")
        table.add_row("occurrences", f"{len(lags):,} in {SECONDS} s")
        table.add_row("beat's processor time", f"{share * 100:.0f} % of a core")
        table.add_row("lag, p50 / p99 / the longest", f"{quantiles[49]:.2f} / {quantiles[98]:.2f} / {max(lags):.2f} s")
        console.print(table)
        console.print("aim: a lag of 1 s or less at p99\n")


def _lags(client: Any, begun: float, ended: float) -> list[float]:
    """Return how long after it was due (s) each occurrence of a time span was published."""
    found = client.zrangebyscore(keys.tasks("offload:", "bench", "PENDING"), begun, ended, withscores=True)
    moments = ((task_id.decode().partition("@")[2], created_at / 1000) for task_id, created_at in found)
    return [
        created_at - datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        for text, created_at in moments
    ]
