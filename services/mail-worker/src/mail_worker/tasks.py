"""The mail worker's tasks: unwrap the message, call one function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_worker import compose, maintenance
from mail_worker.health import HealthChecker
from offload_contracts import (
    CHECK_HEALTH,
    CLEAN_UP,
    NOTIFY,
    NOTIFY_FAILURE,
    REPORT_DAILY,
    SEND_MAIL,
    CleanUp,
    HealthCheck,
    MailSent,
    Notify,
    NotifyFailure,
    Outputs,
    Report,
    SendMail,
    Swept,
    Template,
)
from offload_core import links
from offload_core.blobs import BlobError
from offload_core.errors import TemporaryError
from offload_worker.steps import Policy, Run, register

if TYPE_CHECKING:
    from datetime import datetime

    from celery import Celery

    from mail_worker.mails import Mailer
    from offload_core.blobs import BlobStore


def register_all(app: Celery, mailer: Mailer, store: BlobStore) -> None:  # noqa: C901 -- six tasks of a few lines each
    """Give the application its tasks."""
    settings, client = mailer.settings, mailer.client
    checker = HealthChecker(settings, client, store, mailer.sender)

    def send(message: SendMail, run: Run) -> MailSent:
        return mailer.send(
            run, message.to, lambda _: _content(message), message.policy, individually=message.individually
        )

    def notify(message: Notify, run: Run) -> Outputs:
        mailer.send(run, [message.to], lambda date: _notice(run, date), message.policy)
        return run.outputs

    def _notice(run: Run, date: datetime) -> compose.Content:
        expires_at = round(date.timestamp()) + settings.output_retention_seconds
        secret, base = settings.link_secret.get_secret_value(), settings.public_url.rstrip("/")
        outputs = [
            {
                "step": output.step,
                "width": output.width,
                "height": output.height,
                "url": f"{base}/v1/tasks/{run.task_id}/outputs/{output.name}"
                f"?token={links.sign(secret, run.task_id, output.name, expires_at)}",
            }
            for output in run.outputs.outputs
        ]
        days = settings.output_retention_seconds // 86_400
        return compose.from_template("notify", {"outputs": outputs, "task_id": run.task_id, "days": days})

    def notify_failure(message: NotifyFailure, run: Run) -> MailSent:
        content = compose.from_template("notify_failure", message.model_dump(mode="json"))
        return mailer.send(run, [message.to], lambda _: content)

    def check_health(_message: HealthCheck, _run: Run) -> Swept:
        return Swept(figures={"started": float(checker.start())})

    def report(message: Report, run: Run) -> Swept:
        if not message.recipients:
            return Swept(figures={"recipients": 0})

        def content(date: datetime) -> compose.Content:
            return compose.from_template(Template.DAILY_REPORT, maintenance.daily_figures(settings, client, date))

        sent = mailer.send(run, message.recipients, content)
        return Swept(figures={"recipients": sent.accepted})

    def clean_up(message: CleanUp, _run: Run) -> Swept:
        try:
            figures = maintenance.clean_up(
                settings, client, store, thorough=message.thorough, now=maintenance.utc_now()
            )
        except BlobError:
            raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None
        return Swept(figures=figures)

    retries, pause = settings.max_retries, settings.retry_backoff_seconds
    mail = Policy(settings.mail_retry_seconds, settings.mail_deadline_seconds)
    upkeep = Policy.doubling(retries, pause, settings.maintenance_deadline_seconds)
    register(app, SEND_MAIL, send, mail)
    register(app, NOTIFY, notify, mail)
    register(app, NOTIFY_FAILURE, notify_failure, mail)
    register(app, CHECK_HEALTH, check_health, upkeep)
    register(app, REPORT_DAILY, report, upkeep)
    register(app, CLEAN_UP, clean_up, upkeep)


def _content(message: SendMail) -> compose.Content:
    if message.template is not None:
        return compose.from_template(message.template, message.context)
    return compose.Content(message.subject or "", message.text or "")
