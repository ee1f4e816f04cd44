"""Wiring of the gateway: settings, keys, Redis, admission, dispatcher, store, routes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from gateway import openapi, operations, operators, problems, routes
from gateway.admission import Admission
from gateway.auth import Keys
from gateway.dispatch import Dispatcher
from gateway.edge import Edge
from gateway.intake import Intake
from gateway.operations import Metrics
from gateway.redis_watch import RedisWatch
from offload_core import logs, telemetry, trust
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio

    from gateway.settings import GatewaySettings

SERVICE = "gateway"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes work with."""

    settings: GatewaySettings
    keys: Keys
    redis: redis.asyncio.Redis
    redis_watch: RedisWatch
    admission: Admission
    dispatcher: Dispatcher
    store: BlobStore
    intake: Intake
    metrics: Metrics
    # Set once Redis and the blob store have both answered.
    has_started: asyncio.Event = field(default_factory=asyncio.Event)


def create(settings: GatewaySettings) -> FastAPI:
    """Return the gateway's application."""
    logs.configure(SERVICE, settings.log_level)
    trust.install(settings.ca_file)
    started = telemetry.start(SERVICE)
    metrics = Metrics()
    client = connect_async(settings, timeout_seconds=settings.redis_timeout_seconds)
    redis_watch = RedisWatch(client, settings)
    admission = Admission(redis_watch, settings)
    parts = Parts(
        settings,
        Keys(settings),
        client,
        redis_watch,
        admission,
        Dispatcher(client, redis_watch, admission, settings),
        BlobStore(settings),
        Intake(settings.upload_memory_bytes, settings.upload_wait_seconds),
        metrics,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await parts.redis_watch.start()
        watching = asyncio.create_task(parts.keys.watch())
        yield
        watching.cancel()
        await parts.redis_watch.stop()
        await parts.redis.aclose()
        if started is not None:
            started.shutdown()

    app = FastAPI(
        title="Offload",
        description="Takes slow work off a web application's request path.",
        version=version("offload-gateway"),
        lifespan=lifespan,
        # A redirect would be made of the Host header, and lose TLS behind a proxy.
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.include_router(routes.router)
    app.include_router(operators.router)
    app.include_router(operations.router)
    problems.install(app, metrics.problems)
    openapi.describe(app)
    app.add_middleware(Edge)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "Idempotent-Replayed", "X-Request-Id", "ETag", "Content-Range"],
        )
    if started is not None:
        FastAPIInstrumentor.instrument_app(
            app, excluded_urls="healthz,readyz,metrics", exclude_spans=["send", "receive"]
        )
    return app
