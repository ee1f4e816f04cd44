"""What applications use of Celery and kombu beside plain tasks.

README.md says what is the same as on stock Redis and what differs; each line of it has its test here.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError

import celery_leases
from celery_leases import keys
from devstack.waiting import until

PREFIX = "leases:"
TRANSPORT = "celery_leases:Transport"


def send(app, name: str, *args, **options):
    return app.signature(f"leases_app.{name}", args=args, **options).apply_async()


def test_a_topic_exchange_routes_by_pattern(cluster):
    events = Exchange("events", type="topic")
    images, all_of_them = Queue("images", events, "image.*"), Queue("all", events, "#")
    with Connection(cluster.server.url, transport=TRANSPORT) as connection:
        channel = connection.channel()
        for queue in (images, all_of_them):
            queue(channel).declare()
        producer = connection.Producer(channel)
        for routing_key in ("image.made", "image.lost", "mail.sent", "image.made.twice"):
            producer.publish({"key": routing_key}, exchange=events, routing_key=routing_key)
        taken = {}
        for queue in (images, all_of_them):
            taken[queue.name] = []
            while message := queue(channel).get():
                taken[queue.name].append(message.payload["key"])
                message.ack()
    assert taken == {
        "images": ["image.made", "image.lost"],
        "all": ["image.made", "image.lost", "mail.sent", "image.made.twice"],
    }


def test_a_broadcast_reaches_every_worker_that_listens(cluster):
    """It is published to those that are connected, and held for nobody; its publisher declares the exchange."""
    cluster.environment["BROADCAST"] = "1"
    for _ in range(2):
        cluster.worker("-c", "1", "-Q", "everywhere")
    app = cluster.app()
    everywhere = Exchange("everywhere", type="fanout")
    app.signature("leases_app.effect", args=("told",)).apply_async(
        exchange=everywhere, routing_key="all", declare=[everywhere]
    )
    until(lambda: cluster.noted("done")["told"] == 2, "both workers to do it")
    assert cluster.server.client().keys("leases:bcast*:live") == []


@pytest.mark.parametrize("compression", ["zlib", "bzip2", "zstd"])
def test_a_compressed_task_is_done(cluster, compression):
    cluster.worker("-c", "1")
    app = cluster.app()
    result = app.signature("leases_app.step", args=("x" * 5000,)).apply_async(compression=compression)
    assert result.get(timeout=20) == "x" * 5000 + "."


def test_a_simple_queue_gives_and_takes_and_gives_back(cluster):
    with Connection(cluster.server.url, transport=TRANSPORT) as connection:
        queue = connection.SimpleQueue("simple")
        for number in range(3):
            queue.put({"number": number})
        assert queue.qsize() == 3
        first = queue.get(timeout=5)
        first.requeue()
        taken = []
        for _ in range(3):
            message = queue.get(timeout=5)
            taken.append(message.payload["number"])
            message.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()
        queue.close()
    assert taken == [0, 1, 2]
    assert cluster.server.client().hlen(keys.key(PREFIX, "simple", keys.LIVE)) == 0


def test_a_message_that_a_simple_queue_left_unacknowledged_comes_back(cluster):
    with Connection(cluster.server.url, transport=TRANSPORT) as connection:
        queue = connection.SimpleQueue("simple")
        queue.put("kept")
        queue.get(timeout=5)
        queue.close()
    with Connection(cluster.server.url, transport=TRANSPORT) as connection:
        message = connection.SimpleQueue("simple").get(timeout=10)
        assert message.payload == "kept"
        message.ack()


def test_autoscale_follows_the_work(cluster):
    worker = cluster.worker("--autoscale", "4,1")
    app = cluster.app()
    for number in range(12):
        send(app, "effect", f"t{number}", 1.0)
    most = 0

    def all_done() -> bool:
        nonlocal most
        most = max(most, len(worker.children()))
        return cluster.noted("done").total() == 12

    until(all_done, "all to be done", seconds=40)
    assert most > 1
    assert set(cluster.noted("start").values()) == {1}


def test_a_waiting_task_is_revoked_for_workers_that_start_later(cluster):
    app = cluster.app()
    delayed = app.signature("leases_app.effect", args=("revoked later",)).apply_async(countdown=2, ignore_result=False)
    waiting = app.signature("leases_app.effect", args=("revoked",)).apply_async(ignore_result=False)
    kept = send(app, "add", 1, 1)
    app.control.revoke([waiting.id, delayed.id])
    first = cluster.worker("-c", "1")
    assert kept.get(timeout=20) == 2
    first.stop()
    cluster.worker("-c", "1")
    for result in (waiting, delayed):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
    assert cluster.noted("start") == {}


def test_a_tool_that_is_given_our_application_reaches_the_workers(cluster):
    cluster.worker("-c", "1")
    command = [sys.executable, "-m", "celery", "-A", "celery_leases.app", "-b", cluster.server.url, "inspect", "ping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "w1@test: OK" in done.stdout, done.stdout + done.stderr


def test_inspect_tells_what_this_worker_has_and_no_more(cluster):
    cluster.worker("-c", "1")
    app = cluster.app()
    running, waiting = send(app, "step", "one", 3.0), send(app, "step", "two", 0.0)
    delayed = app.signature("leases_app.step", args=("three",)).apply_async(countdown=60)
    until(lambda: cluster.noted("start"), "the first to begin")
    inspect = app.control.inspect(timeout=5, limit=1)
    assert [task["id"] for task in inspect.active()["w1@test"]] == [running.id]
    # They wait in Redis: no worker has them.
    assert inspect.scheduled() == {"w1@test": []}
    assert inspect.query_task(waiting.id, delayed.id) == {"w1@test": {}}
    assert set(inspect.query_task(running.id)["w1@test"]) == {running.id}


def test_a_publish_batch_and_a_second_url_are_refused(cluster):
    assert not celery_leases.Transport.supports_batch_publish
    with (
        pytest.raises((OperationalError, ValueError), match="one URL only"),
        Connection(f"{cluster.server.url};{cluster.server.url}", transport=TRANSPORT) as connection,
    ):
        connection.connect()


def test_a_tool_on_stock_kombu_sees_the_events(cluster):
    """As celery-exporter does, which takes a URL and transport options, and no transport."""
    cluster.worker("-c", "1", "-E")
    stock = Celery("tool", broker=cluster.server.url, set_as_current=False)
    stock.conf.broker_transport_options = {"global_keyprefix": PREFIX}
    seen, sent = cluster.listen(stock)
    assert seen == [sent]
