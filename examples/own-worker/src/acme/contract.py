"""What Acme's tasks take and give. A change that an old worker could not read gets a new name: `invoice.render.v2`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class Line(BaseModel):
    """One line of an invoice; the price is in cents."""

    text: Annotated[str, Field(min_length=1, max_length=60)]
    cents: Annotated[int, Field(ge=0)]


class Invoice(BaseModel):
    """An invoice to be rendered."""

    number: Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{1,6}$")]
    customer: Annotated[str, Field(min_length=1, max_length=60)]
    lines: Annotated[list[Line], Field(min_length=1, max_length=40)]


class Rendered(BaseModel):
    """What was rendered. The file itself is an output of the task."""

    number: str
    total_cents: int


class Badge(BaseModel):
    """A name to be drawn."""

    name: Annotated[str, Field(min_length=1, max_length=30)]
    side: Annotated[int, Field(ge=100, le=2000)] = 600


class Drawn(BaseModel):
    """What was drawn."""

    name: str


class Archive(BaseModel):
    """Put the files of the steps before into one."""

    label: Annotated[str, Field(pattern="^[a-z]{1,20}$")] = "archive"


class Archived(BaseModel):
    """What the archive holds."""

    files: list[str]
