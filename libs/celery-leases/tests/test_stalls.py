"""Tasks that keep the interpreter's lock for longer than a lease, in the process that holds the lease."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from celery_leases.admin import Admin
from devstack.waiting import until

LEASE_SECONDS = 1.5
STANDS_IN = "while it is silent"


def stand_in_of(process: int) -> int | None:
    """Return the process that renews for another one."""
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"celery_leases.renewal" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_task_that_keeps_the_interpreters_lock_keeps_its_lease(cluster, pool):
    busy = cluster.worker("--pool", pool, "-c", "2")
    until(lambda: STANDS_IN in busy.output(), "the stand-in")
    cluster.app().send_task("leases_app.stalls", ("long", 4 * LEASE_SECONDS))
    until(lambda: cluster.noted("start")["long"], "the task to begin")
    idle = cluster.worker("--pool", pool, "-c", "2")
    until(lambda: cluster.noted("done")["long"], "the task to end")
    cluster.app().send_task("leases_app.effect", ("next",))
    until(lambda: cluster.noted("done")["next"], "another task to be done")
    until(lambda: cluster.server.client().hlen("leases:work:live") == 0, "both to be settled")
    assert cluster.noted("start")["long"] == 1
    assert "its leases are renewed" in busy.output()
    assert "its leases are renewed" not in idle.output()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stand_in_renews_for_no_process_that_is_dead_or_stopped(cluster, how):
    busy = cluster.worker("--pool", "threads", "-c", "2")
    stand_in = until(lambda: stand_in_of(busy.pid), "the stand-in")
    # Long enough for a busy machine to notice.
    cluster.app().send_task("leases_app.stalls", ("short", 4 * LEASE_SECONDS))
    until(lambda: "its leases are renewed" in busy.output(), "the stand-in to renew")
    os.kill(busy.pid, how)
    cluster.worker("--pool", "threads", "-c", "2")
    until(lambda: cluster.noted("done")["short"], "another worker to do it", seconds=40)
    if how == signal.SIGKILL:
        until(lambda: not Path(f"/proc/{stand_in}").exists(), "the stand-in to end")


def test_a_task_that_never_gives_the_lock_back_loses_its_lease(cluster):
    cluster.options["stall_seconds"] = 2 * LEASE_SECONDS
    cluster.worker("--pool", "threads", "-c", "1")
    cluster.app().send_task("leases_app.stalls", ("endless", 3600))
    until(lambda: cluster.noted("start")["endless"] == 1, "the task to begin")
    cluster.worker("--pool", "threads", "-c", "1")
    until(lambda: cluster.noted("start")["endless"] == 2, "the other worker to begin it", seconds=20)


def test_a_stand_in_that_dies_is_replaced(cluster):
    busy = cluster.worker("--pool", "threads", "-c", "2")
    until(lambda: STANDS_IN in busy.output(), "the stand-in")
    os.kill(stand_in_of(busy.pid), signal.SIGKILL)
    until(lambda: busy.output().count(STANDS_IN) == 2, "another stand-in")
    cluster.app().send_task("leases_app.stalls", ("long", 4 * LEASE_SECONDS))
    until(lambda: cluster.noted("start")["long"], "the task to begin")
    cluster.worker("--pool", "threads", "-c", "2")
    until(lambda: cluster.noted("done")["long"], "the task to end")
    assert cluster.noted("start")["long"] == 1


def test_a_prefork_worker_needs_no_stand_in(cluster):
    worker = cluster.worker("-c", "1")
    cluster.app().send_task("leases_app.stalls", ("long", 2 * LEASE_SECONDS))
    until(lambda: cluster.noted("done")["long"], "the task to end")
    assert cluster.noted("start")["long"] == 1
    assert stand_in_of(worker.pid) is None


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
def test_a_task_that_waits_for_its_rate_limit_keeps_its_lease(cluster, pool):
    """Two seconds each, and leases of 1.5: the last one waits for more than three leases."""
    app, client = cluster.app(), cluster.server.client()
    for number in range(4):
        app.send_task("leases_app.limited", (f"t{number}",))
    for _ in range(2):
        cluster.worker("--pool", pool, "-c", "4")
    until(lambda: cluster.noted("done").total() >= 4, "all to be done")
    until(lambda: client.hlen("leases:work:live") == 0, "all to be settled")
    assert set(cluster.noted("done").values()) == {1}
    assert not Admin(client, "leases:").dead_letters(["work"])


def test_a_child_that_hangs_before_it_begins_is_ended(cluster):
    """Stopped, as one is that waits for ever for a lock it was forked with."""
    cluster.options["begin_seconds"] = 2.0
    worker = cluster.worker("-c", "1")
    (child,) = worker.children()
    os.kill(child, signal.SIGSTOP)
    cluster.app().send_task("leases_app.step", ("next",))
    until(lambda: cluster.noted("done")["next"], "another child to do it", seconds=20)
    assert cluster.noted("start") == {"next:1": 1}
    assert f"ending the pool's process {child}" in worker.output()


def test_a_child_that_hangs_in_its_task_is_ended_by_the_hard_limit(cluster):
    worker = cluster.worker("-c", "1", "--time-limit", "3")
    cluster.app().send_task("leases_app.effect", ("hung", 3600))
    until(lambda: cluster.noted("start"), "the task to begin")
    (child,) = worker.children()
    os.kill(child, signal.SIGSTOP)
    cluster.app().send_task("leases_app.effect", ("next",))
    until(lambda: cluster.noted("done")["next"], "another child to do the next one", seconds=20)
    until(lambda: cluster.server.client().hlen("leases:work:live") == 0, "both to be settled")
    assert cluster.noted("start") == {"hung": 1, "next": 1}
