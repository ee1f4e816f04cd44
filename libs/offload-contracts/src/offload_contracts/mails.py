"""Mail: one to send, and the two that tell a user how a task ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from offload_contracts.address import Address
from offload_contracts.contract import Message, Queue, Result, TaskContract
from offload_contracts.images import Outputs

MAX_RECIPIENTS = 50
Recipients = Annotated[tuple[Address, ...], Field(min_length=1, max_length=MAX_RECIPIENTS)]


class Template(StrEnum):
    """The templates that may be asked for by name; no post can ask for those of the two notifications."""

    WELCOME = "welcome"
    RECEIPT = "receipt"
    DAILY_REPORT = "daily_report"


class MailPolicy(StrEnum):
    """What to do when the SMTP server died between taking a mail and saying so."""

    AT_LEAST_ONCE = "at-least-once"  # send again, with the same Message-ID
    AT_MOST_ONCE = "at-most-once"  # give up, and say that it is not known


def check_one_way(template: Template | None, subject: str | None, text: str | None) -> None:
    """Refuse a mail that is neither of a template nor of a subject and a text, or both.

    Raises:
        ValueError: saying what is wrong.

    """
    if (template is None) == (text is None):
        raise ValueError("give either template or text")
    if text is not None and subject is None:
        raise ValueError("text needs a subject")


class SendMail(Message):
    """Send one mail: from a template and its context, or from a subject and a text."""

    to: Recipients
    template: Template | None = None
    context: dict[str, JsonValue] = Field(default={})
    subject: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    policy: MailPolicy = MailPolicy.AT_LEAST_ONCE
    # A message for each recipient, in which nobody sees the others; else one that all of them see each other in.
    individually: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> SendMail:
        check_one_way(self.template, self.subject, self.text)
        return self


class Notify(Message):
    """Tell a user that the images are ready. The last step of a chain: the outputs come from the step before."""

    to: Address
    user_id: str | None = None
    policy: MailPolicy = MailPolicy.AT_LEAST_ONCE


class NotifyFailure(Message):
    """Tell a user that a task has failed: which step, and why."""

    to: Address
    failed_task_id: str
    step: str
    code: str
    reason: str
    user_id: str | None = None


class RecipientOutcome(Result):
    """What became of one recipient of a mail."""

    address: str
    # Of `unknown` nobody can say whether the mail reached it; `not_sent` may be told again.
    outcome: Literal["sent", "refused", "unknown", "not_sent"]
    # The server's reply code, where it refused.
    code: int | None = None


class MailSent(Result):
    """A mail was taken by the SMTP server for one of its recipients at least; for none it is unknown."""

    message_id: str
    accepted: int
    # Recipients that the server refused for good, by reply code.
    refused: tuple[int, ...] = ()
    recipients: tuple[RecipientOutcome, ...] = ()


SEND_MAIL = TaskContract("mail.send.v1", Queue.MAIL, SendMail, MailSent)
NOTIFY = TaskContract("mail.notify.v1", Queue.MAIL, Notify, Outputs)
NOTIFY_FAILURE = TaskContract("mail.notify_failure.v1", Queue.MAIL, NotifyFailure, MailSent, is_internal=True)
