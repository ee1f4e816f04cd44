"""No-op tasks for the queue benchmark: ``celery -A benchmarks.queue_apps.app_of_KIND`` by environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

import celery_leases

if TYPE_CHECKING:
    from offload_core.blobs import BlobStore

KIND = os.environ.get("BENCH_KIND", "")
URL = os.environ.get("BENCH_REDIS", "")

SAFE = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
}


def noop() -> None:
    """Do nothing."""


def stock(*, safe: bool, results: bool = False) -> Celery:
    """Celery on its own Redis transport, with its defaults or with the same safety settings as ours."""
    app = Celery("bench", broker=URL, backend=URL if results else None)
    if safe:
        app.conf.update(SAFE)
    app.conf.task_track_started = results
    app.task(noop, name="bench.noop", ignore_result=not results, shared=False)
    return app


def adopted() -> Celery:
    """The application of `stock`, with its safety settings and results, on Offload by its broker URL."""
    app = stock(safe=True, results=True)
    app.conf.broker_url = f"offload+{URL}"
    return app


def leases() -> Celery:
    """Celery on our broker alone."""
    app = Celery("bench", broker=URL)
    app.conf.update(celery_leases.SETTINGS)
    app.conf.update(task_ignore_result=True, broker_transport_options={"tombstone_seconds": 0})
    app.task(noop, name="bench.noop", ignore_result=True, shared=False)
    return app


def _no_blobs() -> BlobStore:
    raise AssertionError("a no-op needs no blob store")


def offload() -> Celery:
    """Our broker, with the gate and the record of each task."""
    from offload_contracts.images import Outputs
    from offload_contracts.reports import RENDER_REPORT
    from offload_core.settings import Settings
    from offload_worker.celery_app import create_app
    from offload_worker.lifespan import Lifespan
    from offload_worker.policy import Policy
    from offload_worker.steps import register

    app = create_app("bench", Settings(redis_url=URL))
    nothing: Lifespan[None] = Lifespan(None)
    register(app, RENDER_REPORT, lambda _message, _run: Outputs(), Policy(()), nothing, _no_blobs)
    return app


if KIND:
    app = {
        "stock": lambda: stock(safe=False),
        "stock-safe": lambda: stock(safe=True),
        "stock-results": lambda: stock(safe=True, results=True),
        "adopted": adopted,
        "leases": leases,
        "offload": offload,
    }[KIND]()
