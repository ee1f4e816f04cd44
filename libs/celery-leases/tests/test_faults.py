"""What breaks, and that nothing is lost by it. Effects are counted in a ledger outside of Redis."""

from __future__ import annotations

import random
import select
import signal
import socket
import socketserver
import threading
import time

import pytest
from celery import chain

from celery_leases import keys
from celery_leases.admin import Admin
from devstack.servers import free_port
from devstack.waiting import until

PREFIX = "leases:"
WORK_LIVE = keys.key(PREFIX, "work", keys.LIVE)


def signature(app, name: str, *args, **options):
    return app.signature(f"leases_app.{name}", args=args, **options)


def publish_effects(app, count: int, seconds: float) -> list[str]:
    names = [f"t{number}" for number in range(count)]
    with app.producer_pool.acquire(block=True) as producer:
        for name in names:
            signature(app, "effect", name, seconds).apply_async(producer=producer)
    return names


def drained(cluster, seconds: float = 90) -> None:
    client = cluster.server.client()
    until(lambda: client.hlen(WORK_LIVE) == 0, "the queue to be empty", seconds=seconds)


def test_kill_9_of_worker_trees_loses_nothing(cluster):
    """One lease after the kill the task runs again; only a task killed after its effect does it twice."""
    for _ in range(3):
        cluster.worker("-c", "2", ready=False)
    names = publish_effects(cluster.app(), 1500, 0.03)
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    until(lambda: cluster.noted("done"), "the first effect")
    for _ in range(12):
        victim = cluster.workers.pop(chance.randrange(len(cluster.workers)))
        victim.kill()
        cluster.worker("-c", "2", ready=False)
        time.sleep(chance.uniform(0.3, 0.8))  # not a wait: kills come at random moments
    drained(cluster)
    done = cluster.noted("done")
    assert sorted(done) == sorted(names)
    assert sum(done.values()) - len(names) <= 24, "at most what ran on a killed worker is done twice"


def test_sigterm_under_load_neither_loses_nor_doubles(cluster):
    for _ in range(2):
        cluster.worker("-c", "2", ready=False)
    names = publish_effects(cluster.app(), 800, 0.03)
    until(lambda: cluster.noted("done"), "the first effect")
    for _ in range(5):
        cluster.workers[0].wait_for("ready.")
        victim = cluster.workers.pop(0)
        victim.send(signal.SIGTERM)
        cluster.worker("-c", "2", ready=False)
        until(lambda victim=victim: victim.exit_code is not None, "the worker to stop")
        assert victim.exit_code == 0
    drained(cluster)
    assert cluster.noted("start") == dict.fromkeys(names, 1)
    assert cluster.noted("done") == dict.fromkeys(names, 1)


def test_lost_connections_under_load_neither_lose_nor_double(cluster):
    """A pool's child may have a task that it has not confirmed yet when its worker's connections are lost."""
    names = publish_effects(cluster.app(), 1200, 0.002)
    for _ in range(2):
        cluster.worker("-c", "4", "--without-mingle", ready=False)
    until(lambda: cluster.noted("done"), "the first effect")
    client = cluster.server.client()
    cuts = 0
    while client.hlen(WORK_LIVE) > 300:
        done = cluster.noted("done").total()
        client.client_kill_filter(_type="normal", skipme=True)
        cuts += 1
        until(lambda done=done: cluster.noted("done").total() > done + 50, "the workers to go on")
    assert cuts > 5
    drained(cluster)
    assert cluster.noted("start") == dict.fromkeys(names, 1)


def test_a_primary_that_is_a_replica_for_a_moment_ends_no_worker(cluster):
    """As in the midst of a failover: it answers, and refuses every write."""
    for _ in range(2):
        cluster.worker("-c", "2")
    names = publish_effects(cluster.app(), 300, 0.03)
    until(lambda: cluster.noted("done").total() > 50, "some effects")
    client = cluster.server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    until(lambda: all("Connection to broker lost" in worker.output() for worker in cluster.workers), "both to notice")
    client.execute_command("REPLICAOF", "NO", "ONE")
    drained(cluster)
    assert cluster.noted("done") == dict.fromkeys(names, 1)
    assert [worker.exit_code for worker in cluster.workers] == [None, None]


def test_a_cold_shutdown_hands_back_at_once_and_blames_nobody(cluster):
    cluster.options["lease_seconds"] = 60
    worker = cluster.worker("-c", "1")
    result = signature(cluster.app(), "step", "a", 4).apply_async()
    until(lambda: cluster.noted("start"), "the task to start")
    wait_for_active(cluster)
    worker.send(signal.SIGQUIT)
    until(lambda: worker.exit_code is not None, "the worker to end")
    # Handed back, not counted, far from the lease's end.
    history = cluster.server.client().hget(keys.key(PREFIX, "work", keys.HISTORY), f"{result.id}:0:0")
    assert history.split()[:3] == [b"1", b"0", b"0"]
    cluster.worker("-c", "1")
    assert result.get(timeout=30) == "a."


