"""What the health checks answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


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
