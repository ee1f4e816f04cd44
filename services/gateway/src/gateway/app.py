"""Wiring of the gateway: its dependencies, its features, what is around them."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from gateway import api_document, openapi, problems
from gateway.admission import Admission
from gateway.api_keys import endpoints as api_keys
from gateway.audit import endpoints as audit
from gateway.auth import WATCH_SECONDS, Keys
from gateway.batches import endpoints as batches
from gateway.bulk import endpoints as bulk
from gateway.calls import endpoints as calls
from gateway.dead_letters import endpoints as dead_letters
from gateway.dependencies import Dependencies
from gateway.dispatch import Dispatcher
from gateway.edge import Edge
from gateway.emails import endpoints as emails
from gateway.events import endpoints as events
from gateway.events.hub import Hub
from gateway.health import endpoints as health
from gateway.images import endpoints as images
from gateway.intake.memory import UploadMemory
from gateway.metrics import Metrics
from gateway.queues import endpoints as queues
from gateway.redis_watch import SAMPLE_SECONDS, RedisWatch
from gateway.repeating import repeating
from gateway.reports import endpoints as reports
from gateway.schedules import endpoints as schedules
from gateway.task_types import endpoints as task_types
from gateway.task_types.service import REFRESH_SECONDS, Catalogue
from gateway.tasks import endpoints as tasks
from gateway.tenants import endpoints as tenants
from gateway.webhooks import endpoints as webhooks
from offload_core import logs, telemetry, trust
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect_async
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.settings import GatewaySettings

SERVICE = "gateway"
FEATURES = (
    images, emails, reports, calls, tasks, batches, schedules, events, webhooks, task_types, queues, dead_letters,
    bulk, tenants, api_keys, audit, health,
)  # fmt: skip


def create(settings: GatewaySettings) -> FastAPI:
    """Return the gateway's application."""
    logs.configure(SERVICE, settings.log_level)
    trust.install(settings.ca_file)
    started = telemetry.start(SERVICE)
    client = connect_async(settings, timeout_seconds=settings.redis_timeout_seconds)
    redis_watch = RedisWatch(client, settings)
    admission = Admission(redis_watch, settings)
    store = TaskStore.of(settings)
    deps = Dependencies(
        settings=settings,
        keys=Keys(settings, client),
        redis=client,
        redis_watch=redis_watch,
        admission=admission,
        dispatcher=Dispatcher(client, redis_watch, admission, store, settings),
        tasks=store,
        catalogue=Catalogue(client, settings),
        blobs=BlobStore(settings),
        hub=Hub(settings),
        upload_memory=UploadMemory(settings.upload_memory_bytes, settings.upload_wait_seconds),
        metrics=Metrics(),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with (
            repeating(deps.redis_watch.sample, SAMPLE_SECONDS),
            repeating(deps.catalogue.refresh, REFRESH_SECONDS),
            repeating(deps.keys.refresh, WATCH_SECONDS),
            deps.hub.running(),
        ):
            yield
        await deps.redis.aclose()
        if started is not None:
            started.shutdown()

    app = FastAPI(
        title="Offload",
        description="Takes slow work off a web application's request path.",
        version=version("offload-gateway"),
        lifespan=lifespan,
        # Ours has the task types that are registered.
        openapi_url=None,
        # A redirect would be made of the Host header, and lose TLS behind a proxy.
        redirect_slashes=False,
    )
    app.state.dependencies = deps
    for feature in FEATURES:
        app.include_router(feature.router)
    app.include_router(api_document.router)
    problems.install(app, deps.metrics.problems)
    openapi.describe(app)
    app.add_middleware(Edge)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "Location",
                "Retry-After",
                "Idempotent-Replayed",
                "X-Request-Id",
                "ETag",
                "Content-Range",
                "Link",
                "RateLimit",
                "RateLimit-Policy",
            ],
        )
    if started is not None:
        FastAPIInstrumentor.instrument_app(
            app, excluded_urls="healthz,readyz,metrics", exclude_spans=["send", "receive"]
        )
    return app
