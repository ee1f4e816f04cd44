"""What is answered about task types."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class Version(BaseModel):
    """One version of a task type."""

    version: str = Field(description="Digest of both schemas.")
    service: str = Field(description="The program that runs it.")
    fleet: str
    registered_at: datetime = Field(description="When a worker last started with this version.")
    last_seen_at: datetime


class TaskType(BaseModel):
    """A task type: what can be posted to `POST /v1/tasks`."""

    name: str
    queue: str
    version: str = Field(description="The newest version.")
    service: str
    fleet: str
    last_seen_at: datetime = Field(description="When one of its workers was last there.")
    input_schema: dict[str, Any] = Field(description="JSON Schema of the input.")
    result_schema: dict[str, Any] = Field(description="JSON Schema of the result.")
    retry: dict[str, Any] = Field(description="What happens when it fails, unless the post says otherwise.")
    versions: list[Version] = Field(description="The newest first: during a rollout there are two.")


class TaskTypes(BaseModel):
    """All task types, by name."""

    task_types: list[TaskType]
