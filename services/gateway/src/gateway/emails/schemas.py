"""What a post of a mail may ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag, TypeAdapter

from gateway.intake.fields import INTEGRAL, USER_ID, Line, ShortLine, TaskRequest, UserId
from offload_contracts.address import Address
from offload_contracts.mails import MAX_RECIPIENTS, MailPolicy, Template

_Recipients = Annotated[tuple[Address, ...], Field(min_length=1, max_length=MAX_RECIPIENTS)]


def _listed(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_To = Annotated[
    _Recipients,
    BeforeValidator(
        _listed,
        json_schema_input_type=Address | Annotated[list[Address], Field(min_length=1, max_length=MAX_RECIPIENTS)],
    ),
]
# What a mail shows as a link: nothing that a reader's browser would run.
Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s<>\"\\]+$")]
Text = Annotated[str, Field(max_length=1000)]
_Figure = Annotated[int, Field(ge=0, le=2**53), INTEGRAL]
_Amount = Text | Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(ge=-1e15, le=1e15)]


class _Context(BaseModel):
    # A template leaves out what it does not name.
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    __pydantic_extra__: dict[str, JsonValue]


class WelcomeContext(_Context):
    """What the template `welcome` shows."""

    name: ShortLine
    url: Url | None = None


class _Item(_Context):
    title: Text
    price: _Amount


class ReceiptContext(_Context):
    """What the template `receipt` shows."""

    name: Text
    number: ShortLine | Annotated[int, INTEGRAL]
    items: Annotated[list[_Item], Field(max_length=1000)]
    total: _Amount


class _Row(_Context):
    kind: Text
    succeeded: _Figure
    failed: _Figure
    revoked: _Figure


class _QueueRow(_Context):
    name: Text
    waiting: _Figure
    running: _Figure
    dead: _Figure


class DailyReportContext(_Context):
    """What the template `daily_report` shows."""

    day: ShortLine
    total: _Figure
    failed: _Figure
    rows: Annotated[list[_Row], Field(max_length=1000)]
    queues: Annotated[list[_QueueRow], Field(max_length=1000)]


class _Email(TaskRequest):
    to: _To = Field(
        description="One address, or up to 50. Recipients see each other's addresses unless `individually` is true."
    )
    individually: bool = Field(default=False, description="Send a separate message to each recipient.")
    policy: MailPolicy = Field(
        default=MailPolicy.AT_LEAST_ONCE, description="What to do when the outcome of the mail is unknown."
    )
    user_id: UserId | None = USER_ID


class TextEmail(_Email):
    """A mail of a subject and a plain text."""

    subject: Line
    text: Annotated[str, Field(min_length=1, max_length=100_000)]


class WelcomeEmail(_Email):
    """A mail from the template `welcome`."""

    template: Literal[Template.WELCOME]
    context: WelcomeContext


class ReceiptEmail(_Email):
    """A mail from the template `receipt`."""

    template: Literal[Template.RECEIPT]
    context: ReceiptContext


class DailyReportEmail(_Email):
    """A mail from the template `daily_report`."""

    template: Literal[Template.DAILY_REPORT]
    context: DailyReportContext


TemplateEmail = WelcomeEmail | ReceiptEmail | DailyReportEmail


def _way(value: object) -> str | None:
    """Return which kind of mail a body is."""
    if not isinstance(value, dict):
        return "text"
    template = value.get("template", "text")
    return template if isinstance(template, str) else None


EMAIL: TypeAdapter[TextEmail | TemplateEmail] = TypeAdapter(
    Annotated[
        Annotated[TextEmail, Tag("text")]
        | Annotated[WelcomeEmail, Tag(Template.WELCOME.value)]
        | Annotated[ReceiptEmail, Tag(Template.RECEIPT.value)]
        | Annotated[DailyReportEmail, Tag(Template.DAILY_REPORT.value)],
        Discriminator(
            _way,
            custom_error_type="template",
            custom_error_message="template must be one of welcome, receipt, daily_report; or give subject and text",
        ),
    ]
)
