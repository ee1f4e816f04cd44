"""The same tasks on two brokers, celery-leases and stock Redis, for the column beside the fault table."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

import celery_leases

app = Celery("peer", broker=os.environ.get("BROKER_URL", "redis://"), set_as_current=False)
if os.environ.get("PEER") == "leases":
    app.conf.update(celery_leases.SETTINGS)
else:
    # The safest that it can be set: late acknowledgements, one message a slot, back after the same ten seconds.
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 10,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
app.conf.update(task_default_queue="work", task_ignore_result=True, worker_enable_remote_control=False)


@app.task(name="peer.effect")
def effect(key: str, seconds: float) -> None:
    """Note that it begins, take its time, note that it is done: in a file, where Redis's loss changes nothing."""
    _note("start", key)
    time.sleep(seconds)
    _note("done", key)


def _note(what: str, key: str) -> None:
    file = os.open(Path(os.environ["LEDGER"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {key} {time.time():.3f}\n".encode())
    os.close(file)
