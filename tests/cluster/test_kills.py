"""Workers killed without a word, from the host and by the API: their work is back within seconds, and done once."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import pytest

from devstack.waiting import until

from .cluster import Release, Tally, kill_container, seconds_of
from .conftest import SMALL

# A report of so many rows takes some seconds on a core that it shares: it does not end in the three seconds that a
# deletion by force leaves.
ROWS = 100_000
TIMES = 4


@pytest.fixture(scope="module")
def release(images):
    """Two workers of one slot each, without KEDA: one is killed, the other lives."""
    made = Release(
        "offload-kills",
        [
            *images, "-f", str(SMALL), "--set",
            "keda.enabled=false,workers.image.replicas=2,workers.image.concurrency=1,gateway.replicas=1",
            # A report that shares a slow core with what was killed and starts again must not reach its limit.
            "--set", "workerDefaults.softTimeLimitSeconds=100,workerDefaults.hardTimeLimitSeconds=110",
            "--set", "workerDefaults.drainSeconds=120,workerDefaults.terminationGracePeriodSeconds=130",
        ],
    ).install()  # fmt: skip
    yield made
    made.delete()


def running_on(client, pod: dict) -> list[str]:
    """Return the tasks whose step runs in a pod."""
    name = pod["metadata"]["name"]
    tasks = {task_id: client.task(task_id) for task_id in client.accepted}
    return [
        task_id
        for task_id, task in tasks.items()
        if task["steps"][0]["state"] == "STARTED" and name in (task["steps"][0]["worker"] or "")
    ]


def begun_on(client, pods: list[dict]) -> tuple[dict, str] | None:
    """Return a pod and a report that it has just begun."""
    for pod in pods:
        for task_id in running_on(client, pod):
            if time.time() - seconds_of(client.task(task_id)["steps"][0]["started_at"]) < 2:
                return pod, task_id
    return None


@contextlib.contextmanager
def chains_beside(release: Release):
    """Post a chain with a mail each second: what is killed is worth little without something that goes on beside it."""
    stop = threading.Event()

    def post() -> None:
        while not stop.wait(1.0):
            client.post_photo()

    with release.client() as client:
        thread = threading.Thread(target=post)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        Tally.of(release, client, seconds=240).check()


def kill_once(release: Release, client, how) -> float | None:
    """Kill a fresh worker in the middle of a report; returns the seconds until it ran again, None if it had ended."""
    until(lambda: len(release.ready_pods("worker-image")) == 2, "two workers that are ready", seconds=120)
    client.post_report(ROWS)
    pod, task_id = until(lambda: begun_on(client, release.ready_pods("worker-image")), "a report that runs", seconds=60)
    deliveries = client.task(task_id)["steps"][0]["deliveries"]
    killed_at = time.time()
    how(release, pod)

    def again() -> dict | None:
        step = client.task(task_id)["steps"][0]
        return step if step["deliveries"] > deliveries or step["state"] == "SUCCESS" else None

    step = until(again, "the second run", seconds=30)
    return time.time() - killed_at if step["deliveries"] > deliveries else None


def kill_again_and_again(release: Release, how) -> tuple[Tally, list[float]]:
    """Kill so many times; returns what became of all reports, and the seconds to each second run."""
    with release.client() as client:
        with chains_beside(release):
            waits = [kill_once(release, client, how) for _ in range(TIMES)]
        tally = Tally.of(release, client, seconds=240)
    tally.check()
    return tally, [seconds for seconds in waits if seconds is not None]


def from_the_host(release: Release, pod: dict) -> None:
    assert kill_container(pod) >= 2, "the worker and its pool"
    # A fresh pod for the next time: this one would come back later and later.
    release.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")


def by_force(release: Release, pod: dict) -> None:
    release.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")


@pytest.mark.parametrize("how", [from_the_host, by_force], ids=["SIGKILL", "force"])
def test_kills_lose_nothing_and_double_nothing(release, report, how):
    tally, waits = kill_again_and_again(release, how)
    assert len(waits) >= TIMES // 2
    what = "`kubectl delete pod --force`" if how is by_force else "SIGKILL of every process of a worker's container"
    report.add(
        "Kills", f"{what}, {TIMES} times on fresh pods, another worker alive",
        f"{tally.accepted} reports and chains beside them: 0 lost, 0 doubled; runs again after "
        f"{statistics.median(waits):.1f} s (median), {max(waits):.1f} s (longest of {len(waits)})",
    )  # fmt: skip


def test_the_only_worker_killed(release, report):
    release.upgrade("--set", "workers.image.replicas=1")
    try:
        until(lambda: len(release.ready_pods("worker-image")) == 1, "one worker", seconds=90)
        with release.client() as client:
            task_id = client.post_report(ROWS)
            (pod,) = release.ready_pods("worker-image")
            until(lambda: running_on(client, pod), "the report to run", seconds=60)
            killed_at = time.time()
            assert kill_container(pod) >= 2
            until(lambda: client.task(task_id)["steps"][0]["deliveries"] == 2, "the second run", seconds=90)
            waited = time.time() - killed_at
            Tally.of(release, client, seconds=120).check()
        report.add(
            "Kills", "SIGKILL of the only worker", f"runs again after {waited:.1f} s, container restart included"
        )
    finally:
        release.upgrade()
