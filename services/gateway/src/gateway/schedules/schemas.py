"""What the API says of schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from gateway.intake.fields import INTEGRAL, MAX_DELAY_SECONDS, Moment, TaskOptions
from gateway.paging import PageQuery
from offload_contracts.contract import MAX_NAME_LENGTH

NAME = r"^[A-Za-z0-9_.-]{1,100}$"
YEAR_SECONDS = 31_622_400
MAX_BACKFILL = 1_000
MAX_CRON_LENGTH = 200

_Note = Annotated[str, Field(max_length=500)]
_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]


class Times(BaseModel):
    """When a task runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cron: Annotated[str, Field(min_length=1, max_length=MAX_CRON_LENGTH)] | None = Field(
        default=None,
        description="Five fields, with names, `L` and `#`, like `0 8 * * MON-FRI`; or `@hourly`, `@daily`, `@weekly`, "
        "`@monthly`, `@yearly`.",
    )
    every_seconds: Annotated[int, Field(ge=1, le=YEAR_SECONDS), INTEGRAL] | None = Field(
        default=None,
        description="Interval, instead of `cron`. It counts from `starts_at`; without one, from 1970-01-01T00:00:00Z.",
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        default="UTC", description="Time zone of `cron`: `GET /v1/time-zones` lists them."
    )
    starts_at: Moment | None = Field(default=None, description="No occurrence is before this moment.")
    ends_at: Moment | None = Field(default=None, description="No occurrence is after this moment.")

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if (self.cron is None) == (self.every_seconds is None):
            raise ValueError("give either cron or every_seconds")
        return self


class NewSchedule(TaskOptions, Times):
    """Which task runs when, and what happens to occurrences that overlap, are missed or fail."""

    task: _Name = Field(description="Name of a task type: `GET /v1/task-types` lists them.")
    input: dict[str, JsonValue] = Field(default={}, description="What the task type's input schema asks for.")
    max_runs: Annotated[int, Field(ge=1, le=2**31), INTEGRAL] | None = Field(
        default=None, description="The schedule is finished after this many runs."
    )
    jitter_seconds: Annotated[int, Field(ge=0, le=86_400), INTEGRAL] = Field(
        default=0, description="Each occurrence is delayed by a random time up to this."
    )
    overlap: Literal["skip", "buffer_one", "buffer_all", "cancel_running", "allow"] = Field(
        default="skip",
        description="What happens to an occurrence while the previous task has not ended. `skip`: it is not run. "
        "`buffer_one`, `buffer_all`: it waits, with at most 1 or 100 waiting. `cancel_running`: the running task is "
        "cancelled. `allow`: both run.",
    )
    catch_up_seconds: Annotated[int, Field(ge=10, le=MAX_DELAY_SECONDS), INTEGRAL] = Field(
        default=3600, description="Occurrences missed by more than this, while beat or Redis was down, are not run."
    )
    catch_up: Literal["latest", "all"] = Field(
        default="latest", description="Which missed occurrences are run: only the latest, or all."
    )
    pause_on_failure: bool = Field(default=False, description="Pause the schedule when one of its tasks fails.")
    paused: bool = Field(default=False, description="No occurrence is run until the schedule is resumed.")
    note: _Note | None = Field(default=None, description="For people.")


NEW_SCHEDULE: TypeAdapter[NewSchedule] = TypeAdapter(NewSchedule)


class Preview(Times):
    """When a task would run."""

    count: Annotated[int, Field(ge=1, le=100), INTEGRAL] = Field(default=10, description="How many occurrences.")


PREVIEW: TypeAdapter[Preview] = TypeAdapter(Preview)


class Previewed(BaseModel):
    """When a task would run."""

    description: str = Field(description="In words.")
    next_runs: list[datetime]


class Pause(BaseModel):
    """Why a schedule is paused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    note: _Note | None = None


PAUSE: TypeAdapter[Pause] = TypeAdapter(Pause)


class Backfill(BaseModel):
    """The time span whose occurrences are run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: Moment = Field(alias="from", description="Start of the time span, inclusive.")
    to: Moment = Field(description="End of the time span, inclusive; not in the future.")
    overlap: Literal["buffer_all", "allow"] = Field(
        default="allow", description="`allow`: all at once. `buffer_all`: one after the other, at most 100."
    )


BACKFILL: TypeAdapter[Backfill] = TypeAdapter(Backfill)


class Backfilled(BaseModel):
    """The occurrences of a backfill."""

    occurrences: int
    task_ids: list[str] = Field(description="Task ids of the occurrences, the oldest first.")


class LastRun(BaseModel):
    """The newest occurrence that was run."""

    occurrence: datetime
    task_id: str


class Schedule(BaseModel):
    """A schedule as it stands."""

    name: str
    task: str
    input: dict[str, JsonValue]
    cron: str | None
    every_seconds: int | None
    time_zone: str
    starts_at: datetime | None
    ends_at: datetime | None
    max_runs: int | None
    jitter_seconds: int
    overlap: str
    catch_up_seconds: int
    catch_up: str
    pause_on_failure: bool
    paused: bool
    note: str | None
    tags: list[str]
    metadata: dict[str, JsonValue] | None
    retry: dict[str, JsonValue] | None
    private: list[str]
    callback_url: str | None
    expires_in_seconds: float | None
    description: str = Field(description="When it is run, in words.")
    next_runs: list[datetime] = Field(
        description="The next five occurrences; empty while it is paused, and once it is finished."
    )
    last_run: LastRun | None
    waiting: int = Field(description="Occurrences that wait for a running task to end.")
    runs_total: int
    skipped_total: int = Field(description="Occurrences that `overlap` did not let run.")
    missed_total: int = Field(
        description="Occurrences that were missed while beat or Redis was down, and not run later."
    )
    finished_at: datetime | None
    created_at: datetime
    updated_at: datetime
    tenant: str = Field(description="Name of the API key that owns it.")


class ScheduleList(BaseModel):
    """A page of schedules, the newest first."""

    data: list[Schedule]
    next: str | None = Field(description="Cursor of the older schedules: `after`.")
    previous: str | None = Field(description="Cursor of the newer schedules: `before`.")


class TenantQuery(BaseModel):
    """Which tenant's schedule is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        default=None, description="Name of the API key that owns it. Operators only; without it, your own."
    )


class ScheduleQuery(PageQuery, TenantQuery):
    """Which schedules a list shows."""


class TimeZones(BaseModel):
    """The names of all time zones."""

    time_zones: list[str]


ETAG: dict[str, Any] = {"ETag": {"schema": {"type": "string"}, "description": "Its revision, for `If-Match`."}}
