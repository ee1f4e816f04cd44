"""Types of fields that several kinds of request have. Unknown fields are refused: a misspelt option is not ignored."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)

from offload_contracts.calls import Url

# The longest delay: 30 days.
MAX_DELAY_SECONDS = 2_592_000

_CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029"


def _integral(value: object) -> object:
    return int(value) if type(value) is float and value.is_integer() else value


# JSON has one kind of number: 10.0 is an integer (JSON Schema, section 6.1.1). true and "10" are none. To be named
# behind an integer's bounds, or these would be missing from its schema.
INTEGRAL = BeforeValidator(_integral)


def _plain(value: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029" for character in value):  # noqa: PLR2004 -- C0 and C1 controls
        raise ValueError("must have no line end or other control character")
    return value


def _line_schema(least: int, most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": least, "maxLength": most, "pattern": f"^[^{_CONTROL}]*$"})


UserId = Annotated[str, Field(max_length=200), AfterValidator(_plain), _line_schema(0, 200)]
# What stands in a header, with room for what a template writes around it.
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain), _line_schema(1, 200)]
ShortLine = Annotated[str, Field(min_length=1, max_length=150), AfterValidator(_plain), _line_schema(1, 150)]
USER_ID = Field(default=None, description="Caller-defined user identifier, kept with the task.")


def _moment(value: object) -> object:
    # pydantic takes numbers for times too, and times without an offset.
    if not isinstance(value, str):
        return value
    if not _RFC3339.fullmatch(value):
        raise ValueError("must be a time with its offset, like 2030-01-31T08:00:00Z")
    return datetime.fromisoformat(value.upper())


_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
Moment = Annotated[AwareDatetime, BeforeValidator(_moment, json_schema_input_type=AwareDatetime)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
Code = Annotated[str, Field(pattern=r"^(\*|[a-z0-9_.-]{1,100})$")]
# RFC 6901.
Pointer = Annotated[str, Field(pattern=r"^(/([^~/\x00-\x1f]|~[01])*)+$", max_length=256)]
_Pause = Annotated[float, Field(ge=0, le=86_400)]
MAX_METADATA_BYTES = 4_096


def _small(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        message = f"must have at most {MAX_METADATA_BYTES:,} bytes as JSON"
        raise ValueError(message)
    return metadata


class Retry(BaseModel):
    """What happens when a step of the task fails; what is left out is as the task type has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_attempts: Annotated[int, Field(ge=1, le=20), INTEGRAL] | None = Field(
        default=None, description="How often a step is run at most, the first time included."
    )
    schedule: Literal["exponential"] | Annotated[tuple[_Pause, ...], Field(min_length=1, max_length=19)] | None = Field(
        default=None, description="`exponential`, or the seconds before each further attempt; the last one repeats."
    )
    base_seconds: _Pause | None = Field(default=None, description="Pause before the second attempt; doubled each time.")
    cap_seconds: _Pause | None = Field(default=None, description="Longest pause.")
    jitter: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="How much longer a pause may be by chance: 0.1 is a tenth."
    )
    retry_on: Annotated[tuple[Code, ...], Field(max_length=50)] | None = Field(
        default=None, description="Error codes that are retried although the worker calls them final; `*`: all."
    )
    give_up_on: Annotated[tuple[Code, ...], Field(max_length=50)] | None = Field(
        default=None, description="Error codes that are not retried."
    )


class TaskOptions(BaseModel):
    """What every kind of task may be asked with, whenever it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    expires_in_seconds: Annotated[float, Field(gt=0, le=MAX_DELAY_SECONDS)] | None = Field(
        default=None,
        description="A task that has not started this long after its due time fails with `task.expired`.",
    )
    tags: Annotated[tuple[Tag, ...], Field(max_length=10)] = Field(
        default=(), description="Labels to find the task by."
    )
    metadata: Annotated[dict[str, JsonValue], AfterValidator(_small)] | None = Field(
        default=None, description="Caller-defined JSON, kept with the task; at most 4 kB."
    )
    retry: Retry | None = Field(default=None, description="What happens when a step fails.")
    private: Annotated[tuple[Pointer, ...], Field(max_length=20)] = Field(
        default=(),
        description="JSON pointers to input values that only the task's function may see, like `/customer/email`. "
        "They are left out of lists, errors, logs, traces and dead letters.",
    )
    callback_url: Url | None = Field(
        default=None, description="Told of the task's end by a webhook, signed with the secret of `/v1/signing-secret`."
    )


class TaskRequest(TaskOptions):
    """What every kind of task may be posted with."""

    delay_seconds: float = Field(
        default=0, ge=0, le=MAX_DELAY_SECONDS, description="Delay before the task may start; at most 30 days."
    )
    run_at: Moment | None = Field(
        default=None, description="When the task may start, instead of a delay; at most 30 days ahead."
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.run_at is not None and self.delay_seconds:
            raise ValueError("give either delay_seconds or run_at")
        return self


# Options that 0.2 did not know: a request without them is the same as it was.
LATER_OPTIONS = frozenset({"run_at", "expires_in_seconds", "tags", "metadata", "retry", "private", "callback_url"})
