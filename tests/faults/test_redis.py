"""Redis killed, away, full, far and unreachable."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest
from integration.conftest import JPEG

from devstack.servers import RedisServer
from devstack.tcp_proxy import TcpProxy
from devstack.waiting import until

from .ledgers import SMALL_PHOTO, Client, image, judge, mail, noisy_photo
from .report import Row

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope

ONE = {"OFFLOAD_CONCURRENCY": "1"}
ROOMY = {"OFFLOAD_QUEUE_LIMIT": "100000"}


def either(number: int):
    """A photo, a chain of three, or a mail: one after the other."""
    return mail(number) if number % 3 == 0 else image(number, SMALL_PHOTO, chain=number % 3 == 1)


def test_redis_killed_under_load(stack, scale):
    """AOF with fsync always: what was answered with 202 is there after it; workers go on by themselves."""
    kills, per_second = scale.of(5, 2), scale.of(100, 20)
    stack.gateway(ROOMY)
    workers = [stack.worker("image_worker"), stack.worker("mail_worker")]
    client = Client(stack.url, stack.folder / "client.jsonl", per_second=per_second, at_once=64)
    killed: list[float] = []
    client.start(either, per_second * kills * scale.of(10, 4), more=lambda: len(killed) < kills)
    chance, recovery = random.Random(scale.seed), []
    events = stack.redis.client()
    for _ in range(kills):
        time.sleep(chance.uniform(2, 4))  # not a wait: the load goes on between two kills
        stack.redis.kill()
        killed.append(time.time())
        time.sleep(1)  # the outage itself
        stack.redis.start()
        began, ended = time.monotonic(), finished(events)
        until(lambda ended=ended: finished(events) > ended, "the workers to go on", seconds=60)
        recovery.append(time.monotonic() - began)
    client.join(300)
    verdict = judge(stack, client, seconds=300)
    Row.of(
        verdict,
        order=10,
        fault="Redis `kill -9`, back after 1 s, AOF always",
        load=f"{verdict.tasks:,} photos, chains and mails, {per_second} posts a second",
        injected=kills,
        recovery=recovery,
        seen=f"no worker restarted; answers {dict(client.answers)}",
        seed=scale.seed,
    ).note()
    verdict.check()
    assert client.without_retry_after == 0
    assert [worker.exit_code for worker in workers] == [None, None]


def finished(redis) -> int:
    """How many tasks have ended today."""
    return sum(int(count) for key in redis.keys("offload:figures:*") for count in redis.hvals(key))


@pytest.mark.full
@pytest.mark.parametrize(("order", "seconds"), [(11, 1), (11.1, 10), (11.2, 60)])
def test_redis_away_at_every_point_of_a_step(stack, scale, order, seconds):
    """Before STARTED, in the step, before and after storing, in a retry, on the way to FAILURE."""
    points = ("before STARTED", "in the step", "before storing", "after storing")
    stack.gateway()
    stack.environment["OFFLOAD_MAIL_RETRY_SECONDS"] = "15 15 15"
    pauses = [stack.paused("image_worker", point, ONE) for point in points]
    client = Client(stack.url, stack.folder / "client.jsonl")
    client.post([image(number, SMALL_PHOTO, chain=True) for number in range(len(points))])
    for pause in pauses:
        pause.reached()
    # A worker for each of the two paths that a photo takes that cannot be worked on: FAILURE, and the hard limit.
    api = stack.client()
    failing = stack.paused("image_worker", "before FAILURE", ONE)
    query = {"width": 10, "notify": "failing@example.com"}
    broken = api.post("/v1/images", params=query, content=b"no image", headers=JPEG).json()["task_id"]
    failing.reached()
    mails = stack.worker("mail_worker")
    stack.smtp.script = Once("451 later", "retried@example.com")
    retried = api.post("/v1/emails", json={"to": "retried@example.com", "subject": "a", "text": "b"}).json()["task_id"]
    limits = {
        "OFFLOAD_SOFT_TIME_LIMIT_SECONDS": "5",
        "OFFLOAD_HARD_TIME_LIMIT_SECONDS": "6",
        "DEAF_TO_SOFT_LIMIT": "1",
    }
    limited = stack.paused("image_worker", "in the step", ONE | limits)
    query["notify"] = "limited@example.com"
    slow = api.post("/v1/images", params=query, content=SMALL_PHOTO, headers=JPEG).json()["task_id"]
    limited.reached()
    assert stack.task(api, retried)["state"] == "RETRY"
    stack.redis.kill()
    for pause in [*pauses, failing]:
        pause.go()
    time.sleep(seconds)  # the outage itself
    stack.redis.start()
    came_back = time.monotonic()
    verdict = judge(stack, client, seconds=120)
    recovery = [time.monotonic() - came_back]
    ended = [stack.wait(api, task_id, seconds=60) for task_id in (broken, slow, retried)]
    until(stack.is_quiet, "every message to be settled", seconds=60)
    for name in ("failing", "limited", "retried"):
        until(lambda name=name: stack.smtp.to(f"{name}@example.com"), f"the mail to {name}")
        assert len(stack.smtp.to(f"{name}@example.com")) == 1
    Row.of(
        verdict,
        order=order,
        fault=f"Redis unavailable for {seconds} s at every point of a step",
        load=f"a chain of three at each of {len(points)} points, a failing photo, one at its limit, a mail in a retry",
        injected=1,
        recovery=recovery,
        seen=f"codes of the three others: {[task['error'] and task['error']['code'] for task in ended]}",
    ).note()
    verdict.check()
    assert [task["error"] and task["error"]["code"] for task in ended] == [
        "image.not_an_image",
        "task.time_limit",
        None,
    ]
    assert [pause.process.exit_code for pause in pauses] == [None] * len(points)
    assert mails.exit_code is None


class Once:
    """A mail server's script that says a reply to one address, once, and takes everything else."""

    def __init__(self, reply: str, address: str) -> None:
        self._reply, self._address = reply, address

    def __call__(self, stage: str, envelope: Envelope) -> str | None:
        if stage != "DATA" or self._address not in envelope.rcpt_tos:
            return None
        reply, self._reply = self._reply, ""
        return reply or None


