"""The mail worker's tasks: unwrap the message, call one function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_worker import compose, maintenance
from mail_worker.app import worker
from offload_contracts.mails import (
    NOTIFY,
    NOTIFY_FAILURE,
    SEND_MAIL,
    MailSent,
    Notify,
    NotifyFailure,
    SendMail,
    Template,
)
from offload_contracts.maintenance import CHECK_HEALTH, CLEAN_UP, REPORT_DAILY, CleanUp, HealthCheck, Report, Swept
from offload_core import links
from offload_core.blobs import BlobError
from offload_core.errors import TemporaryError
from offload_worker.steps import Policy

if TYPE_CHECKING:
    from datetime import datetime

    from mail_worker.app import Resources
    from mail_worker.settings import MailWorkerSettings
    from offload_contracts.images import Outputs
    from offload_worker.steps import Run


def _mail(settings: MailWorkerSettings) -> Policy:
    return Policy(settings.mail_retry_seconds, settings.mail_deadline_seconds)


def _maintenance(settings: MailWorkerSettings) -> Policy:
    return Policy.of(settings, settings.maintenance_deadline_seconds)


@worker.task(SEND_MAIL, policy=_mail)
def send(message: SendMail, run: Run[Resources]) -> MailSent:
    """Send a mail that was posted."""
    if message.template is not None:
        content = compose.from_template(message.template, message.context)
    else:
        content = compose.Content(message.subject or "", message.text or "")
    return run.resources.mailer.send(
        run, message.to, lambda _: content, message.policy, individually=message.individually
    )


@worker.task(NOTIFY, policy=_mail)
def notify(message: Notify, run: Run[Resources]) -> Outputs:
    """Tell a user that a task has succeeded, with links to what it made."""
    run.resources.mailer.send(run, [message.to], lambda date: _links_to_outputs(run, date), message.policy)
    return run.outputs


@worker.task(NOTIFY_FAILURE, policy=_mail)
def notify_failure(message: NotifyFailure, run: Run[Resources]) -> MailSent:
    """Tell a user that a task has failed, and why."""
    content = compose.from_template("notify_failure", message.model_dump(mode="json"))
    return run.resources.mailer.send(run, [message.to], lambda _: content)


@worker.task(CHECK_HEALTH, policy=_maintenance)
def check_health(_message: HealthCheck, run: Run[Resources]) -> Swept:
    """Begin to look at what Offload stands on."""
    return Swept(figures={"started": float(run.resources.health.start())})


@worker.task(REPORT_DAILY, policy=_maintenance)
def report(message: Report, run: Run[Resources]) -> Swept:
    """Mail yesterday's figures."""
    if not message.recipients:
        return Swept(figures={"recipients": 0})
    settings, mailer = run.resources.settings, run.resources.mailer

    def content(date: datetime) -> compose.Content:
        return compose.from_template(Template.DAILY_REPORT, maintenance.daily_figures(settings, mailer.client, date))

    return Swept(figures={"recipients": mailer.send(run, message.recipients, content).accepted})


@worker.task(CLEAN_UP, policy=_maintenance)
def clean_up(message: CleanUp, run: Run[Resources]) -> Swept:
    """Delete files that nothing needs any more."""
    resources = run.resources
    try:
        figures = maintenance.clean_up(
            resources.settings,
            resources.mailer.client,
            resources.store,
            thorough=message.thorough,
            now=maintenance.utc_now(),
        )
    except BlobError:
        raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None
    return Swept(figures=figures)


def _links_to_outputs(run: Run[Resources], date: datetime) -> compose.Content:
    settings = run.resources.settings
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
