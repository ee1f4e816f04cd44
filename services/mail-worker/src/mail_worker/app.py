"""The mail worker, and what its tasks work with."""

from __future__ import annotations

from dataclasses import dataclass

from celery import signals

from mail_worker.mails import Mailer
from mail_worker.settings import MailWorkerSettings
from mail_worker.smtp import Sender
from offload_contracts.contract import Queue
from offload_core.redis_client import connect
from offload_worker.health import HealthCheck
from offload_worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, and how mails are sent."""

    settings: MailWorkerSettings
    mailer: Mailer


def _open(settings: MailWorkerSettings) -> Resources:
    client, sender = connect(settings), Sender(settings)
    check = HealthCheck(client, settings.key_prefix, {"smtp": lambda: sender.check(settings.health_timeout_seconds)})

    def begin(**_: object) -> None:
        check.repeat(settings.smtp_check_interval_seconds)

    signals.worker_ready.connect(begin, weak=False)
    return Resources(settings, Mailer(settings, client, sender))


worker = Worker("mail-worker", MailWorkerSettings, _open, queues=(Queue.MAIL, Queue.CALLBACKS), pool="threads")
