"""Workers that are killed, stopped, poisoned, bombed and put to sleep."""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest
from integration.conftest import JPEG

from devstack.waiting import until

from .conftest import Fleet
from .ledgers import SMALL_PHOTO, Client, every, image, judge, noisy_photo
from .report import Row

if TYPE_CHECKING:
    from collections.abc import Callable

ONE = {"OFFLOAD_CONCURRENCY": "1"}


def load(stack, tasks: int, content: bytes, more: Callable[[], bool]) -> Client:
    """Post so many photos, every fifth as a chain of three, and go on while there are to be more."""
    stack.gateway({"OFFLOAD_QUEUE_LIMIT": "100000"})
    stack.worker("mail_worker")
    client = Client(stack.url, stack.folder / "client.jsonl")
    client.start(lambda number: image(number, content, chain=number % 5 == 0), tasks, more=more, give_up_seconds=900)
    return client


@pytest.mark.parametrize(("order", "milliseconds"), [(1, 30), pytest.param(2, 1, marks=pytest.mark.full)])
def test_kill_9_of_worker_trees(stack, scale, order, milliseconds):
    content = noisy_photo(900, 700) if milliseconds == 30 else SMALL_PHOTO
    tasks, kills = scale.of(10_000, 100), scale.of(60, 4)
    fleet = Fleet(stack, "image_worker", {}, random.Random(scale.seed)).start(3)
    client = load(stack, tasks, content, more=lambda: len(fleet.ended) < kills)
    until(lambda: stack.redis.client().hlen("offload:queue:images:live"), "work")
    every(scale.of(4, 1) if milliseconds == 30 else 1, fleet.kill, kills)
    client.join(900)
    verdict = judge(stack, client, kills=fleet.ended, seconds=900)
    Row.of(
        verdict,
        order=order,
        fault=f"`kill -9` of worker trees, tasks of {milliseconds} ms",
        load=f"{verdict.tasks:,} photos, every fifth a chain of three, 3 workers of 2 slots",
        injected=kills,
        recovery=verdict.recovery,
        seen=f"{verdict.again} steps run again; {verdict.traces} traces whole",
        seed=scale.seed,
    ).note()
    verdict.check()
    if scale.is_full:
        ordered = sorted(verdict.recovery)
        assert ordered[int(len(ordered) * 0.99)] <= 15


def test_sigterm_under_load(stack, scale):
    tasks, stops = scale.of(4_000, 100), scale.of(25, 2)
    fleet = Fleet(stack, "image_worker", {}, random.Random(scale.seed)).start(2)
    client = load(stack, tasks, noisy_photo(900, 700), more=lambda: len(fleet.ended) < stops)
    until(lambda: stack.redis.client().hlen("offload:queue:images:live"), "work")
    every(0.5, fleet.stop, stops)
    client.join(600)
    verdict = judge(stack, client, seconds=600)
    Row.of(
        verdict,
        order=3,
        fault="SIGTERM",
        load=f"{verdict.tasks:,} photos, every fifth a chain of three, 2 workers of 2 slots",
        injected=stops,
        seen=f"{verdict.again} steps run again",
        seed=scale.seed,
    ).note()
    verdict.check()
    assert verdict.again == 0, "what a stopping worker holds is finished, or handed back unstarted"


