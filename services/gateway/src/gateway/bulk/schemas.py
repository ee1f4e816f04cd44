"""What the API says of bulk operations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from gateway.tasks.schemas import TaskFilter

MAX_IDS = 500


class _NewBulk(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["cancel", "redrive", "delete"] = Field(
        description="`cancel` what has not ended, `redrive` what is a dead letter, or `delete` what has ended, with "
        "its files."
    )
    dry_run: bool = Field(default=False, description="Count, and do nothing.")


class BulkOfThese(_NewBulk):
    """What is to be done to the tasks of these ids."""

    ids: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=400)], ...], Field(min_length=1, max_length=MAX_IDS)
    ] = Field(description="Ids of tasks.")


class BulkOfFilter(_NewBulk):
    """What is to be done to the tasks that a filter finds when it is asked for."""

    filter: TaskFilter = Field(
        description="As of `GET /v1/tasks`. It is frozen: what is created later is not touched. Without `state`, all "
        "that the action is for.",
    )


def _way(value: object) -> str:
    return "<ids>" if isinstance(value, dict) and "ids" in value else "<filter>"


class Bulk(BaseModel):
    """A bulk operation."""

    id: str
    action: str
    dry_run: bool
    state: Literal["pending", "running", "done", "aborted"]
    matched: int = Field(description="Tasks that it has come to so far.")
    done: int
    skipped: dict[str, int] = Field(description="How many were left alone, by the code of why.")
    abort_requested: bool
    actor: str = Field(description="Name of the API key that asked for it.")
    created_at: str
    finished_at: str | None


NEW_BULK: TypeAdapter[BulkOfThese | BulkOfFilter] = TypeAdapter(
    Annotated[Annotated[BulkOfThese, Tag("<ids>")] | Annotated[BulkOfFilter, Tag("<filter>")], Discriminator(_way)]
)
