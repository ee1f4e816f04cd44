"""Types of fields that several kinds of request have. Unknown fields are refused: a misspelt option is not ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

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


class TaskRequest(BaseModel):
    """What every kind of task may be asked with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    delay_seconds: float = Field(
        default=0, ge=0, le=MAX_DELAY_SECONDS, description="Delay before the task may start; at most 30 days."
    )
