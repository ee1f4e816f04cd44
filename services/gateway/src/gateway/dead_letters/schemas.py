"""What is asked and answered about dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from gateway.dead_letters.service import LIMIT
from gateway.intake.fields import INTEGRAL
from offload_contracts.contract import QUEUE_NAME

QueueName = Annotated[str, Field(pattern=f"^{QUEUE_NAME.pattern}$")]


class RedriveThese(BaseModel):
    """Dead letters to bring back, by their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=LIMIT)]


class RedriveQueue(BaseModel):
    """Dead letters to bring back: the newest of a queue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: QueueName
    reason: str | None = Field(default=None, description="Only dead letters with this reason.")
    limit: Annotated[int, Field(ge=1, le=LIMIT), INTEGRAL] = Field(
        default=100, description="Maximum number of dead letters."
    )


Redrive = RedriveThese | RedriveQueue
REDRIVE: TypeAdapter[Redrive] = TypeAdapter(
    Annotated[
        Annotated[RedriveThese, Tag("ids")] | Annotated[RedriveQueue, Tag("queue")],
        Discriminator(
            lambda value: (
                next((name for name in ("ids", "queue") if name in value), None) if isinstance(value, dict) else None
            ),
            custom_error_type="redrive",
            custom_error_message="give either ids or queue",
        ),
    ]
)


class Death(BaseModel):
    """An earlier end of a message that was redriven."""

    reason: str
    deliveries: int
    last_worker: str | None
    died_at: datetime | None
    redriven_at: datetime | None


class DeadLetter(BaseModel):
    """A message that was given up."""

    id: str
    queue: str
    task_id: str | None
    step: int | None
    task: str | None
    reason: str
    deliveries: int
    last_worker: str | None
    died_at: datetime | None
    reported: bool
    trace_id: str | None
    earlier: list[Death]
    message: dict[str, Any] | None = Field(default=None, description="Only where one letter is asked for.")


class DeadLetters(BaseModel):
    """Dead letters, the newest first."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Redriven(BaseModel):
    """What became of one dead letter."""

    id: str
    outcome: str


class RedrivenMany(BaseModel):
    """What became of each dead letter that was asked for."""

    redriven: int
    results: list[Redriven]
