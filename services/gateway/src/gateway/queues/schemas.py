"""What the API says of queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL, Moment


class Paused(BaseModel):
    """A pause of a queue: its messages are not delivered."""

    note: str
    since: datetime
    until: datetime | None = Field(description="When the pause ends by itself. Null: when somebody resumes the queue.")


class QueueState(BaseModel):
    """How one queue stands."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_age_seconds: float = Field(description="How long the next message has waited; 0 where none waits.")
    paused: Paused | None = Field(description="The pause of the queue. Null: the queue is not paused.")
    max_running: int | None = Field(description="Maximum number of messages that run at once. Null: no limit.")
    rate: float | None = Field(description="Maximum number of deliveries per second. Null: no limit.")


class Queues(BaseModel):
    """How all queues stand."""

    queues: list[QueueState]


class NewPause(BaseModel):
    """Why a queue is paused, and until when."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    note: Annotated[str, Field(max_length=500)] = Field(default="", description="Why the queue is paused, for people.")
    until: Moment | None = Field(default=None, description="When the queue resumes by itself.")


class LimitsChange(BaseModel):
    """Changes to a queue's limits. Fields that are left out stay as they are; null removes a limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_running: Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL] | None = Field(
        default=None, description="Maximum number of messages that run at once, over all workers."
    )
    rate: Annotated[float, Field(ge=0.001, le=100_000)] | None = Field(
        default=None,
        description="Average number of deliveries per second, over all workers. Deliveries that one second did not use "
        "may follow at once; at least one.",
    )


PAUSE: TypeAdapter[NewPause] = TypeAdapter(NewPause)
LIMITS_CHANGE: TypeAdapter[LimitsChange] = TypeAdapter(LimitsChange)
