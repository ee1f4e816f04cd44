"""What a post may ask for. Unknown fields are refused: a misspelt option must not be ignored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
    WithJsonSchema,
)

from offload_contracts import Address, Fit, ImageFormat, MailPolicy, Template
from offload_contracts.images import Side
from offload_contracts.mails import MAX_RECIPIENTS
from offload_contracts.reports import MAX_ROWS

# The longest delay: 30 days.
MAX_DELAY_SECONDS = 2_592_000
# The smallest and largest thumbnails that make sense as such.
ThumbnailSide = Annotated[int, Field(ge=16, le=1024)]

_CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029"


def _integral(value: object) -> object:
    return int(value) if type(value) is float and value.is_integer() else value


# JSON has one kind of number: 10.0 is an integer (JSON Schema, section 6.1.1). true and "10" are none. To be named
# behind an integer's bounds, or these would be missing from its schema.
INTEGRAL = BeforeValidator(_integral)


def _plain(value: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029" for character in value):  # noqa: PLR2004 -- C0 and C1 controls
        raise ValueError("must have no line end or other control character")
    return value


def _line_schema(least: int, most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": least, "maxLength": most, "pattern": f"^[^{_CONTROL}]*$"})


UserId = Annotated[str, Field(max_length=200), AfterValidator(_plain), _line_schema(0, 200)]
# What stands in a header, with room for what a template writes around it.
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain), _line_schema(1, 200)]
ShortLine = Annotated[str, Field(min_length=1, max_length=150), AfterValidator(_plain), _line_schema(1, 150)]
_USER_ID = Field(default=None, description="Caller-defined user identifier, kept with the task.")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    delay_seconds: float = Field(
        default=0, ge=0, le=MAX_DELAY_SECONDS, description="Delay before the task may start; at most 30 days."
    )


class ImageRequest(_Request):
    """Options of an image, as query parameters or fields of the form."""

    width: Side | None = Field(default=None, description="Pixels; without it, in proportion to the height.")
    height: Side | None = Field(default=None, description="Pixels; without it, in proportion to the width.")
    fit: Fit = Field(
        default=Fit.CONTAIN,
        description="`contain` fits the full image and never enlarges; `cover` fills the box and crops; `fill` "
        "stretches.",
    )
    format: ImageFormat | None = Field(
        default=None,
        description="Output format; defaults to the upload's. `jpg` is an alias of `jpeg`.",
        json_schema_extra={"enum": [*(one.value for one in ImageFormat), "jpg"]},
    )
    animated: bool = Field(
        default=False,
        description="Keep all frames of an animation. The output must be GIF, WebP or PNG, or the task fails.",
    )
    thumbnail: ThumbnailSide | None = Field(
        default=None, description="Also make a thumbnail of the full upload; the length of its longest side."
    )
    notify: Address | None = Field(
        default=None,
        description="E-mail this address when the task has succeeded or failed. The header `Offload-Notify` does the "
        "same and keeps the address out of proxies' access logs.",
    )
    notify_policy: MailPolicy = Field(
        default=MailPolicy.AT_LEAST_ONCE, description="What to do when the outcome of that mail is unknown."
    )
    user_id: UserId | None = _USER_ID


# -- mail

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


class _Email(_Request):
    to: _To = Field(
        description="One address, or up to 50. Recipients see each other's addresses unless `individually` is true."
    )
    individually: bool = Field(default=False, description="Send a separate message to each recipient.")
    policy: MailPolicy = Field(
        default=MailPolicy.AT_LEAST_ONCE, description="What to do when the outcome of the mail is unknown."
    )
    user_id: UserId | None = _USER_ID


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


class ReportRequest(_Request):
    """One report."""

    rows: Annotated[int, Field(ge=1, le=MAX_ROWS), INTEGRAL] = Field(description="Number of rows of the table.")
    title: Line = "Report"
    notify: Address | None = Field(default=None, description="E-mail this address when the task has failed.")
    user_id: UserId | None = _USER_ID


REPORT: TypeAdapter[ReportRequest] = TypeAdapter(ReportRequest)
