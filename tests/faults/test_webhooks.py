"""Webhooks to receivers that fail in every way, and workers killed while they deliver: every event arrives."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict

import standardwebhooks
import svix.webhooks

from devstack.http_receiver import Answer, HttpReceiver
from devstack.waiting import until
from offload_core import keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .conftest import Fleet
from .ledgers import PREFIX
from .report import Row

STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=3_600_000)
# The ladder of the settings, a thousand times as fast, and without the steps of half a day.
LADDER = (0.5, 0.5, 1, 2, 2, 2, 2, 2, 2)
SETTINGS = {
    "OFFLOAD_EGRESS_ALLOW": "127.0.0.0/8",
    "OFFLOAD_WEBHOOK_RETRY_SECONDS": " ".join(map(str, LADDER)),
    "OFFLOAD_WEBHOOK_TIMEOUT_SECONDS": "3",
    "OFFLOAD_WEBHOOK_DISABLE_AFTER_SECONDS": "600",
}
ENDPOINTS = 5


class Receiver:
    """Fails three requests in ten, each in one of six ways; never an event more often than the ladder has steps."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.failed: Counter[tuple[str, str]] = Counter()
        self.taken: Counter[tuple[str, str]] = Counter()
        self.attempts: dict[tuple[str, str], list[float]] = defaultdict(list)
        # When an attempt may come again at the earliest, where the answer said so.
        self.not_before: dict[tuple[str, str], float] = {}
        self.early: list[str] = []
        self.unsigned: list[str] = []
        self.bodies: dict[str, bytes] = {}
        self.secrets: dict[str, str] = {}

    def __call__(self, got) -> Answer:
        event = (got.path, got.headers["webhook-id"])
        secret = self.secrets[got.path]
        try:
            standardwebhooks.Webhook(secret).verify(got.body, got.headers)
            svix.webhooks.Webhook(secret).verify(got.body, got.headers)
        except (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError) as error:
            self.unsigned.append(f"{event}: {error}")
        if self.bodies.setdefault(event[1], got.body) != got.body:
            self.unsigned.append(f"{event}: another body")
        if got.at < self.not_before.get(event, 0) - 0.05:
            self.early.append(f"{event}: {self.not_before[event] - got.at:.2f} s early")
        self.attempts[event].append(got.at)
        if self.chance.random() < 0.3 and self.failed[event] < 3:
            self.failed[event] += 1
            way = self.chance.randrange(6)
            if way == 1:
                self.not_before[event] = got.at + 2
            return (
                Answer(500),
                Answer(429, {"Retry-After": "2"}),
                Answer(reset=True),
                Answer(delay_seconds=4),
                Answer(302, {"Location": "http://127.0.0.1:9/"}),
                Answer(503),
            )[way]
        self.taken[event] += 1
        return Answer(204)


def accepted(redis, count: int, name: str) -> None:
    """Accept so many tasks: an event each."""
    for number in range(count):
        task = Publisher("test").task(f"{name}-{number}", "task", "development", [NewStep("a.b.v1", "nobody", {})])
        assert STORE.accept(task).run(redis)[0] == b"accepted"


def register(client, receiver: Receiver, url: str) -> None:
    for number in range(ENDPOINTS):
        path = f"/hook-{number}"
        made = client.post(
            "/v1/webhooks", json={"url": url + path, "events": ["task.accepted"], "rate_per_second": 1000}
        )
        assert made.status_code == 201, made.text
        receiver.secrets[path] = made.json()["secret"]


