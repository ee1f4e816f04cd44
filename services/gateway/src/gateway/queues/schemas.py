"""What the API says of queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL, Moment


class Paused(BaseModel):
    """That nothing of a queue is delivered."""

    note: str
    since: datetime
    until: datetime | None = Field(description="When it ends by itself; null: when somebody resumes the queue.")


class QueueState(BaseModel):
    """How one queue stands."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_age_seconds: float = Field(description="How long the next message has waited; 0 where none waits.")
    paused: Paused | None = Field(description="Since when and why nothing of it is delivered; null: it is not paused.")
    max_running: int | None = Field(description="Messages that run at once; null: no limit.")
    rate: float | None = Field(description="Deliveries a second; null: no limit.")


class Queues(BaseModel):
    """How all queues stand."""

    queues: list[QueueState]


class NewPause(BaseModel):
    """Why a queue is paused, and until when."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    note: Annotated[str, Field(max_length=500)] = Field(default="", description="For people: why.")
    until: Moment | None = Field(default=None, description="When the queue resumes by itself.")


class LimitsChange(BaseModel):
    """Changes to a queue's limits. Fields that are left out stay as they are; null removes a limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_running: Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL] | None = Field(
        default=None, description="Messages that run at once, over all workers."
    )
    rate: Annotated[float, Field(ge=0.001, le=100_000)] | None = Field(
        default=None,
        description="Deliveries a second, over all workers and in the long run. What is unused of one second is saved, "
        "and one delivery at least.",
    )


PAUSE: TypeAdapter[NewPause] = TypeAdapter(NewPause)
LIMITS_CHANGE: TypeAdapter[LimitsChange] = TypeAdapter(LimitsChange)