@pytest.mark.full
def test_a_pool_child_killed_in_the_middle(stack, scale):
    """Each time in the middle of a step: the next delivery does it, and the worker's parent lives."""
    stack.gateway()
    stack.worker("mail_worker")
    api = stack.client()
    recovery, clients = [], []
    for number in range(10):
        pause = stack.paused("image_worker", "in the step", ONE)
        client = Client(stack.url, stack.folder / "client.jsonl", name=f"c{number}")
        client.post([image(number, SMALL_PHOTO, chain=True)])
        pause.reached()
        (child,) = pause.process.children()
        began = time.monotonic()
        os.kill(child, signal.SIGKILL)
        (task_id,) = client.accepted()
        task = stack.wait(api, task_id, seconds=60)
        recovery.append(time.monotonic() - began)
        assert task["steps"][0]["deliveries"] == 2
        assert pause.process.exit_code is None, "the parent lives"
        clients.append(client)
        judge(stack, client).check()
        pause.process.stop()
    verdict = judge(stack, *clients)
    Row.of(
        verdict,
        order=4,
        fault="`kill -9` of a pool child in the middle of a step",
        load="10 chains of three",
        injected=10,
        recovery=recovery,
        seen="each done by its second delivery; every parent lived",
    ).note()
    verdict.check()


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.parametrize(("order", "whom"), [(5, "child"), (6, "worker")])
def test_poison(stack, scale, order, whom):
    """One photo kills whoever works on it; 240 others share its workers."""
    stack.gateway()
    stack.worker("mail_worker")
    content = noisy_photo(900, 700)
    workers = [stack.poisoned(whom) for _ in range(2)]
    supervisor = Supervisor(stack, workers, whom)

    verdicts = []

    def seconds_of(name: str, first: int) -> list[float]:
        client = Client(stack.url, stack.folder / "client.jsonl", name=name, per_second=15, at_once=8)
        client.post([image(first + number, content, chain=False) for number in range(240)])
        verdict = judge(stack, client, seconds=240)
        verdicts.append(verdict)
        ended = [stack.record(task_id) for task_id in client.accepted()]
        return [(record.finished_at - record.created_at) / 1000 for record in ended]

    calm = seconds_of("calm", 0)
    api = stack.client()
    query = {"width": 64, "notify": "ann@example.com"}
    poison = api.post("/v1/images", params=query, content=SMALL_PHOTO + b"POISON", headers=JPEG).json()["task_id"]
    poisoned = seconds_of("poisoned", 1_000)
    task = stack.wait(api, poison, seconds=240)
    supervisor.stop()
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "delivery.limit"), task
    until(lambda: stack.smtp.to("ann@example.com"), "its user to be told", seconds=60)
    until(stack.is_quiet, "every message to be settled", seconds=60)
    assert stack.subjects("ann@example.com") == ["Your task could not be done"]
    (letter,) = api.get("/v1/dead-letters").json()["dead_letters"]
    without, beside = (statistics.quantiles(times, n=20)[-1] for times in (calm, poisoned))
    Row(
        order=order,
        fault=f"a photo that kills its {'pool child' if whom == 'child' else 'whole worker'} each time",
        load="240 good photos, 15 a second, 2 workers of 2 slots",
        injected=letter["deliveries"],
        lost=sum(len(verdict.lost) for verdict in verdicts),
        doubled=sum(len(verdict.doubled) for verdict in verdicts),
        seen=f"buried after {letter['deliveries']} deliveries, user told once, no innocent buried; "
        f"p95 of the good {beside:.2f} s, without it {without:.2f} s",
    ).note()
    for verdict in verdicts:
        verdict.check()
        assert verdict.states == {"SUCCESS": 240}, "no innocent is buried"
    if whom == "child":
        assert letter["deliveries"] == 3


@pytest.mark.full
def test_poison_among_innocents_on_full_slots(stack, scale):
    """Three photos that kill their whole worker, among 300 good ones: never alone, and nobody else is buried."""
    stack.gateway()
    stack.worker("mail_worker")
    api = stack.client()
    client = Client(stack.url, stack.folder / "client.jsonl")
    content = noisy_photo(900, 700)
    poisons = []
    for turn in range(3):
        client.start(lambda number, turn=turn: image(1000 * turn + number, content, chain=False), 100)
        client.join()
        query = {"width": 64, "notify": f"poison{turn}@example.com"}
        answer = api.post("/v1/images", params=query, content=SMALL_PHOTO + b"POISON", headers=JPEG)
        poisons.append(answer.json()["task_id"])
        client = Client(stack.url, stack.folder / "client.jsonl", name=f"c{turn}")
    supervisor = Supervisor(stack, [stack.poisoned("worker") for _ in range(2)], "worker")
    clients = [Client(stack.url, stack.folder / "client.jsonl", name=name) for name in ("c", "c0", "c1")]
    verdict = judge(stack, *clients, seconds=600)
    tasks = [stack.wait(api, one, seconds=300) for one in poisons]
    supervisor.stop()
    deliveries = [letter["deliveries"] for letter in api.get("/v1/dead-letters").json()["dead_letters"]]
    Row.of(
        verdict,
        order=6.1,
        fault="three such photos in a backlog, all slots full",
        load=f"{verdict.tasks} good photos, 2 workers of 2 slots",
        injected=sum(deliveries),
        seen=f"buried after {deliveries} deliveries; good ones: {dict(verdict.states)}",
    ).note()
    verdict.check()
    assert [task["error"]["code"] for task in tasks] == ["delivery.limit"] * 3
    assert verdict.states == {"SUCCESS": 300}


