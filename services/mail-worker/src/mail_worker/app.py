"""The mail worker, and what its tasks work with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mail_worker.mails import Mailer
from mail_worker.settings import MailWorkerSettings
from mail_worker.smtp import Sender
from offload_contracts.contract import Queue
from offload_core.redis_client import connect
from offload_worker import Worker
from offload_worker.health import HealthCheck

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, and how mails are sent."""

    settings: MailWorkerSettings
    mailer: Mailer


@contextlib.contextmanager
def _lifespan(settings: MailWorkerSettings) -> Iterator[Resources]:
    client, sender = connect(settings), Sender(settings)
    check = HealthCheck(client, settings.key_prefix, {"smtp": lambda: sender.check(settings.health_timeout_seconds)})
    check.repeat(settings.smtp_check_interval_seconds)
    yield Resources(settings, Mailer(settings, client, sender))


worker = Worker("mail-worker", MailWorkerSettings, _lifespan, queues=(Queue.MAIL, Queue.CALLBACKS), pool="threads")
