"""What a post of a task may ask for, and what is answered about tasks: `views` makes it, and tests hold it to these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, TypeAdapter

from gateway.intake.fields import Moment, TaskRequest
from gateway.paging import PageQuery
from offload_contracts.contract import MAX_NAME_LENGTH, QUEUE_NAME
from offload_core.records import STATES

State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
_TASK = Field(description="Name of a task type: `GET /v1/task-types` lists them.")
_INPUT: Any = Field(default={}, description="What the task type's input schema asks for.")
# Stages of a workflow, and branches of one; all steps together.
MAX_STAGES = 50
MAX_BRANCHES = 100
MAX_STEPS = 500


class SingleTask(TaskRequest):
    """A task of one step."""

    task: _Name = _TASK
    input: dict[str, JsonValue] = _INPUT


class TaskStep(BaseModel):
    """One step of a workflow. It has the result of the step before, or the list of the branches' results."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: _Name = _TASK
    input: dict[str, JsonValue] = _INPUT


class ParallelSteps(BaseModel):
    """Steps that run at once; the next one has the list of their results, in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parallel: Annotated[tuple[TaskStep, ...], Field(min_length=2, max_length=MAX_BRANCHES)]


def _kind_of_step(value: object) -> str:
    return "<parallel>" if isinstance(value, dict) and "parallel" in value else "<step>"


def _kind_of_task(value: object) -> str:
    return "<steps>" if isinstance(value, dict) and "steps" in value else "<task>"


WorkflowStep = Annotated[
    Annotated[TaskStep, Tag("<step>")] | Annotated[ParallelSteps, Tag("<parallel>")], Discriminator(_kind_of_step)
]


class Workflow(TaskRequest):
    """A task of several steps, one after the other; a step may be branches that run at once.

    A failing step fails the task: the other branches are cancelled, and the steps after it do not run.
    """

    steps: Annotated[tuple[WorkflowStep, ...], Field(min_length=1, max_length=MAX_STAGES)]


AnyTask = Annotated[
    Annotated[SingleTask, Tag("<task>")] | Annotated[Workflow, Tag("<steps>")], Discriminator(_kind_of_task)
]
TASK: TypeAdapter[SingleTask | Workflow] = TypeAdapter(AnyTask)


class Accepted(BaseModel):
    """A task that will be done."""

    task_id: str
    status_url: str


_STATE = "|".join(STATES)


class TaskFilter(BaseModel):
    """Which tasks are meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Annotated[str, Field(pattern=f"^({_STATE})(,({_STATE}))*$", max_length=100)] | None = Field(
        default=None, description="States, separated by commas.", examples=["PENDING,STARTED,RETRY"]
    )
    task: _Name | None = Field(default=None, description="Name of a task type: of any step.")
    queue: Annotated[str, Field(pattern=f"^{QUEUE_NAME.pattern}$")] | None = Field(
        default=None, description="Queue of any step."
    )
    tag: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(max_length=10)] = Field(
        default=(), description="A tag; several separated by commas: any of them. Given again: each of them."
    )
    error_code: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Code of why tasks failed, were cancelled, or are tried again."
    )
    trace_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = Field(
        default=None, description="Trace id, in lower-case hexadecimal digits."
    )
    batch: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Id of the batch that tasks are items of."
    )
    schedule: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Name of the schedule that tasks are occurrences of."
    )
    created_after: Moment | None = Field(default=None, description="Created after this moment.")
    created_before: Moment | None = Field(default=None, description="Created before this moment.")
    tenant: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description="Name of the API key that owns the tasks. Operators only; without it they see those of all keys.",
    )


class TaskQuery(PageQuery, TaskFilter):
    """Which tasks a list shows."""


class TaskSummary(BaseModel):
    """A task as lists show it."""

    task_id: str
    kind: str
    task: str = Field(description="Task type of the first step.")
    queue: str = Field(description="Queue of the first step.")
    step_count: int
    state: State
    reason: str | None = Field(description="Stable code of why the task failed, was cancelled, or is tried again.")
    created_at: datetime
    due_at: datetime | None
    finished_at: datetime | None
    tags: list[str]
    metadata: dict[str, JsonValue] | None
    cancel_requested: bool
    user_id: str | None
    trace_id: str | None
    parent_task_id: str | None
    batch_id: str | None = Field(description="Batch that it is an item of.")
    schedule: str | None = Field(description="Name of the schedule that it is an occurrence of.")
    tenant: str = Field(description="Name of the API key that owns it.")
    status_url: str


class TaskList(BaseModel):
    """A page of tasks, the newest first. It may have fewer than `limit`, or none, and still a `next`."""

    data: list[TaskSummary]
    next: str | None = Field(description="Cursor of the older tasks: `after`.")
    previous: str | None = Field(description="Cursor of the newer tasks: `before`.")


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
    stage: int = Field(description="Steps of one stage are branches, which run at once.")
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
    reason: str | None = Field(description="Stable code of why the task failed, was cancelled, or is tried again.")
    expired: bool
    created_at: datetime
    due_at: datetime | None
    finished_at: datetime | None
    erased_at: datetime | None = Field(description="When its input, its result and its files were erased on request.")
    expires_at: datetime | None = Field(description="A task that has not started by then is not run.")
    tags: list[str]
    metadata: dict[str, JsonValue] | None
    cancel_requested: bool
    user_id: str | None
    trace_id: str | None
    parent_task_id: str | None
    batch_id: str | None = Field(description="Batch that it is an item of.")
    schedule: str | None = Field(description="Name of the schedule that it is an occurrence of.")
    steps: list[Step]
    result: dict[str, JsonValue] | list[dict[str, JsonValue]] | None = Field(
        description="Of the last step; a list where that is branches. `outputs` in it are the files made so far."
    )
    error: StepError | None
    redrives: list[Redrive]
    links: Links