class Supervisor:
    """Starts another worker for each that has died."""

    def __init__(self, stack, workers, whom: str) -> None:
        self._stack, self._workers, self._whom = stack, workers, whom
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stopped.wait(0.2):
            for position, worker in enumerate(self._workers):
                if worker.exit_code is not None:
                    self._workers[position] = self._stack.poisoned(self._whom)


@pytest.mark.full
def test_a_worker_that_sleeps_for_three_leases(stack, scale):
    """Stopped in a step, and before its result is stored and the next step published; another does the work.

    Then it goes on, and changes nothing.
    """
    stack.gateway()
    stack.worker("mail_worker")
    api = stack.client()
    recovery, clients = [], []
    nap = 3 * float(stack.environment["OFFLOAD_LEASE_SECONDS"])
    for number, point in enumerate(("in the step", "before storing")):
        pause = stack.paused("image_worker", point, ONE)
        client = Client(stack.url, stack.folder / "client.jsonl", name=f"c{number}")
        client.post([image(number, SMALL_PHOTO, chain=True)])
        pause.reached()
        other = stack.worker("image_worker", ONE)
        began = time.monotonic()
        pause.process.send_group(signal.SIGSTOP)
        (task_id,) = client.accepted()
        task = stack.wait(api, task_id, seconds=120)
        recovery.append(time.monotonic() - began)
        until(lambda began=began: time.monotonic() - began > nap, "three leases", seconds=2 * nap)
        pause.go()
        pause.process.send_group(signal.SIGCONT)
        log = pause.process.output
        told = ("fenced", "ended", "lost: the lease")
        until(lambda log=log, told=told: any(word in log() for word in told), "the sleeper to be told")
        assert stack.task(api, task_id) == task
        # The next chain is the next sleeper's alone.
        for process in (pause.process, other):
            process.stop()
        clients.append(client)
    verdict = judge(stack, *clients)
    Row.of(
        verdict,
        order=8,
        fault="SIGSTOP for three leases, then SIGCONT",
        load=f"{len(clients)} chains of three, another worker idle",
        injected=len(clients),
        recovery=recovery,
        seen="(recovery: to the end of the chain) the sleeper's result and acknowledgement were fenced; one mail each",
    ).note()
    verdict.check()


@pytest.mark.full
def test_killed_at_every_point_of_a_step(stack, scale):
    """Before and after the gate, and before and after the script that stores the result and publishes the next step."""
    points = ("before STARTED", "in the step", "before storing", "after storing")
    stack.environment["OTEL_TRACES_SAMPLER_ARG"] = "1"
    stack.gateway()
    stack.worker("mail_worker")
    clients = []
    for turn in range(5):
        # All of them before the first chain: what one leaves behind is nobody's to be killed with again.
        pauses = [stack.paused("image_worker", point, ONE) for point in points]
        for point in points:
            client = Client(stack.url, stack.folder / "client.jsonl", name=f"{turn} {point}")
            client.post([image(len(clients), SMALL_PHOTO, chain=True)])
            clients.append(client)
        for pause in pauses:
            pause.reached()
        for pause in pauses:
            pause.process.kill()
        worker = stack.worker("image_worker")
        judge(stack, *clients, seconds=120).check()
        worker.stop()
    verdict = judge(stack, *clients)
    Row.of(
        verdict,
        order=9,
        fault="`kill -9` at four points of a step: around the gate, and around storing its result with the next step",
        load=f"{len(clients)} chains of three",
        injected=len(clients),
        seen=f"{verdict.again} steps run again; {verdict.traces} traces, one trace id each",
    ).note()
    verdict.check()
    assert verdict.traces == len(clients)
