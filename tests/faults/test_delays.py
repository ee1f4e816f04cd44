"""Delayed tasks and long ones: each once, on time, and no worker's memory pays for it."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from integration.conftest import PREFIX

from devstack.waiting import until
from offload_contracts.mails import SEND_MAIL, SendMail
from offload_core import messages, records
from offload_core.messages import NewStep
from offload_core.task_store import TaskStore

from .ledgers import SMALL_PHOTO, Client, Post, judge, mail
from .report import Row

BROKER = f"{PREFIX}queue:"


@pytest.mark.full
def test_a_delay_three_times_as_long_as_any_timeout(stack, scale):
    """Leases, polls and health checks of 10 s at most: delayed by 35 s, and started once."""
    stack.gateway()
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    client = Client(stack.url, stack.folder / "client.jsonl")
    delay = 35
    client.post(
        [
            Post("/v1/images", f"t{number}@example.com", 2, content=SMALL_PHOTO,
                 params={"width": 20, "thumbnail": 16, "notify": f"t{number}@example.com", "delay_seconds": delay})
            for number in range(100)
        ]
    )  # fmt: skip
    verdict = judge(stack, client, seconds=120)
    verdict.check()
    lags = []
    for task_id in client.accepted():
        record = stack.record(task_id)
        lags.append(record.steps[0].started_at / 1000 - record.due_at / 1000)
        assert record.steps[0].delivery == 1
    Row.of(
        verdict,
        order=20,
        fault="a delay of three times any timeout",
        load=f"100 chains of three, delayed by {delay} s",
        injected=0,
        recovery=lags,
        seen="(recovery: from due to started)",
    ).note()
    assert min(lags) >= 0


@pytest.mark.full
@pytest.mark.alone
def test_a_hundred_thousand_delayed_tasks(stack, scale):
    """All of them wait in Redis; 2,000 of them are due within a minute, and start on time. The worker's memory is flat.

    At 33 a second: more than a slow machine's worker can start would measure the machine.
    """
    stack.gateway({"OFFLOAD_QUEUE_LIMIT": "1000000"})
    worker = stack.worker("mail_worker", {"OFFLOAD_CONCURRENCY": "8"})
    redis = stack.redis.client()
    before = memory_bytes(worker)
    now_ms = round(time.time() * 1000)
    soon = 2_000
    pipe = redis.pipeline(transaction=False)
    for number in range(100_000):
        # The soon ones from 60 s on, evenly over 60 s; the others in a day.
        due_ms = now_ms + (60_000 + number * 30 if number < soon else 86_400_000 + number)
        to = f"t{number}@example.com"
        step = NewStep.of(SEND_MAIL, SendMail(to=(to,), subject="Hello", text="Hello."))
        made = messages.envelopes(
            f"d{number}", [(step,)], {}, origin="test", due=datetime.fromtimestamp(due_ms / 1000, UTC)
        )
        task = records.NewTask(f"d{number}", "email", "development", ((step,),), made)
        call = TaskStore(PREFIX, BROKER).accept(task)
        pipe.execute_command(*call.script.command((), call.arguments, full=number == 0))
        if number % 1000 == 999:
            pipe.execute()
            pipe = redis.pipeline(transaction=False)
    waiting = redis.zcard(f"{BROKER}mail:delayed")
    assert waiting > 97_000
    bytes_a_task = redis.info("memory")["used_memory_dataset"] / 100_000
    ledger = stack.folder / "client.jsonl"
    with ledger.open("w") as file:
        for number in range(soon):
            line = {"by": "c", "number": number, "task_id": f"d{number}", "to": f"t{number}@example.com", "outputs": 0}
            file.write(json.dumps(line) + "\n")
    client = Client(stack.url, ledger)
    peak = 0
    until(lambda: time.time() * 1000 > now_ms + 60_000, "the first to be due", seconds=120)
    deadline = time.monotonic() + 120
    while redis.zcard(f"{BROKER}mail:delayed") > 98_000 and time.monotonic() < deadline:
        peak = max(peak, memory_bytes(worker))
        time.sleep(0.2)
    verdict = judge(stack, client, seconds=120)
    lags = []
    for number in range(soon):
        record = stack.record(f"d{number}")
        lags.append(record.steps[0].started_at / 1000 - record.due_at / 1000)
    Row.of(
        verdict,
        order=21,
        fault="100,000 delayed tasks",
        load=f"{soon:,} of them due within a minute, the others in a day; 8 threads",
        injected=0,
        recovery=lags,
        seen=f"(recovery: from due to started) the worker's memory {before / 2**20:.0f} MB before, "
        f"{peak / 2**20:.0f} MB at most; {bytes_a_task:,.0f} bytes of Redis a task, record included",
    ).note()
    verdict.check()
    assert sorted(lags)[int(len(lags) * 0.99)] <= 2
    assert peak - before < 20 * 2**20


def memory_bytes(process) -> int:
    """What of it is in memory (Linux: the second number of statm, in pages)."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.full
def test_a_task_three_times_as_long_as_any_timeout(stack, scale):
    """A mail server that thinks for 35 s over each mail, and a lease of 10 s: one run, one mail."""
    stack.gateway()
    stack.worker("mail_worker")
    stack.worker("mail_worker")

    def slow(stage: str, _envelope: object) -> None:
        if stage == "DOT":
            time.sleep(35 / 4)  # not a wait: the server is slow; four mails are taken one after the other

    stack.smtp.script = slow
    client = Client(stack.url, stack.folder / "client.jsonl")
    client.post([mail(number) for number in range(4)])
    verdict = judge(stack, client, seconds=180)
    records_found = [stack.record(task_id) for task_id in client.accepted()]
    longest = max((record.steps[0].ended_at - record.steps[0].started_at) / 1000 for record in records_found)
    Row.of(
        verdict,
        order=22,
        fault="a task three times as long as any timeout",
        load="4 mails at a mail server that is slow, two workers, a lease of 10 s",
        injected=0,
        seen=f"the longest took {longest:.0f} s; {verdict.again} run again",
    ).note()
    verdict.check()
    assert verdict.again == 0
    assert longest > 30
