"""What the API answers, as models: they describe the answers of `views`, and tests hold each answer against them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

from offload_contracts import Queue

State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


class FieldError(BaseModel):
    """What is wrong about one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable; `docs/reference/problems.md` explains each.")
    detail: str
    errors: list[FieldError] | None = Field(default=None, description="The wrong fields, 20 at most.")
    limit_bytes: int | None = None


class Accepted(BaseModel):
    """A task that will be done."""

    task_id: str
    status_url: str


class RecipientOutcome(BaseModel):
    """What became of one recipient of a mail."""

    address: str
    outcome: Literal["sent", "refused", "unknown", "not_sent"]
    code: int | None = Field(default=None, description="The mail server's reply, where it refused.")


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
    message: str = Field(description="The state in one sentence.")
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
    queue: Queue
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


class Alive(BaseModel):
    """The process lives."""

    status: Literal["alive"]


class Readiness(BaseModel):
    """Whether posts can be accepted."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, str]
    warnings: list[str]
    development_mode: bool


class Started(BaseModel):
    """Whether Redis and the blob store have answered since the start."""

    status: Literal["started", "starting"]
    checks: dict[str, str] | None = None
