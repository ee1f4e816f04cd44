"""What travels between Offload's services: one typed object per task, and nothing else.

Names are ``noun.verb.vN``. A contract is frozen once it is released: fields are only ever added, with defaults, and
anything else is a new version. On the wire unknown fields are ignored, so that a worker reads a newer gateway's
messages. Keys and ids travel, never bytes or secrets.
"""

from offload_contracts.address import Address
from offload_contracts.contract import ContractError, Message, Queue, Result, TaskContract
from offload_contracts.images import Fit, ImageFormat, Output, Outputs, ResizeImage, ThumbnailImage
from offload_contracts.mails import MailPolicy, MailSent, Notify, NotifyFailure, RecipientOutcome, SendMail, Template
from offload_contracts.maintenance import CleanUp, HealthCheck, Report, Swept
from offload_contracts.registry import (
    ALL,
    CHECK_HEALTH,
    CLEAN_UP,
    NOTIFY,
    NOTIFY_FAILURE,
    RENDER_REPORT,
    REPORT_DAILY,
    RESIZE_IMAGE,
    SEND_MAIL,
    THUMBNAIL_IMAGE,
    by_name,
)
from offload_contracts.reports import RenderReport

__all__ = [
    "ALL", "CHECK_HEALTH", "CLEAN_UP", "NOTIFY", "NOTIFY_FAILURE", "RENDER_REPORT", "REPORT_DAILY", "RESIZE_IMAGE",
    "SEND_MAIL", "THUMBNAIL_IMAGE", "Address", "CleanUp", "ContractError", "Fit", "HealthCheck", "ImageFormat",
    "MailPolicy", "MailSent", "Message", "Notify", "NotifyFailure", "Output", "Outputs", "Queue", "RecipientOutcome",
    "RenderReport", "Report", "ResizeImage", "Result", "SendMail", "Swept", "TaskContract", "Template",
    "ThumbnailImage", "by_name",
]  # fmt: skip
