"""The release before and this one in one system: replaced service by service under load, and back again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devstack import history
from devstack.waiting import until

from .ledgers import SMALL_PHOTO, Client, Post, image, judge, mail
from .report import Row

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope

    from devstack.processes import Process

    from .conftest import Stack

# The last commit of 0.1.2: one runtime with Celery in it, and publishing in three places.
BEFORE = "14bae0041211d2c522499dee12859b035067bc6f"
ORDERS = {
    "gateway first": ("gateway", "image_worker", "mail_worker", "beat"),
    "workers first": ("image_worker", "mail_worker", "beat", "gateway"),
}
DEAD = 5


@pytest.fixture(scope="session")
def before() -> dict[str, str]:
    """Settings of a process that runs the release before."""
    try:
        return history.environment(BEFORE)
    except history.UnknownCommitError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the release before is not in this clone: {error}")


class Release:
    """The services, each of one release or the other. The housekeeper came with the later one."""

    def __init__(self, stack: Stack, settings: dict[str, str]) -> None:
        self._stack = stack
        self._running = {service: self._start(service, settings) for service in ORDERS["gateway first"]}
        self._housekeeper: Process | None = None

    def replace(self, service: str, settings: dict[str, str]) -> None:
        """Start a service of the other release; then, of a worker, stop the one before in order."""
        old, is_worker = self._running[service], service.endswith("_worker")
        new = self._start(service, settings) if is_worker else None
        assert old.stop() == 0, old.output()[-2000:]
        self._running[service] = new or self._start(service, settings)
        if service == "mail_worker":
            self._replace_housekeeper(is_there=not settings)

    def _replace_housekeeper(self, *, is_there: bool) -> None:
        """Let it come with the mail worker that leaves it the maintenance, and go with that one."""
        if self._housekeeper is not None:
            assert self._housekeeper.stop() == 0, self._housekeeper.output()[-2000:]
        self._housekeeper = self._stack.worker("housekeeper") if is_there else None

    def _start(self, service: str, settings: dict[str, str]) -> Process:
        if service == "gateway":
            return self._stack.gateway(settings)
        if service == "beat":
            return self._stack.service("beat", settings=settings)
        return self._stack.worker(service, settings)


def posts(number: int) -> Post:
    """Chains, some of them delayed past a replacement, and reports that run for longer than one."""
    if number % 100 == 0:
        return Post("/v1/reports", outputs=1, json={"rows": 10_000})
    post = image(number, SMALL_PHOTO, chain=number % 2 == 0)
    if number % 10 == 5:
        post.params["delay_seconds"] = 15
    return post


def let_mails_die(stack: Stack, name: str) -> Client:
    """Post mails that end as dead letters, because their mailboxes say "later" each time."""
    client = Client(stack.url, stack.folder / "client.jsonl", name=name)
    client.post([mail(f"{name}-{number}") for number in range(DEAD)])
    api = stack.client()
    until(
        lambda: len(api.get("/v1/dead-letters").json()["dead_letters"]) == DEAD, "the mails to be given up", seconds=60
    )
    return client


def redrive(stack: Stack) -> None:
    answer = stack.client().post("/v1/dead-letters/redrive", json={"queue": "mail"})
    assert answer.json()["redriven"] == DEAD, answer.text


@pytest.mark.full
@pytest.mark.parametrize("order", ORDERS)
def test_an_upgrade_and_its_rollback_under_load(stack, scale, before, order):
    accepting = {"take": False}

    def script(step: str, _: Envelope) -> str | None:
        return "450 later" if step.startswith("RCPT tdead") and not accepting["take"] else None

    stack.smtp.script = script
    release = Release(stack, before)
    replacing = [True]
    client = Client(stack.url, stack.folder / "client.jsonl", per_second=8)
    client.start(posts, 50, more=lambda: replacing[0])
    died_before = let_mails_die(stack, "dead-old")
    for service in ORDERS[order]:
        release.replace(service, {})
    accepting["take"] = True
    redrive(stack)
    judge(stack, died_before).check()
    accepting["take"] = False
    died_after = let_mails_die(stack, "dead-new")
    for service in ORDERS[order]:
        release.replace(service, before)
    accepting["take"] = True
    redrive(stack)
    replacing[0] = False
    client.join()
    verdict = judge(stack, client, died_before, died_after)
    logs = {process.name: process.output() for process in stack.processes}
    unread = [name for name, log in logs.items() if "cannot be decoded" in log or "undecodable" in log]
    Row.of(
        verdict,
        order=26 + list(ORDERS).index(order),
        fault=f"upgrade from 0.1.2 and back, service by service, {order}",
        load=f"{verdict.tasks} chains, delayed images, reports and dead letters",
        injected=2 * len(ORDERS[order]),
        seen=f"{verdict.again} steps run again; every dead letter redriven by the other release",
        seed=scale.seed,
    ).note()
    verdict.check()
    assert set(verdict.states) == {"SUCCESS"}
    assert not unread
