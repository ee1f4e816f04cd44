"""What load balancers, kubelets and Prometheus ask: is it alive, has it started, is it ready, how does it do."""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from gateway import dependencies
from gateway.health import schemas
from gateway.metrics import Shared
from gateway.queues import service as queues
from offload_core import keys, redis_client, webhooks
from offload_core.blobs import BlobError

if TYPE_CHECKING:
    from gateway.dependencies import Dependencies

router = APIRouter(tags=["operations"])

# A gateway that is not scraped for so long is no longer the one that exports the queues; intervals are shorter.
TURN_SECONDS = 120


@router.get("/healthz", response_model=schemas.Alive)
async def healthz() -> dict[str, str]:
    """Say that the process lives. Redis's absence is no reason to restart it."""
    return {"status": "alive"}


@router.get("/readyz", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
async def readyz(request: Request) -> Response:
    """Say whether posts can be accepted, and what of Redis's settings weakens the promises."""
    deps = dependencies.of(request)
    checks = await _check(deps)
    ready = _is_ready(checks)
    body: dict[str, Any] = {
        "status": "ready" if ready else "unavailable",
        "checks": checks,
        "warnings": list(deps.redis_watch.warnings),
        "development_mode": deps.settings.development_mode,
    }
    return JSONResponse(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/startupz", response_model=schemas.Started, responses={503: {"model": schemas.Started}})
async def startupz(request: Request) -> Response:
    """Say whether Redis and the blob store have both answered since the start: then this process serves for good.

    For a load balancer. A gateway that cannot reach them from the start is not let in; one that loses them later stays,
    because its 503 with Retry-After says more than a refused connection, and every other gateway has lost them too.
    """
    deps = dependencies.of(request)
    if not deps.has_started.is_set():
        checks = await _check(deps)
        if not _is_ready(checks):
            return JSONResponse({"status": "starting", "checks": checks}, HTTPStatus.SERVICE_UNAVAILABLE)
        deps.has_started.set()
    return JSONResponse({"status": "started"})


async def _check(deps: Dependencies) -> dict[str, str]:
    checks: dict[str, str] = {}
    try:
        await deps.redis.ping()
        checks["redis"] = "ok"
    except RedisError as error:
        checks["redis"] = redis_client.cause(error)
    try:
        await deps.blobs.ping()
        checks["blob"] = "ok"
    except BlobError:
        checks["blob"] = "unavailable"
    return checks


def _is_ready(checks: dict[str, str]) -> bool:
    return all(value == "ok" for value in checks.values())


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format; the queues are read as they are now."""
    deps = dependencies.of(request)
    shown = deps.metrics
    shown.upload_memory.set(deps.upload_memory.used_bytes)
    shown.event_streams.set(deps.hub.count)
    shown.memory_share.set(deps.redis_watch.memory_share)
    shared = None
    failing = ""
    try:
        shared = await _read_shared(deps) if await _has_turn(deps) else None
    except RedisError as error:
        failing = redis_client.cause(error)
    shown.unsafe.set(bool(deps.redis_watch.warnings))
    # From here on nothing else runs: another scrape must not find half of it.
    shown.forget()
    if shared is not None:
        shown.show(shared)
    shown.dependency_up.labels("redis").set(not failing)
    if failing:
        shown.redis_failing.labels(failing).set(1)
    return Response(generate_latest(shown.registry), media_type=CONTENT_TYPE_LATEST)


async def _has_turn(deps: Dependencies) -> bool:
    """Return whether this gateway is the one that exports what is the same for all: so that a sum counts it once."""
    client, key = deps.redis, keys.exporter(deps.settings.key_prefix)
    me = f"{socket.gethostname()}:{deps.settings.port}"
    if await client.set(key, me, nx=True, ex=TURN_SECONDS):
        return True
    if await client.get(key) != me.encode():
        return False
    await client.pexpire(key, TURN_SECONDS * 1000)
    return True


async def _read_shared(deps: Dependencies) -> Shared:
    client, prefix = deps.redis, deps.settings.key_prefix
    states = await queues.read(client, deps.settings.broker_prefix, deps.catalogue)
    async with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.health(prefix))
        pipe.hgetall(keys.figures(prefix, deps.redis_watch.now().date()))
        pipe.get(keys.clock(prefix))
        health, ended, looked_at = await pipe.execute()
    endpoints = await webhooks.counts(client, prefix)
    return Shared(states, health, ended, int(looked_at) if looked_at else None, endpoints)
