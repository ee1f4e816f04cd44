"""The shape of a contract: name, queue, message and result in one typed object."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Queue(StrEnum):
    """The queues, each named for the work in it. Which fleet consumes which stands in each worker's settings."""

    IMAGES = "images"
    REPORTS = "reports"
    MAIL = "mail"
    CALLBACKS = "callbacks"
    MAINTENANCE = "maintenance"


class Message(BaseModel):
    """What a task is given. Frozen, and deaf to fields that a newer version may have added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Result(BaseModel):
    """What a task gives back."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ContractError(ValueError):
    """A message does not hold what its contract asks for."""


M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class TaskContract(Generic[M, R]):  # noqa: UP046 -- inferred covariant with the new syntax; see encode()
    """One task: what it is called, where it waits, what it takes and what it gives."""

    name: str
    queue: Queue
    message: type[M]
    result: type[R]

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
        """Return the result as it is stored, and given to the next step of a chain."""
        return result.model_dump(mode="json", exclude_defaults=True)
