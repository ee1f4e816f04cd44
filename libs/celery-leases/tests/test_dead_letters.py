"""What Celery's canvas, callbacks and results see of a message that was given up."""

from __future__ import annotations

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from celery_leases import keys
from celery_leases.admin import Admin
from celery_leases.failures import DeadLetterError
from devstack.waiting import until

from .test_worker import POOLS, PREFIX, signature


def test_a_buried_member_fails_its_chord_and_leaves_nothing_of_it(cluster):
    cluster.worker("-c", "2")
    app, client = cluster.app(), cluster.server.client()
    poison = signature(app, "poison")
    poison.link_error(signature(app, "handled"))
    header = group([signature(app, "add", 1, 1), poison, signature(app, "add", 2, 2)])
    body = signature(app, "add", 0, immutable=True)
    body.link_error(signature(app, "handled"))
    result = chord(header, body).apply_async()
    with pytest.raises(ChordError, match=r"delivery\.limit"):
        app.AsyncResult(result.id).get(timeout=60)
    member = result.parent.results[1]
    until(lambda: cluster.noted("handled")[member.id], "the member's error callback")
    until(lambda: cluster.noted("handled")[result.id], "the body's error callback")
    until(lambda: client.keys("chord-unlock*") + client.keys("*-join*") == [], "nothing of the group to be left")
    with pytest.raises(DeadLetterError):
        member.get(timeout=5, disable_sync_subtasks=False)


def test_a_buried_step_fails_the_rest_of_its_chain(cluster):
    cluster.worker("-c", "1")
    app = cluster.app()
    result = chain(signature(app, "poison"), signature(app, "add", 1), signature(app, "add", 1)).apply_async()
    with pytest.raises(DeadLetterError, match=r"delivery\.limit"):
        result.get(timeout=60)


def test_a_task_that_has_failed_keeps_its_own_exception(cluster):
    cluster.environment["ACKS_ON_FAILURE"] = "0"
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    result = signature(app, "fails").apply_async()
    with pytest.raises(ValueError, match="as asked"):
        result.get(timeout=20)
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)), "the dead letter")
    until(lambda: Admin(client, PREFIX).dead_letters(["work"])[0].reported, "it to be reported")
    with pytest.raises(ValueError, match="as asked"):
        app.AsyncResult(result.id).get(timeout=5)


@pytest.mark.parametrize("counts", [True, False])
def test_requeueing_by_reject_counts_unless_the_option_says_otherwise(cluster, counts):
    cluster.options["count_requeued_rejections"] = counts
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    signature(app, "requeued", "r", 6).apply_async()
    if counts:
        until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)), "the dead letter")
        assert cluster.noted("start")["r"] == 3
    else:
        until(lambda: cluster.noted("start")["r"] == 6, "the sixth run")
        until(lambda: client.hlen(keys.key(PREFIX, "work", keys.LIVE)) == 0, "it to be settled")
        assert client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 0


def test_a_handler_that_hangs_delays_no_task_and_no_killed_workers_work(cluster):
    cluster.options["on_dead_letter"] = "leases_app:hangs_on_a_dead_letter"
    for _ in range(2):
        cluster.worker("-c", "1")
    app = cluster.app()
    signature(app, "rejected").apply_async()
    until(lambda: cluster.noted("reported"), "the handler to be called, and to hang")
    running = signature(app, "effect", "running", 3).apply_async()
    until(lambda: cluster.noted("start")["running"], "the task to start")
    signature(app, "effect", "later").apply_async(countdown=1)
    victim = next(worker for worker in cluster.workers if running.id in worker.output())
    cluster.workers.remove(victim)
    victim.kill()
    until(lambda: cluster.noted("done")["later"], "the delayed task")
    until(lambda: cluster.noted("done")["running"], "the killed worker's task")


@pytest.mark.parametrize("how", ["exit", "interrupt"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_leaves_by_more_than_an_exception_ends_in_every_pool(cluster, pool, how):
    worker = cluster.worker(*POOLS[pool])
    app, client = cluster.app(), cluster.server.client()
    result = signature(app, "leaves", "x", how).apply_async()
    with pytest.raises(DeadLetterError, match=r"delivery\.limit"):
        result.get(timeout=30)
    assert cluster.noted("start")["x"] == 3
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.LIVE)) == 0, "everything to be settled")
    assert worker.stop() == 0
