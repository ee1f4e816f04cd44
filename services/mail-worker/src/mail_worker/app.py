"""The mail worker, and what its tasks work with."""

from __future__ import annotations

from dataclasses import dataclass

from mail_worker.health import HealthChecker
from mail_worker.mails import Mailer
from mail_worker.settings import MailWorkerSettings
from mail_worker.smtp import Sender
from offload_contracts.contract import Queue
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect
from offload_worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, how mails are sent, where files are, and what looks at all of it."""

    settings: MailWorkerSettings
    mailer: Mailer
    store: BlobStore
    health: HealthChecker


def _open(settings: MailWorkerSettings) -> Resources:
    client, sender, store = connect(settings), Sender(settings), BlobStore(settings)
    return Resources(settings, Mailer(settings, client, sender), store, HealthChecker(settings, client, store, sender))


worker = Worker(
    "mail-worker",
    MailWorkerSettings,
    _open,
    queues=(Queue.MAIL, Queue.CALLBACKS, Queue.MAINTENANCE),
    pool="threads",
    concurrency=lambda settings: settings.mail_concurrency,
)
