"""Real workers on a real broker: everything of Celery works as it does elsewhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from celery_leases import keys
from celery_leases.admin import Admin, Depth, Limits
from devstack.processes import Process
from devstack.waiting import until

POOLS = {"prefork": ("-c", "2"), "threads": ("-P", "threads", "-c", "2"), "solo": ("-P", "solo")}
PREFIX = "leases:"


def signature(app, name: str, *args, **options):
    return app.signature(f"leases_app.{name}", args=args, **options)


@pytest.mark.parametrize("pool", POOLS)
def test_canvas_works_in_every_pool(cluster, pool):
    cluster.worker(*POOLS[pool])
    app = cluster.app()
    add = lambda *args: signature(app, "add", *args)  # noqa: E731
    assert chain(add(1, 2), add(3), add(4)).apply_async().get(timeout=20) == 10
    assert sorted(group(add(i, 1) for i in range(4)).apply_async().get(timeout=20)) == [1, 2, 3, 4]
    assert chord([add(i, 1) for i in range(4)], signature(app, "delivery", immutable=True)).apply_async().get(
        timeout=20
    ) == [1, False]
    assert signature(app, "flaky", 0.2).apply_async().get(timeout=20) == 2
    assert signature(app, "replaced", 4).apply_async().get(timeout=20) == 5
    failing = signature(app, "fails")
    failing.link_error(signature(app, "handled"))
    result = failing.apply_async()
    until(lambda: cluster.noted("handled")[result.id], "the error callback")
    # The last acknowledgement comes after the last effect.
    empty = Depth("work", waiting=0, running=0, delayed=0, dead=0)
    until(lambda: Admin(cluster.server.client(), PREFIX).depth("work") == empty, "nothing to be left")


def test_delayed_tasks_wait_in_redis(cluster):
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    started = time.time()
    results = [
        signature(app, "add", 1, 1).apply_async(countdown=2),
        signature(app, "add", 1, 1).apply_async(eta=datetime.now(UTC) + timedelta(seconds=2)),
    ]
    assert client.zcard(keys.key(PREFIX, "work", keys.DELAYED)) == 2
    # A naive time is one of the application's zone, as Celery has it.
    naive = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=2)
    results.append(signature(app, "add", 1, 1).apply_async(eta=naive))
    assert [result.get(timeout=20) for result in results] == [2, 2, 2]
    assert time.time() - started >= 2


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_leaves_a_paused_queue_alone_and_wakes_when_it_is_resumed(cluster, pool):
    client, app = cluster.server.client(), cluster.app()
    admin, wake_ups = Admin(client, PREFIX), keys.key(PREFIX, "work", keys.WAKE_UP)
    cluster.worker(*POOLS[pool])
    running = signature(app, "step", "a", 1.0).apply_async()
    until(lambda: admin.depth("work").running == 1, "a task to run")
    assert admin.pause("work")
    results = []
    for number in range(3):
        results.append(signature(app, "add", number, 0).apply_async())
        if number == 0:
            assert running.get(timeout=20), "what runs goes on"
        # Each wake-up that is gone is a look of the worker's; the look before it has ended then.
        until(lambda: not client.exists(wake_ups), "the worker to look")
    assert admin.depth("work") == dataclasses.replace(admin.depth("work"), waiting=3, running=0)
    admin.limit("work", max_running=1)
    assert admin.resume("work")
    assert [result.get(timeout=20) for result in results] == [0, 1, 2]


def test_expired_and_revoked_tasks_do_not_run(cluster):
    app = cluster.app()
    expired = signature(app, "effect", "expired").apply_async(expires=0.01, ignore_result=False)
    worker = cluster.worker("-c", "1")
    revoked = signature(app, "effect", "revoked").apply_async(countdown=1, ignore_result=False)
    app.control.revoke(revoked.id, destination=["w1@test"], reply=True)
    for result in (expired, revoked):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
    assert cluster.noted("start") == {}
    assert worker.exit_code is None


def test_remote_control_and_events(cluster):
    cluster.worker("-c", "1", "-E")
    app = cluster.app()
    assert app.control.inspect(timeout=5, limit=1).ping() == {"w1@test": {"ok": "pong"}}
    seen, sent = cluster.listen(app)
    assert seen == [sent]


def test_remote_control_leaves_no_keys(cluster):
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    for _ in range(3):
        app.control.inspect(timeout=5, limit=1).ping()
    with app.connection_for_read() as connection:
        connection.default_channel.queue_delete("nothing")
    assert [key for key in client.keys("*reply*") if b"binding" not in key and client.pttl(key) < 0] == []
    assert Admin(client, PREFIX).queues() == []


def test_a_running_task_is_not_run_twice_however_long_it_is(cluster):
    cluster.worker("-c", "1")
    cluster.worker("-c", "1")
    # Three leases long.
    signature(cluster.app(), "effect", "long", 4.6).apply_async()
    until(lambda: cluster.noted("done")["long"], "the long task")
    assert cluster.noted("start") == {"long": 1}


def test_a_task_that_no_worker_knows_waits_for_one_that_does(cluster):
    cluster.options |= {"unknown_task_delay_seconds": 0.3, "unknown_task_grace_seconds": 600}
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    app.send_task("newer.task", task_id="newer")
    until(lambda: client.hget(keys.key(PREFIX, "work", keys.HISTORY), "newer:0:0"), "the message to be handed back")
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    assert client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 0
    assert app.AsyncResult("newer").state == "PENDING"


def test_a_task_that_nobody_ever_knows_is_buried_and_failed(cluster):
    cluster.options |= {"unknown_task_delay_seconds": 0.2, "unknown_task_grace_seconds": 0.5}
    cluster.worker("-c", "1")
    app = cluster.app()
    result = app.send_task("newer.task")
    until(lambda: app.AsyncResult(result.id).state == "FAILURE", "the failure")
    assert "contract.unknown" in str(app.AsyncResult(result.id).result)


def test_what_cannot_be_decoded_is_kept(cluster):
    client = cluster.server.client()
    app = cluster.app()
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        broken = channel.prepare_message(
            "{not json", content_type="application/json", content_encoding="utf-8",
            headers={"task": "leases_app.add", "id": "broken"},
        )  # fmt: skip
        channel.basic_publish(broken, "", "work")
        pickled = channel.prepare_message(
            "cos", content_type="application/x-python-serialize", content_encoding="binary",
            headers={"task": "leases_app.add", "id": "pickled"},
        )  # fmt: skip
        channel.basic_publish(pickled, "", "work")
        base64 = channel.prepare_message(
            "x", content_type="application/json", content_encoding="utf-8",
            headers={"task": "leases_app.add", "id": "b64"},
        )  # fmt: skip
        channel.basic_publish(base64, "", "work")
        foreign = channel.prepare_message("hello", content_type="text/plain", content_encoding="utf-8")
        channel.basic_publish(foreign, "", "work")
    live = keys.key(PREFIX, "work", keys.LIVE)
    # Its body is no base64 any more: kombu would raise where nobody catches it.
    client.hset(live, "b64:0:0", client.hget(live, "b64:0:0").replace(b'"body": "', b'"body": "?'))
    client.hset(live, "garbage", b"\xff\x00")
    client.lpush(keys.key(PREFIX, "work", keys.WAITING), "garbage")
    worker = cluster.worker("-c", "1")
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 5, "five dead letters")
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    until(lambda: app.AsyncResult("broken").state == "FAILURE", "its failure to be stored")
    assert worker.exit_code is None


def test_a_rejected_message_is_kept(cluster):
    cluster.worker("-c", "1")
    client = cluster.server.client()
    signature(cluster.app(), "rejected").apply_async(task_id="no")
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 1, "the dead letter")
    assert Admin(client, PREFIX).dead_letters(["work"])[0].task_id == "no"


def test_purge_spares_what_runs(cluster):
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    running = signature(app, "step", "a", 2).apply_async()
    until(lambda: cluster.noted("start"), "the task to start")
    for _ in range(3):
        signature(app, "add", 1, 1).apply_async()
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("work") == 3
    assert running.get(timeout=20) == "a."
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.LIVE)) == 0, "nothing to be left")


def test_a_stock_peer_shares_the_database(cluster, tmp_path):
    """No key and no channel of stock Celery is touched, and none of ours is seen by it."""
    cluster.worker("-c", "1")
    code = (
        "import os, leases_app; leases_app.app.conf.broker_transport='redis';"
        "leases_app.app.conf.worker_disable_prefetch=False;"
        "leases_app.app.worker_main(['worker','-P','solo','-n','stock@test','-l','INFO'])"
    )
    environment = {"BROKER_URL": cluster.server.url, "LEDGER": str(cluster.ledger)}
    here = str(Path(__file__).parent)
    stock = Process("stock", [sys.executable, "-c", code], tmp_path / "stock.log", environment | {"PYTHONPATH": here})
    cluster.workers.append(stock)
    stock.wait_for("ready.")
    ours, theirs = cluster.app(), cluster.app()
    theirs.conf.broker_transport = "redis"
    theirs.conf.broker_transport_options = {}
    for number in range(10):
        assert signature(ours, "add", number, 1).apply_async().get(timeout=20) == number + 1
        assert signature(theirs, "add", number, 1).apply_async().get(timeout=20) == number + 1
    received = [worker.output().count("] received") for worker in (cluster.workers[0], stock)]
    assert received == [10, 10]


def test_the_command_shows_and_redrives(cluster):
    cluster.worker("-c", "1")
    client = cluster.server.client()
    signature(cluster.app(), "rejected").apply_async(task_id="no")
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 1, "the dead letter")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "celery_leases", "--url", cluster.server.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("depth").stdout.split() == [
        "queue", "waiting", "running", "delayed", "dead", "paused", "max_running", "rate_per_second",
        "work", "0", "0", "0", "1", "False", "-", "-",
    ]  # fmt: skip
    listed = json.loads(run("--json", "dead-letters", "list").stdout)
    assert listed["task"] == "leases_app.rejected"
    assert listed["reason"] == "no", "what the task gave as its reason"
    shown = json.loads(run("dead-letters", "show", "work", listed["message_key"]).stdout)
    assert shown["message"]["headers"]["id"] == "no"
    assert (
        run("dead-letters", "redrive", "work", listed["message_key"]).stdout
        == f"redriven: work {listed['message_key']}\n"
    )
    until(lambda: client.hlen(keys.key(PREFIX, "work", keys.DEAD)) == 1, "its second death")
    missing = run("dead-letters", "show", "work", "nobody")
    assert (missing.returncode, "no dead letter" in missing.stderr) == (1, True)
    assert run("pause", "work", "--note", "its database is down").stdout == "paused: work\n"
    assert run("limit", "work", "--max-running", "3", "--rate-per-second", "0.5").stdout == "limited: work\n"
    depth = Admin(client, PREFIX).depth("work")
    assert (depth.pause.note, depth.pause.until_ms) == ("its database is down", None)
    assert depth.limits == Limits(3, 0.5)
    assert json.loads(run("--json", "depth", "work").stdout)["paused"] is True
    assert run("resume", "work").stdout == "resumed: work\n"
    assert run("limit", "work", "--max-running", "0").returncode == 2
    away = subprocess.run(
        [sys.executable, "-m", "celery_leases", "--url", "redis://127.0.0.1:1/0", "depth"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (away.returncode, "cannot be reached" in away.stderr) == (2, True)


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_green_pool_is_refused_in_clear_words(cluster, pool):
    cluster.environment["GREEN_POOL"] = pool
    worker = cluster.worker("-P", "solo", ready=False)
    until(lambda: worker.exit_code is not None, "the worker to end")
    assert worker.exit_code != 0
    assert f"does not support the pool {pool}: use --pool threads, prefork or solo" in worker.output()
