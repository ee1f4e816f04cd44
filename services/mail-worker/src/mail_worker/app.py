"""Wiring of the mail worker: settings, sender, ledger, store, Celery application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_worker import tasks
from mail_worker.mails import Mailer
from mail_worker.smtp import Sender
from offload_contracts import Queue
from offload_core import logs
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect
from offload_worker import celery_telemetry
from offload_worker.celery_app import create_app

if TYPE_CHECKING:
    from mail_worker.settings import MailWorkerSettings
    from offload_worker.celery_app import OffloadApp

SERVICE = "mail-worker"
QUEUES = (Queue.MAIL, Queue.CALLBACKS, Queue.MAINTENANCE)
POOL = "threads"


def create(settings: MailWorkerSettings) -> OffloadApp:
    """Return the worker's application, with its tasks."""
    logs.configure(SERVICE, settings.log_level)
    app = create_app(SERVICE, settings, worker=settings)
    mailer = Mailer(settings, connect(settings), Sender(settings))
    tasks.register_all(app, mailer, BlobStore(settings))
    celery_telemetry.instrument(SERVICE, POOL)
    return app
