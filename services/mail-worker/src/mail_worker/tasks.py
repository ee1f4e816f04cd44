"""The mail worker's tasks: unwrap the message, call one function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_worker import compose
from mail_worker.app import worker
from offload_contracts.mails import NOTIFY, NOTIFY_FAILURE, SEND_MAIL, MailSent, Notify, NotifyFailure, SendMail
from offload_core import links
from offload_worker.policy import Policy

if TYPE_CHECKING:
    from datetime import datetime

    from mail_worker.app import Resources
    from mail_worker.settings import MailWorkerSettings
    from offload_contracts.images import Outputs
    from offload_worker import Run


def _mail(settings: MailWorkerSettings) -> Policy:
    return Policy(settings.mail_retry_seconds, settings.mail_deadline_seconds)


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
