"""Faults on a schedule, over real services as processes. `--full` runs all of them at their full size.

Without it, a small part of each storm runs: enough to see that a promise breaks, not how rarely.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.conftest import FAST, Offload

from devstack.processes import Process
from devstack.waiting import until

from . import report

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
# The lease that users have, and one trace in twenty: the receiver is a process of the test's own.
REAL = {
    "OFFLOAD_LEASE_SECONDS": "10",
    "OFFLOAD_SWEEP_INTERVAL_SECONDS": "1",
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.05",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="all faults at their full size (tests/faults)")
    parser.addoption(
        "--cluster", action="store_true", help="those against a release on a cluster, alone (tests/faults)"
    )
    parser.addoption("--seed", type=int, help="repeat a storm (tests/faults)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full, cluster = config.getoption("--full"), config.getoption("--cluster")
    if full or cluster:
        for item in items:
            item.add_marker(pytest.mark.timeout(1500))

    def is_wanted(item: pytest.Item) -> bool:
        if cluster or item.get_closest_marker("cluster"):
            return cluster and item.get_closest_marker("cluster") is not None
        return full or item.get_closest_marker("full") is None

    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = [item for item in items if is_wanted(item)]


@dataclass
class Scale:
    """How much of a fault: all of it, or enough for a try."""

    is_full: bool
    seed: int

    def of(self, full: int, quick: int) -> int:
        return full if self.is_full else quick


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    given = request.config.getoption("--seed")
    seed = given if given is not None else random.randrange(2**16)
    print("seed", seed)
    return Scale(request.config.getoption("--full"), seed)


@pytest.fixture(autouse=True)
def _small_runs_are_not_reported(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the rows of a small part of a storm out of the report, which tells of faults at their full size."""
    options = request.config
    if not (options.getoption("--full") or options.getoption("--cluster")):
        monkeypatch.setattr(report, "ROWS", tmp_path / "rows.jsonl")


class Stack(Offload):
    """A stack with a worker that can be poisoned, and the mail server's ledger."""

    def mails(self) -> Counter[str]:
        """Return how many mails the server has taken for each address, from its ledger on disk."""
        path = self.folder / "mails.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return Counter(address for line in lines if line["taken"] for address in line["to"])

    def poisoned(self, whom: str) -> Process:
        """Start an image worker whose `whom`, child or worker, a photo with the word POISON in it kills."""
        name = f"image_worker-poisoned-{len(self.processes)}"
        command = [sys.executable, str(HERE / "poisoned_worker.py"), whom, "-n", f"{name}@local"]
        process = Process(name, command, self.folder / f"{name}.log", self.environment_of("image_worker"))
        self.processes.append(process)
        process.wait_for(" ready.", seconds=90)
        return process


@pytest.fixture
def stack(tmp_path: Path, scale: Scale) -> Iterator[Stack]:
    """Servers of this test's own. At full size with the lease that users have."""
    with Stack(tmp_path, FAST | (REAL if scale.is_full else {}), image_slots=2) as made:
        yield made


@dataclass
class Fleet:
    """Workers of one kind that are killed or stopped, and replaced, as a cluster would."""

    stack: Offload
    module: str
    settings: dict[str, str]
    chance: random.Random
    workers: list[Process] = field(default_factory=list)
    # When, in seconds since the epoch.
    ended: list[float] = field(default_factory=list)

    def start(self, count: int, *, wait: bool = True) -> Fleet:
        """Start so many workers."""
        started = [self.stack.worker(self.module, self.settings, wait=False) for _ in range(count)]
        self.workers += started
        if wait:
            for worker in started:
                worker.wait_for(" ready.", seconds=90)
        return self

    def kill(self) -> None:
        """Kill one that is at work, with all its children, and start another. One stays: its slots are free."""
        victim = self._take_out(leave=1)
        self.ended.append(time.time())
        victim.kill()
        self.start(1, wait=False)

    def stop(self) -> None:
        """Stop one in order, and start another."""
        victim = self._take_out(leave=0)
        self.ended.append(time.time())
        victim.terminate()
        self.start(1, wait=False)
        until(lambda: victim.exit_code is not None, "the worker to stop", seconds=120)
        assert victim.exit_code == 0, victim.output()[-2000:]

    def _take_out(self, leave: int) -> Process:
        def ready() -> list[Process]:
            found = [one for one in self.workers if " ready." in one.output()]
            return found if len(found) > leave else []

        victim = self.chance.choice(until(ready, "enough workers to be ready", seconds=90))
        self.workers.remove(victim)
        return victim
