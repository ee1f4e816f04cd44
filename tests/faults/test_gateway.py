"""The gateway killed while it is posted to, by clients that repeat with the same key."""

from __future__ import annotations

import asyncio
import random
import time

import httpx

from devstack.waiting import until

from .ledgers import SMALL_PHOTO, Client, image, judge, mail
from .report import Row


def records_of(stack) -> int:
    return len(stack.redis.client().keys("offload:task:*"))


def test_the_gateway_killed_during_posts(stack, scale):
    """Each key is one task, whatever the client was not told; uploads among them."""
    kills = scale.of(20, 3)
    gateway = stack.gateway({"OFFLOAD_QUEUE_LIMIT": "100000"})
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    client = Client(stack.url, stack.folder / "client.jsonl", per_second=40, at_once=32)
    killed: list[float] = []
    content = SMALL_PHOTO + b"\0" * 200_000  # long enough to be killed in the middle of an upload

    def one(number: int):
        return mail(number) if number % 2 else image(number, content, chain=True)

    client.start(one, scale.of(1_500, 60), more=lambda: len(killed) < kills)
    chance, recovery = random.Random(scale.seed), []
    for _ in range(kills):
        time.sleep(chance.uniform(0.5, 2))  # not a wait: kills come at random moments
        gateway.kill()
        killed.append(time.time())
        gateway = stack.gateway({"OFFLOAD_QUEUE_LIMIT": "100000"})
        recovery.append(time.time() - killed[-1])
    client.join(300)
    verdict = judge(stack, client, seconds=300)
    Row(
        order=16,
        fault="gateway `kill -9`, clients repeat with the same key",
        load=f"{verdict.tasks:,} posts, half of them uploads of 200 kB, 40 a second",
        injected=kills,
        lost=len(verdict.lost),
        doubled=len(verdict.doubled) + records_of(stack) - verdict.tasks,
        recovery=recovery,
        seen=f"{verdict.tasks:,} keys, {records_of(stack):,} tasks; {client.answers[0]} posts without an answer",
        seed=scale.seed,
    ).note()
    verdict.check()
    assert records_of(stack) == verdict.tasks, "one task for each key"


def test_a_hundred_posts_at_once_with_one_key(stack, scale):
    stack.gateway()
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    rounds = scale.of(20, 3)

    async def post(turn: int) -> set[str]:
        async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
            body = {"to": f"t{turn}@example.com", "subject": "Hello", "text": "Hello."}
            headers = {"Idempotency-Key": f"round {turn}"}

            async def one() -> httpx.Response:
                for _ in range(20):
                    answer = await client.post("/v1/emails", json=body, headers=headers)
                    if answer.status_code != 503:
                        break
                    # On a busy machine Redis may take longer than a request waits: the same key asks again.
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                return answer

            answers = await asyncio.gather(*(one() for _ in range(100)))
        assert {answer.status_code for answer in answers} == {202}
        return {answer.json()["task_id"] for answer in answers}

    ids = [asyncio.run(post(turn)) for turn in range(rounds)]
    assert [len(one) for one in ids] == [1] * rounds
    until(stack.is_quiet, "every message to be settled", seconds=60)
    mails = [len(stack.smtp.to(f"t{turn}@example.com")) for turn in range(rounds)]
    Row(
        order=17,
        fault="100 posts at once with one key",
        load=f"{rounds} keys",
        injected=rounds,
        lost=mails.count(0),
        doubled=sum(count > 1 for count in mails) + records_of(stack) - rounds,
        seen=f"{records_of(stack)} tasks",
    ).note()
    assert mails == [1] * rounds
    assert records_of(stack) == rounds
