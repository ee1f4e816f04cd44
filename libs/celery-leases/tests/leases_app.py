"""The Celery application that the worker processes of these tests run. Effects are kept outside of Redis."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

from celery import Celery
from celery.exceptions import Reject
from kombu.common import Broadcast

import celery_leases

BROKER_URL = os.environ["BROKER_URL"]
app = Celery("leases", broker=BROKER_URL, backend=os.environ.get("RESULT_BACKEND", BROKER_URL))
app.conf.update(celery_leases.SETTINGS)
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}")),
    task_default_queue="work",
    task_acks_on_failure_or_timeout=os.environ.get("ACKS_ON_FAILURE", "1") == "1",
    worker_enable_remote_control=os.environ.get("REMOTE_CONTROL", "1") == "1",
)
if os.environ.get("BROADCAST"):
    app.conf.task_queues = [Broadcast("everywhere", routing_key="all")]
if pool := os.environ.get("GREEN_POOL"):
    # Neither gevent nor eventlet is installed. Celery's module of the pool stands for it: no more is looked at.
    sys.modules[f"celery.concurrency.{pool}"] = types.ModuleType(pool)
LEDGER = Path(os.environ["LEDGER"])


def note(what: str, key: object) -> None:
    """Append one line to the ledger; O_APPEND keeps lines of several processes whole."""
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {key} {os.getpid()} {time.time():.3f}\n".encode())
    os.close(file)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(ignore_result=True)
def effect(key: str, seconds: float = 0.0) -> None:
    note("start", key)
    time.sleep(seconds)
    note("done", key)


@app.task
def leaves(key: str, how: str) -> None:
    note("start", key)
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[how]


@app.task(bind=True)
def step(self, value: str, seconds: float = 0.0) -> str:
    note("start", f"{value}:{self.request.get('delivery_count')}")
    time.sleep(seconds)
    note("done", value)
    return value + "."


@app.task(ignore_result=True)
def stalls(key: str, seconds: float) -> None:
    """Sleep in C, with the interpreter's lock: no other thread of this process runs."""
    note("start", key)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    note("done", key)


@app.task(ignore_result=True, rate_limit="30/m")
def limited(key: str) -> None:
    note("done", key)


@app.task(bind=True)
def delivery(self) -> tuple[int, bool]:
    return self.request.get("delivery_count"), self.request.delivery_info["redelivered"]


@app.task(bind=True, max_retries=2)
def flaky(self, countdown: float) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return self.request.retries


@app.task(bind=True)
def replaced(self, value: int) -> int:
    raise self.replace(add.s(value, 1))


@app.task
def poison() -> None:
    note("start", "poison")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def rejected() -> None:
    raise Reject("no", requeue=False)


@app.task
def requeued(key: str, times: int) -> None:
    note("start", key)
    if sum(line.split()[1] == key for line in LEDGER.read_text().splitlines()) < times:
        raise Reject("not yet", requeue=True)


def hangs_on_a_dead_letter(message: dict, reason: str) -> None:
    note("reported", reason)
    time.sleep(3600)


@app.task
def fails() -> None:
    raise ValueError("as asked")


@app.task
def failed(request, exception, traceback) -> None:
    note("failed", request.id)


@app.task
def handled(task_id: str) -> None:
    note("handled", task_id)
