"""What the API says of bulk operations."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from gateway.tasks.schemas import TaskFilter

MAX_IDS = 500


class NewBulk(BaseModel):
    """What is to be done, and to which tasks: those of `ids`, or those that a `filter` finds when it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["cancel", "redrive", "delete"] = Field(
        description="`cancel` what has not ended, `redrive` what is a dead letter, or `delete` what has ended, with "
        "its files."
    )
    ids: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=400)], ...], Field(min_length=1, max_length=MAX_IDS)
        ]
        | None
    ) = Field(default=None, description="Ids of tasks.")
    filter: TaskFilter | None = Field(
        default=None,
        description="As of `GET /v1/tasks`. It is frozen: what is created later is not touched. Without `state`, all "
        "that the action is for.",
    )
    dry_run: bool = Field(default=False, description="Count, and do nothing.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


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


NEW_BULK: TypeAdapter[NewBulk] = TypeAdapter(NewBulk)
