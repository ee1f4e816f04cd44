"""The application that tests/peers/tools.py runs tools beside."""

from __future__ import annotations

import os
import time

from celery import Celery
from celery_once import QueueOnce
from celery_singleton import Singleton

import celery_leases

URL = os.environ["BROKER_URL"]
app = Celery("tools", broker=URL, backend=URL)
app.conf.update(celery_leases.SETTINGS)
app.conf.update(
    task_default_queue="work",
    worker_send_task_events=True,
    ONCE={"backend": "celery_once.backends.Redis", "settings": {"url": URL, "default_timeout": 60}},
)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(base=QueueOnce)
def once(seconds: float) -> str:
    time.sleep(seconds)
    return "once"


@app.task(base=Singleton)
def single(seconds: float) -> str:
    time.sleep(seconds)
    return "single"
