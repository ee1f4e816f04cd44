"""Every task there is. A task's or queue's name stands nowhere else as a literal."""

from __future__ import annotations

from typing import Any

from offload_contracts.contract import Queue, TaskContract
from offload_contracts.images import Outputs, ResizeImage, ThumbnailImage
from offload_contracts.mails import MailSent, Notify, NotifyFailure, SendMail
from offload_contracts.maintenance import CleanUp, HealthCheck, Report, Swept
from offload_contracts.reports import RenderReport

RESIZE_IMAGE = TaskContract("image.resize.v1", Queue.IMAGES, ResizeImage, Outputs)
THUMBNAIL_IMAGE = TaskContract("image.thumbnail.v1", Queue.IMAGES, ThumbnailImage, Outputs)
RENDER_REPORT = TaskContract("report.render.v1", Queue.REPORTS, RenderReport, Outputs)
SEND_MAIL = TaskContract("mail.send.v1", Queue.MAIL, SendMail, MailSent)
NOTIFY = TaskContract("mail.notify.v1", Queue.MAIL, Notify, Outputs)
NOTIFY_FAILURE = TaskContract("mail.notify_failure.v1", Queue.MAIL, NotifyFailure, MailSent)
CHECK_HEALTH = TaskContract("maintenance.health.v1", Queue.MAINTENANCE, HealthCheck, Swept)
REPORT_DAILY = TaskContract("maintenance.report.v1", Queue.MAINTENANCE, Report, Swept)
CLEAN_UP = TaskContract("maintenance.clean_up.v1", Queue.MAINTENANCE, CleanUp, Swept)

ALL: tuple[TaskContract[Any, Any], ...] = (
    RESIZE_IMAGE, THUMBNAIL_IMAGE, RENDER_REPORT, SEND_MAIL, NOTIFY, NOTIFY_FAILURE, CHECK_HEALTH, REPORT_DAILY,
    CLEAN_UP,
)  # fmt: skip
_BY_NAME = {contract.name: contract for contract in ALL}


def by_name(name: str) -> TaskContract[Any, Any] | None:
    """Return the contract of a task name, or None when there is none."""
    return _BY_NAME.get(name)
