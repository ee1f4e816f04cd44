"""What is answered about queues."""

from __future__ import annotations

from pydantic import BaseModel, Field


class QueueState(BaseModel):
    """How one queue stands."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_age_seconds: float = Field(description="How long the next message has waited; 0 where none waits.")


class Queues(BaseModel):
    """How all queues stand."""

    queues: list[QueueState]