def wait_for_active(cluster) -> None:
    """Wait until the parent knows of the run: a child killed before that is nobody's delivery."""
    inspect = cluster.app().control.inspect(timeout=5, limit=1)
    until(lambda: any((inspect.active() or {"w1@test": []})["w1@test"]), "the parent to know of it")


def test_a_killed_pool_child_is_followed_by_the_next_delivery(cluster):
    worker = cluster.worker("-c", "1")
    result = signature(cluster.app(), "step", "a", 2).apply_async()
    until(lambda: cluster.noted("start"), "the task to start")
    wait_for_active(cluster)
    child = int(cluster.ledger.read_text().split()[2])
    import os

    os.kill(child, signal.SIGKILL)
    assert result.get(timeout=30) == "a."
    assert cluster.noted("start") == {"a:1": 1, "a:2": 1}
    assert worker.exit_code is None


def test_poison_is_buried_after_three_deliveries_and_innocents_live(cluster):
    cluster.worker("-c", "2")
    app = cluster.app()
    poison = signature(app, "poison").apply_async()
    names = publish_effects(app, 40, 0.1)
    until(lambda: app.AsyncResult(poison.id).state == "FAILURE", "the poison to be given up", seconds=60)
    assert cluster.noted("start")["poison"] == 3
    drained(cluster)
    assert sorted(cluster.noted("done")) == sorted(names)
    letters = Admin(cluster.server.client(), PREFIX).dead_letters(["work"])
    assert [(letter.task_id, letter.reason, letter.deliveries) for letter in letters] == [
        (poison.id, "delivery.limit", 3)
    ]
    until(
        lambda: Admin(cluster.server.client(), PREFIX).dead_letters(["work"])[0].reported, "the letter to be reported"
    )


def test_redis_killed_with_all_slots_full_and_remote_control_off(cluster):
    """A worker that is full when Redis dies polls nothing, and once stayed so for ever."""
    cluster.environment = {"REMOTE_CONTROL": "0"}
    args = ("-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat")
    workers = [cluster.worker(*args) for _ in range(2)]
    names = publish_effects(cluster.app(), 60, 0.4)
    for _ in range(3):
        before = len(cluster.noted("done"))
        until(lambda before=before: len(cluster.noted("done")) >= before + 4, "work to go on", seconds=60)
        cluster.server.kill()
        time.sleep(1)  # the outage itself
        cluster.server.start()
    drained(cluster)
    assert sorted(cluster.noted("done")) == sorted(names)
    assert cluster.noted("done") == dict.fromkeys(names, 1), "a running task keeps its lease over the outage"
    assert [worker.exit_code for worker in workers] == [None, None]


def test_a_chain_goes_on_after_redis_was_away_at_the_publish_of_its_next_step(cluster):
    cluster.worker("-c", "1")
    app = cluster.app()
    chain(signature(app, "step", "a", 1), signature(app, "step"), signature(app, "step")).apply_async()
    until(lambda: cluster.noted("start"), "the first step to start")
    cluster.server.kill()
    until(lambda: cluster.noted("done")["a"], "the first step to end without Redis")
    time.sleep(3)  # the outage: five times as long as stock Celery tries
    cluster.server.start()
    until(lambda: cluster.noted("done")["a.."], "the last step", seconds=60)
    assert cluster.noted("done") == {"a": 1, "a.": 1, "a..": 1}


@pytest.mark.parametrize("limits", [("--soft-time-limit", "5", "--time-limit", "7"), ("--time-limit", "5")])
def test_an_outage_does_not_count_against_a_time_limit(cluster, limits):
    """One waits to publish what follows it, one has ended, and one hangs: its limit still holds."""
    worker = cluster.worker("-c", "3", *limits)
    app = cluster.app()
    chain(signature(app, "step", "a", 2), signature(app, "step")).apply_async(ignore_result=True)
    for key, seconds in (("b", 2), ("hung", 3600)):
        app.send_task("leases_app.effect", (key, seconds))
    until(lambda: cluster.noted("start").total() == 3, "all to begin")
    cluster.server.kill()
    time.sleep(12)  # the outage itself: longer than the limits
    cluster.server.start()
    until(lambda: cluster.noted("done") == {"a": 1, "b": 1, "a.": 1}, "all but the hung one")
    until(lambda: "TimeLimitExceeded" in worker.output(), "the hung one to be ended", seconds=30)
    until(lambda: cluster.server.client().hlen("leases:work:live") == 0, "all to be settled")
    assert cluster.noted("start").total() == 4
    assert worker.output().count(" time limit (") == 1
    assert worker.exit_code is None


