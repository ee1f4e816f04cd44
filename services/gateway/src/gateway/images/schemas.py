"""What a post of an image may ask for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.intake.fields import USER_ID, TaskRequest, UserId
from offload_contracts.address import Address
from offload_contracts.images import Fit, ImageFormat, Side
from offload_contracts.mails import MailPolicy

# The smallest and largest thumbnails that make sense as such.
ThumbnailSide = Annotated[int, Field(ge=16, le=1024)]


class ImageRequest(TaskRequest):
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
    user_id: UserId | None = USER_ID
