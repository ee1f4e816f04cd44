"""What is answered about tasks: these models describe what `views` makes, and tests hold each answer against them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


class Accepted(BaseModel):
    """A task that will be done."""

    task_id: str
    status_url: str


class StepError(BaseModel):
    """Why a step failed."""

    code: str
    message: str | None
    step: str
    details: dict[str, Any] | None = None
    traceback: str | None = Field(default=None, description="For operators only.")


class Progress(BaseModel):
    """How far a step has come."""

    done: int
    total: int


class Step(BaseModel):
    """One step of a task."""

    number: int
    name: str
    state: State
    attempts: int
    deliveries: int
    started_at: datetime | None
    ended_at: datetime | None
    retry_at: datetime | None
    worker: str | None
    progress: Progress | None
    error: StepError | None


class Redrive(BaseModel):
    """One return from the dead letters."""

    at: datetime | None
    step: int
    reason: str
    deliveries: int
    last_worker: str | None
    died_at: datetime | None


class OutputLink(BaseModel):
    """A file that a task has made."""

    name: str
    step: str
    href: str
    media_type: str
    size_bytes: int


class Links(BaseModel):
    """Where to go from a task."""

    self: str
    outputs: list[OutputLink]


class Task(BaseModel):
    """A task as it stands. Once its record has expired, `steps` and `links.outputs` are empty and `expired` is true."""

    task_id: str
    kind: str
    state: State
    message: str = Field(description="A summary for people, in one sentence.")
    expired: bool
    created_at: datetime
    due_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    user_id: str | None
    trace_id: str | None
    parent_task_id: str | None
    steps: list[Step]
    result: dict[str, JsonValue] | None
    error: StepError | None
    redrives: list[Redrive]
    links: Links