def test_a_worker_that_slept_through_its_lease_is_fenced(cluster):
    sleeper = cluster.worker("-c", "1")
    app = cluster.app()
    result = signature(app, "step", "a", 1.0).apply_async()
    until(lambda: cluster.noted("start"), "the task to start")
    sleeper.send_group(signal.SIGSTOP)
    cluster.worker("-c", "1")
    assert result.get(timeout=30) == "a."
    assert cluster.noted("start") == {"a:1": 1, "a:2": 1}
    sleeper.send_group(signal.SIGCONT)
    until(lambda: "lost: the lease" in sleeper.output() or "fenced" in sleeper.output(), "the sleeper to be fenced")
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    sent = [signature(app, "add", number, 1).apply_async() for number in range(20)]
    assert [one.get(timeout=20) for one in sent] == list(range(1, 21))
    until(lambda: cluster.server.client().hlen(WORK_LIVE) == 0, "nothing to be left")


def test_a_step_published_again_after_its_twin_had_ended_is_dropped(cluster):
    cluster.worker("-c", "1")
    app = cluster.app()
    assert signature(app, "step", "a").apply_async(task_id="again").get(timeout=20) == "a."
    until(lambda: cluster.server.client().hlen(WORK_LIVE) == 0, "the acknowledgement")
    signature(app, "step", "a").apply_async(task_id="again")
    signature(app, "step", "b").apply_async().get(timeout=20)
    assert cluster.noted("done") == {"a": 1, "b": 1}


def test_flushed_and_forgotten(cluster):
    """SCRIPT FLUSH and FLUSHALL under an idle worker: it goes on."""
    cluster.worker("-c", "1")
    app, client = cluster.app(), cluster.server.client()
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    client.script_flush()
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2
    client.flushall()
    assert signature(app, "add", 1, 1).apply_async().get(timeout=20) == 2


def test_two_queues_share_one_slot(cluster):
    cluster.worker("-c", "1", "-Q", "work,other")
    app = cluster.app()
    sent = [signature(app, "add", number, 0).apply_async(queue=("work", "other")[number % 2]) for number in range(40)]
    assert [one.get(timeout=20) for one in sent] == list(range(40))


def test_a_worker_that_joins_after_redis_was_silent_takes_nobodys_lease(cluster):
    """Stopped, not refused. What a sweeper must know of it is in Redis: one that has not seen it knows it too."""
    cluster.worker("-c", "1", "-n", "first@test")
    signature(cluster.app(), "effect", "long", 9).apply_async()
    until(lambda: cluster.noted("start")["long"], "the task to start")
    until(lambda: cluster.server.client().hget(f"{PREFIX}sweep", "swept_at"), "a sweep")
    cluster.server.process.send(signal.SIGSTOP)
    time.sleep(4)  # the silence: more than two leases
    # It is about to sweep the moment that Redis goes on.
    cluster.worker("-c", "1", ready=False)
    time.sleep(2)
    cluster.server.process.send(signal.SIGCONT)
    until(lambda: cluster.noted("done")["long"], "the long task")
    assert cluster.noted("start") == {"long": 1}
    drained(cluster)


class Resetting(socketserver.ThreadingTCPServer):
    """A proxy that passes all on, and so many times closes a connection in place of the answer that delivers a task."""

    daemon_threads = True

    def __init__(self, target: int, times: int) -> None:
        super().__init__(("127.0.0.1", free_port()), self.Handler)
        self.target = target
        self.left = times

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", self.server.target)) as server:
                while True:
                    for source in select.select([self.request, server], [], [])[0]:
                        data = source.recv(65536)
                        if source is server and b"leases_app.effect" in data and self.server.left:
                            self.server.left -= 1
                            return
                        if not data:
                            return
                        (self.request if source is server else server).sendall(data)


def test_an_answer_that_is_lost_on_the_wire_blames_no_message(cluster):
    with Resetting(cluster.server.port, times=4) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        cluster.environment["BROKER_URL"] = f"redis://127.0.0.1:{proxy.server_address[1]}/0"
        signature(cluster.app(), "effect", "healthy").apply_async()
        cluster.worker("-c", "1", "--without-mingle", "--without-gossip", "--without-heartbeat")
        until(lambda: cluster.noted("done")["healthy"], "the task, whose answer was lost four times", seconds=60)
        assert proxy.left == 0
        assert cluster.noted("start") == {"healthy": 1}
        drained(cluster)
        assert cluster.server.client().hlen(keys.key(PREFIX, "work", keys.DEAD)) == 0
        cluster.stop()
        proxy.shutdown()