def test_redis_far_away_and_connections_cut(stack, scale):
    """First every piece takes 200 ms longer, each way; then every connection is cut, again and again."""
    proxy = TcpProxy(stack.redis.port).start()
    stack.environment["OFFLOAD_REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    stack.gateway(ROOMY)
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    proxy.latency_seconds = 0.1  # each way: 200 ms a round trip
    far = Client(stack.url, stack.folder / "client.jsonl", name="far", per_second=20, at_once=32)
    far.post([either(number) for number in range(scale.of(600, 60))], give_up_seconds=240)
    verdict = judge(stack, far, seconds=600)
    p95 = statistics.quantiles(far.accept_seconds, n=20)[-1]
    Row.of(
        verdict,
        order=13,
        fault="every round trip to Redis 200 ms longer",
        load=f"{verdict.tasks} photos, chains and mails, 20 posts a second",
        injected=1,
        seen=f"accept p95 {p95 * 1000:.0f} ms; answers {dict(far.answers)}",
    ).note()
    verdict.check()
    if scale.is_full:
        assert p95 <= 1
    proxy.latency_seconds = 0.0
    cuts = scale.of(40, 4)
    count = 0
    near = Client(stack.url, stack.folder / "client.jsonl", name="near", per_second=30, at_once=32)
    near.start(lambda number: either(100_000 + number), scale.of(900, 60), more=lambda: count < cuts)
    chance = random.Random(scale.seed)
    for _ in range(cuts):
        time.sleep(chance.uniform(0.3, 1.2))  # not a wait: cuts come at random moments
        proxy.cut()
        count += 1
    near.join(300)
    verdict = judge(stack, near, seconds=300)
    Row.of(
        verdict,
        order=14,
        fault="all connections to Redis cut",
        load=f"{verdict.tasks} photos, chains and mails, 30 posts a second",
        injected=cuts,
        seen=f"answers {dict(near.answers)}",
        seed=scale.seed,
    ).note()
    verdict.check()
    assert far.without_retry_after + near.without_retry_after == 0
    proxy.stop()


@pytest.mark.full
def test_a_worker_that_reaches_redis_no_more(stack, scale):
    """Its packets vanish for a minute while it works; another takes over; what it says afterwards changes nothing."""
    proxy = TcpProxy(stack.redis.port).start()
    stack.gateway(ROOMY)
    stack.worker("mail_worker")
    # One of its slots is in the middle of a step when it is cut off; the other one is wherever it is.
    lost = stack.paused("image_worker", "in the step", {"OFFLOAD_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"})
    client = Client(stack.url, stack.folder / "client.jsonl", at_once=16)
    healed = threading.Event()
    content = noisy_photo(900, 700)
    client.start(
        lambda number: image(number, content, chain=number % 5 == 0),
        1_000,
        more=lambda: not healed.is_set(),
        give_up_seconds=300,
    )
    lost.reached()
    until(lambda: finished(stack.redis.client()) > 20, "work", seconds=60)
    other = stack.worker("image_worker")
    proxy.swallow()
    swallowed = time.time()
    time.sleep(30)  # the first half of the outage: the lease is another's by now
    lost.go()
    time.sleep(30)
    proxy.heal()
    healed.set()
    client.join(120)
    verdict = judge(stack, client, kills=[swallowed], seconds=300)
    Row.of(
        verdict,
        order=15,
        fault="one of two workers cut off from Redis for 60 s, packets vanish",
        load=f"{verdict.tasks:,} photos of 30 ms, every fifth a chain of three, all slots full",
        injected=1,
        recovery=verdict.recovery,
        seen=f"{verdict.again} steps run again",
    ).note()
    verdict.check()
    assert verdict.again >= 1, "what it was doing was done by the other"
    assert [lost.process.exit_code, other.exit_code] == [None, None]
    proxy.stop()


@pytest.mark.full
def test_redis_full(stack, scale):
    """Posts until it is nearly full, and on: refused with 503 before Redis says so itself; then workers catch up."""
    stack.redis.stop()
    stack.redis = RedisServer(stack.folder / "small", options=["--maxmemory", "64mb"]).start()
    stack.environment["OFFLOAD_REDIS_URL"] = stack.redis.url
    stack.gateway(ROOMY)
    client = Client(stack.url, stack.folder / "client.jsonl", at_once=32)
    client.start(lambda number: mail(number, text="x" * 20_000), 4_000, give_up_seconds=400)
    until(lambda: client.answers[503] > 200, "the guard to close", seconds=120)
    redis = stack.redis.client()
    most = redis.info("memory")["used_memory_peak"]
    stack.worker("mail_worker")
    client.join(500)
    verdict = judge(stack, client, seconds=400)
    refused_by_redis = redis.info("errorstats").get("errorstat_OOM", {"count": 0})["count"]
    Row.of(
        verdict,
        order=12,
        fault="Redis fills up (maxmemory 64 MB)",
        load=f"{verdict.tasks:,} mails of 20 kB as fast as they are taken, workers only after the guard has closed",
        injected=1,
        seen=f"answers {dict(client.answers)}; {most / 2**20:.0f} MB when the guard closed; "
        f"refused by Redis itself: {refused_by_redis}",
    ).note()
    verdict.check()
    assert refused_by_redis == 0
    assert client.without_retry_after == 0
