"""What the API says of batches."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, TypeAdapter

from gateway.intake.fields import INTEGRAL
from gateway.openapi import FieldError
from gateway.paging import PageQuery
from gateway.tasks.schemas import AnyTask
from offload_core.records import STATES

MAX_ITEMS = 1_000
MAX_EXPECTED = 1_000_000
REJECTED = "REJECTED"


class _NewBatch(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    on_complete: AnyTask | None = Field(
        default=None, description="Task that runs once when every task of the batch has ended, however it ended."
    )
    on_success: AnyTask | None = Field(
        default=None, description="Task that runs once when all of them have succeeded, and no item was rejected."
    )
    on_first_failure: AnyTask | None = Field(
        default=None, description="Task that runs once when the first one has failed."
    )


class ShortBatch(_NewBatch):
    """A batch in one request. Either all valid items are accepted, or none."""

    items: Annotated[tuple[dict[str, JsonValue], ...], Field(min_length=1, max_length=MAX_ITEMS)] = Field(
        description="Tasks, each as `POST /v1/tasks` takes it."
    )


class LongBatch(_NewBatch):
    """A batch whose items are sent later, in any number of requests."""

    expected: Annotated[int, Field(ge=1, le=MAX_EXPECTED), INTEGRAL] = Field(description="How many items will be sent.")
    start: Literal["now", "sealed"] = Field(
        default="now",
        description="`now`: each task may start once it is accepted. `sealed`: no task starts before the last item "
        "has been received.",
    )


def _way(value: object) -> str:
    return "<items>" if isinstance(value, dict) and "items" in value else "<expected>"


NEW_BATCH: TypeAdapter[ShortBatch | LongBatch] = TypeAdapter(
    Annotated[Annotated[ShortBatch, Tag("<items>")] | Annotated[LongBatch, Tag("<expected>")], Discriminator(_way)]
)


class ItemProblem(BaseModel):
    """Why an item was rejected."""

    code: str
    detail: str
    errors: list[FieldError] | None = None


class NewItem(BaseModel):
    """The outcome of one item."""

    index: int
    task_id: str | None
    status_url: str | None
    problem: ItemProblem | None


class NewBatch(BaseModel):
    """A batch that was created."""

    id: str
    sealed: bool = Field(description="Whether the batch takes no more items.")
    items: list[NewItem] | None = Field(
        description="The outcome of each item; null for a batch whose items are sent later."
    )


class RejectedItem(BaseModel):
    """An item that was not accepted. `index` is null when the line has none."""

    index: int | None
    problem: ItemProblem


class Added(BaseModel):
    """The outcome of the items of one request."""

    accepted: int
    deduplicated: int = Field(description="Items that had been received before.")
    rejected: list[RejectedItem] = Field(
        description="The first 1,000 rejected items. `GET /v1/batches/{id}/items?state=REJECTED` lists all that have "
        "an index."
    )
    have: int = Field(description="Items received so far, including rejected ones.")
    expected: int
    sealed: bool


class Counts(BaseModel):
    """Number of items by outcome."""

    succeeded: int
    failed: int
    cancelled: int
    open: int = Field(description="Tasks that have not ended.")
    rejected: int


class FollowUps(BaseModel):
    """Task ids of the follow-ups that have been published; null for the others."""

    on_complete: str | None
    on_success: str | None
    on_first_failure: str | None


class BatchLinks(BaseModel):
    """Where to go from a batch."""

    self: str
    items: str
    events: str


class Batch(BaseModel):
    """A batch as it stands."""

    id: str
    state: Literal["open", "running", "completed", "incomplete", "cancelled"] = Field(
        description="`open`: more items can be sent. `running`: sealed, with tasks that have not ended. After the end: "
        "`completed`, `cancelled`, or `incomplete` when items were missing after 24 hours."
    )
    sealed: bool
    start: Literal["now", "sealed"]
    expected: int
    have: int
    counts: Counts
    created_at: datetime
    sealed_at: datetime | None
    completed_at: datetime | None
    follow_ups: FollowUps
    tenant: str = Field(description="Name of the API key that owns it.")
    links: BatchLinks


class Item(BaseModel):
    """An item of a batch."""

    index: int
    task_id: str | None
    state: str = Field(description="State of the task, or `REJECTED`.", examples=[*STATES, REJECTED])
    problem: ItemProblem | None
    status_url: str | None


class ItemList(BaseModel):
    """A page of items, in order of their index. It may have fewer than `limit`, or none, and still a `next`."""

    data: list[Item]
    next: str | None = Field(description="Cursor of the items with higher indexes: `after`.")
    previous: str | None = Field(description="Cursor of the items with lower indexes: `before`.")


_STATES = "|".join((*STATES, REJECTED))


class ItemQuery(PageQuery):
    """Which items a list shows."""

    state: Annotated[str, Field(pattern=f"^({_STATES})(,({_STATES}))*$", max_length=100)] | None = Field(
        default=None, description="States, separated by commas."
    )


# A line of a long batch, for people: its members beside the index are those of a task.
LINE: dict[str, Any] = {
    "type": "string",
    "format": "binary",
    "description": 'One JSON object per line: `{"index": 0, "task": "…", "input": {…}}`, and the options of a task.',
    "example": '{"index": 0, "task": "invoice.render.v1", "input": {"number": 1}}\n',
}
