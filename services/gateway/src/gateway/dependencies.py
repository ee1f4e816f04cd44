"""What requests are served with: made once at start, handed to every endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 -- FastAPI reads the types of `operator`

from gateway.problems import Problem

if TYPE_CHECKING:
    import redis.asyncio

    from gateway.admission import Admission
    from gateway.auth import Caller, Keys
    from gateway.dispatch import Dispatcher
    from gateway.events.hub import Hub
    from gateway.intake.memory import UploadMemory
    from gateway.metrics import Metrics
    from gateway.redis_watch import RedisWatch
    from gateway.settings import GatewaySettings
    from gateway.task_types.service import Catalogue
    from offload_core.blobs import BlobStore
    from offload_core.task_store import TaskStore


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the endpoints work with."""

    settings: GatewaySettings
    keys: Keys
    redis: redis.asyncio.Redis
    redis_watch: RedisWatch
    admission: Admission
    dispatcher: Dispatcher
    tasks: TaskStore
    catalogue: Catalogue
    blobs: BlobStore
    upload_memory: UploadMemory
    hub: Hub
    metrics: Metrics
    # Set once Redis and the blob store have both answered.
    has_started: asyncio.Event = field(default_factory=asyncio.Event)


def of(request: Request) -> Dependencies:
    """Return what a request is served with.

    A call instead of FastAPI's ``Depends``, which is resolved anew for every request.
    """
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


def caller(request: Request) -> Caller:
    """Return who sends a request.

    Raises:
        Problem: 401 ``auth.missing`` or ``auth.refused``.

    """
    return of(request).keys.caller(request)


async def operator(request: Request) -> None:
    """Let operators pass; for the ``dependencies`` of a router. Asynchronous, or FastAPI would run it in a thread.

    Raises:
        Problem: 403 ``auth.scope`` for any other key.

    """
    if not caller(request).is_operator:
        raise Problem(HTTPStatus.FORBIDDEN, "auth.scope", "this needs an API key with the scope operator")
