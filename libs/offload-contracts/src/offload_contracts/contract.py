"""The shape of a contract: name, queue, message and result in one typed object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Queue(StrEnum):
    """The queues of the built-in fleets, each named for the work in it. Your own fleets have their own."""

    IMAGES = "images"
    REPORTS = "reports"
    MAIL = "mail"
    CALLBACKS = "callbacks"
    CALLS = "calls"
    WEBHOOKS = "webhooks"
    MAINTENANCE = "maintenance"


QUEUE_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?")
# `noun.verb.vN`; another shape of a message is another version.
TASK_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\.v[1-9][0-9]{0,3}")
MAX_NAME_LENGTH = 100


class Message(BaseModel):
    """What a task is given. Frozen, and deaf to fields that a newer version may have added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Result(BaseModel):
    """What a task gives back."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ContractError(ValueError):
    """A message does not hold what its contract asks for."""


M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TaskContract(Generic[M, R]):  # noqa: UP046 -- inferred covariant with the new syntax; see encode()
    """One task type: what it is called, where it waits, what it takes and what it gives.

    `message` and `result` are pydantic models. An internal task type cannot be posted: only Offload itself asks for it.
    """

    name: str
    queue: str
    message: type[M]
    result: type[R]
    is_internal: bool = False

    def __post_init__(self) -> None:
        """Refuse names that cannot be used.

        Raises:
            ValueError: for a name that is not ``noun.verb.vN``, or a queue that cannot be part of a key.

        """
        if not TASK_NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_LENGTH:
            message = f"{self.name!r} is no name of a task type: use noun.verb.vN, like invoice.render.v1"
            raise ValueError(message)
        if not QUEUE_NAME.fullmatch(self.queue):
            message = f"{self.queue!r} is no name of a queue: use lower-case letters, digits, dots and dashes"
            raise ValueError(message)

    def encode(self, message: M) -> dict[str, Any]:
        """Return the message as it travels. Taking an M keeps this class invariant: a wrong message is a type error."""
        return message.model_dump(mode="json", exclude_defaults=True)

    def decode(self, data: object) -> M:
        """Return the message of this contract.

        Raises:
            ContractError: when a field is missing or has a value that it cannot have.

        """
        try:
            return self.message.model_validate(data)
        except ValidationError as error:
            where = ", ".join(".".join(map(str, one["loc"])) or "message" for one in error.errors())
            message = f"{self.name} cannot be decoded: {where}"
            raise ContractError(message) from None

    def encode_result(self, result: R) -> dict[str, Any]:
        """Return the result as it is stored, and given to the next step.

        Raises:
            ContractError: when it is not the contract's result.

        """
        if not isinstance(result, self.result):
            message = f"{self.name} must return {self.result.__name__}, not {type(result).__name__}"
            raise ContractError(message)
        return result.model_dump(mode="json", exclude_defaults=True)