def test_receivers_that_fail_in_every_way(stack, scale):
    count = scale.of(2000, 20)
    # Nobody is killed: with the lease that users have, nothing is delivered twice.
    stack.environment |= SETTINGS | {"OFFLOAD_LEASE_SECONDS": "10"}
    stack.gateway()
    redis, client = stack.redis.client(), stack.client()
    receiver = Receiver(scale.seed)
    with HttpReceiver(receiver) as server:
        register(client, receiver, server.url)
        gone = client.post("/v1/webhooks", json={"url": f"{server.url}/gone", "events": ["task.accepted"]}).json()
        server.answer = lambda got: Answer(410) if got.path == "/gone" else receiver(got)
        stack.worker("http_worker")
        accepted(redis, count, "hooked")
        expected = count * ENDPOINTS
        until(lambda: len(receiver.taken) >= expected, "every event at every endpoint", seconds=scale.of(1200, 120))
        until(lambda: redis.hlen(f"{PREFIX}queue:webhooks:live") == 0, "the last acknowledgements", seconds=60)
    # An attempt never comes before its step of the ladder, less a tenth.
    early = [
        f"{event}: attempt {number + 2} after {later - earlier:.2f} s"
        for event, moments in receiver.attempts.items()
        for number, (earlier, later) in enumerate(itertools.pairwise(moments))
        if later - earlier < LADDER[number] * 0.9 - 0.05
    ]
    lost = expected - len(receiver.taken)
    doubled = sum(count - 1 for count in receiver.taken.values())
    shown = client.get(f"/v1/webhooks/{gone['id']}").json()
    Row(
        order=16.6,
        fault="webhook receivers that fail, reset, hang, redirect, answer 410 and 429",
        load=f"{count:,} events to {ENDPOINTS} endpoints",
        injected=sum(receiver.failed.values()),
        lost=lost,
        doubled=doubled,
        seen=f"{sum(map(len, receiver.attempts.values())):,} attempts, all signed; the ladder was kept; "
        f"the endpoint that answered 410 is {shown['disabled_reason']}",
        seed=scale.seed,
    ).note()
    assert (lost, doubled) == (0, 0), [one for one, times in receiver.taken.items() if times > 1]
    assert not early, early[:5]
    assert not receiver.early, receiver.early[:5]
    assert not receiver.unsigned, receiver.unsigned[:5]
    assert shown["disabled_reason"] == "gone"


def test_http_workers_killed_while_they_deliver(stack, scale):
    kills, count = scale.of(30, 3), scale.of(1500, 60)
    stack.environment |= SETTINGS
    stack.gateway()
    redis, client = stack.redis.client(), stack.client()
    receiver = Receiver(scale.seed)
    with HttpReceiver(receiver) as server:
        register(client, receiver, server.url)
        fleet = Fleet(stack, "http_worker", {"OFFLOAD_CONCURRENCY": "50"}, random.Random(scale.seed)).start(2)
        sent = 0
        for number in range(kills):
            accepted(redis, count // kills, f"killed-{number}")
            sent += count // kills
            until(lambda sent=sent: len(receiver.attempts) > sent * ENDPOINTS * 0.6, "work under way", seconds=120)
            fleet.kill()
        expected = sent * ENDPOINTS
        until(lambda: len(receiver.taken) >= expected, "every event at every endpoint", seconds=scale.of(900, 180))
        until(lambda: redis.hlen(f"{PREFIX}queue:webhooks:live") == 0, "the last acknowledgements", seconds=90)
    lost = expected - len(receiver.taken)
    Row(
        order=16.7,
        fault="http-worker `kill -9` while it delivers webhooks",
        load=f"{sent:,} events to {ENDPOINTS} endpoints, 30 % of the requests fail",
        injected=kills,
        lost=lost,
        doubled=0,
        seen=f"{sum(map(len, receiver.attempts.values())):,} attempts; "
        f"{sum(count - 1 for count in receiver.taken.values())} were taken twice, with the same webhook-id",
        seed=scale.seed,
    ).note()
    assert lost == 0
    assert not receiver.unsigned, receiver.unsigned[:5]
    # Nothing is a dead letter, and every delivery has its record.
    assert redis.hlen(f"{PREFIX}queue:webhooks:dead") == 0
    record = json.loads(redis.hget(keys.record(PREFIX, "killed-0-0"), "steps"))
    assert record[0]["queue"] == "nobody"
