"""What requests are served with: made once at start, handed to every endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 -- FastAPI reads the types of `permitted`

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
    """Return who sends a request, whose key has the scope of the route.

    Raises:
        Problem: 401 ``auth.missing`` or ``auth.refused``, 403 ``auth.scope``, 503 ``redis.unavailable``.

    """
    found = of(request).keys.caller(request)
    request.state.caller = found
    return found


def known_caller(request: Request) -> Caller | None:
    """Return who sends a request, whatever its key may do; None where it is not known."""
    return of(request).keys.known(request)


def payload_limit(request: Request, limit_bytes: int) -> int:
    """Return how long a payload may be: so long, or less where the caller's tenant has a limit of its own."""
    found: Caller | None = getattr(request.state, "caller", None)
    of_tenant = found.limits.max_payload_bytes if found else None
    return limit_bytes if of_tenant is None else min(limit_bytes, of_tenant)


async def permitted(request: Request) -> None:
    """Let those pass whose key has the scope of the route, before anything of the request is looked at.

    For the ``dependencies`` of a router. Asynchronous, or FastAPI would run it in a thread.

    Raises:
        Problem: as `caller`.

    """
    caller(request)
