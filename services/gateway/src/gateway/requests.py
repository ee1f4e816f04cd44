"""What a post may ask for. Over HTTP unknown fields are refused: a misspelt option must not be ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from offload_contracts import Address, Fit, ImageFormat, MailPolicy, Template
from offload_contracts.images import Side
from offload_contracts.mails import Recipients, check_one_way
from offload_contracts.reports import MAX_ROWS

# The longest delay: 30 days.
MAX_DELAY_SECONDS = 2_592_000
# The smallest and largest thumbnails that make sense as such.
ThumbnailSide = Annotated[int, Field(ge=16, le=1024)]


def _plain(value: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029" for character in value):  # noqa: PLR2004 -- C0 and C1 controls
        raise ValueError("must have no line end or other control character")
    return value


Plain = Annotated[str, AfterValidator(_plain)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    delay_seconds: float = Field(
        default=0, ge=0, le=MAX_DELAY_SECONDS, description="Start so much later, 30 days at most."
    )


class ImageRequest(_Request):
    """Options of an image, as query parameters or fields of the form."""

    width: Side | None = Field(default=None, description="Pixels; without it, in proportion to the height.")
    height: Side | None = Field(default=None, description="Pixels; without it, in proportion to the width.")
    fit: Fit = Field(default=Fit.CONTAIN, description="`contain` never enlarges; `cover` cuts; `fill` bends.")
    format: ImageFormat | None = Field(default=None, description="The result's format; the upload's own by default.")
    animated: bool = Field(default=False, description="Keep all frames of a GIF or WebP; else the first.")
    thumbnail: ThumbnailSide | None = Field(default=None, description="Make a thumbnail too, of this longest side.")
    notify: Address | None = Field(default=None, description="Mail this address when it is done, or has failed.")
    notify_policy: MailPolicy = Field(
        default=MailPolicy.AT_LEAST_ONCE, description="What to do when the mail server leaves that mail's outcome open."
    )
    user_id: Annotated[Plain, Field(max_length=200)] | None = Field(default=None, description="Your own word for whom.")


class EmailRequest(_Request):
    """One mail."""

    to: Annotated[Recipients, BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
    template: Template | None = Field(default=None, description="A template by name, instead of subject and text.")
    context: dict[str, JsonValue] = Field(default={}, description="What the template is filled with.")
    subject: Annotated[Plain, Field(min_length=1, max_length=200)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    policy: MailPolicy = Field(
        default=MailPolicy.AT_LEAST_ONCE, description="What to do when the mail server leaves the outcome open."
    )
    user_id: Annotated[Plain, Field(max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> EmailRequest:
        check_one_way(self.template, self.subject, self.text)
        return self


class ReportRequest(_Request):
    """One report."""

    rows: int = Field(ge=1, le=MAX_ROWS, description="How many rows the table has.")
    title: Annotated[Plain, Field(min_length=1, max_length=200)] = "Report"
    notify: Address | None = Field(default=None, description="Mail this address when it has failed.")
    user_id: Annotated[Plain, Field(max_length=200)] | None = None
