"""Wiring of the image worker: settings, store, Celery application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import signals

from image_worker import tasks
from image_worker.sandbox import Sandbox
from offload_contracts import Queue
from offload_core import logs
from offload_core.blobs import BlobStore
from offload_worker import celery_telemetry
from offload_worker.celery_app import create_app

if TYPE_CHECKING:
    from image_worker.settings import ImageWorkerSettings
    from offload_worker.celery_app import OffloadApp

SERVICE = "image-worker"
QUEUES = (Queue.IMAGES, Queue.REPORTS)
POOL = "prefork"


def create(settings: ImageWorkerSettings) -> OffloadApp:
    """Return the worker's application, with its tasks."""
    logs.configure(SERVICE, settings.log_level)
    app = create_app(SERVICE, settings, worker=settings)
    sandbox = Sandbox(settings)
    tasks.register_all(app, settings, BlobStore(settings), sandbox)
    celery_telemetry.instrument(SERVICE, POOL)
    signals.worker_process_init.connect(sandbox.start, weak=False)
    signals.worker_process_shutdown.connect(sandbox.stop, weak=False)
    return app
