"""What operators and their machines ask: is it alive, is it ready, how does it do."""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from redis.exceptions import RedisError

from gateway import queues, schemas
from offload_core import keys, redis_client
from offload_core.blobs import BlobError

if TYPE_CHECKING:
    from gateway.app import Parts

router = APIRouter(tags=["operations"])

# A gateway that is not scraped for so long is no longer the one that exports the queues; intervals are shorter.
TURN_SECONDS = 120


class Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        """Name the metrics."""
        self.registry = CollectorRegistry()
        self.accepted = Counter("offload_tasks_accepted_total", "Tasks accepted", ["kind"], registry=self.registry)
        self.problems = Counter("offload_problems_total", "Requests refused, by code", ["code"], registry=self.registry)
        self.leftover_uploads = Counter(
            "offload_leftover_uploads_total", "Uploads left for the clean-up to delete", registry=self.registry
        )
        self.dead_letters = Counter(
            "offload_dead_letters_total",
            "Dead letters by what operators did",
            ["queue", "outcome"],
            registry=self.registry,
        )
        self.messages = Gauge(
            "offload_queue_messages", "Messages by queue and place", ["queue", "place"], registry=self.registry
        )
        self.oldest_age = Gauge(
            "offload_queue_oldest_age_seconds",
            "How long the next message of a queue has waited",
            ["queue"],
            registry=self.registry,
        )
        self.dependency_up = Gauge(
            "offload_dependency_up", "1 when it answered the last health check", ["dependency"], registry=self.registry
        )
        self.redis_failing = Gauge(
            "offload_redis_failing",
            "1 for the reason why Redis did not serve this gateway at this scrape",
            ["cause"],
            registry=self.registry,
        )
        self.upload_memory = Gauge(
            "offload_upload_memory_bytes", "Memory given out to uploads being received", registry=self.registry
        )
        self.memory_share = Gauge(
            "offload_redis_memory_share", "Redis's memory in use, of its limit", registry=self.registry
        )

    def show(self, states: list[queues.QueueState], found: dict[bytes, bytes]) -> None:
        """Take over how the queues are, and what the last health check found."""
        for state in states:
            for place in ("waiting", "running", "delayed", "dead"):
                self.messages.labels(state.name, place).set(getattr(state, place))
            self.oldest_age.labels(state.name).set(state.oldest_age_seconds)
        for name, value in found.items():
            if name != b"checked_at":
                self.dependency_up.labels(name.decode()).set(value.replace(b".", b"").isdigit())


@router.get("/healthz", responses={200: {"model": schemas.Alive}})
async def healthz() -> dict[str, str]:
    """Say that the process lives. Redis's absence is no reason to restart it."""
    return {"status": "alive"}


@router.get("/readyz", responses={200: {"model": schemas.Readiness}, 503: {"model": schemas.Readiness}})
async def readyz(request: Request) -> Response:
    """Say whether posts can be accepted, and what of Redis's settings weakens the promises."""
    parts: Parts = request.app.state.parts
    checks = await _check(parts)
    ready = _is_ready(checks)
    body: dict[str, Any] = {
        "status": "ready" if ready else "unavailable",
        "checks": checks,
        "warnings": list(parts.redis_watch.warnings),
        "development_mode": parts.settings.development_mode,
    }
    return JSONResponse(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/startupz", responses={200: {"model": schemas.Started}, 503: {"model": schemas.Started}})
async def startupz(request: Request) -> Response:
    """Say whether Redis and the blob store have both answered since the start: then this process serves for good.

    For a load balancer. A gateway that cannot reach them from the start is not let in; one that loses them later stays,
    because its 503 with Retry-After says more than a refused connection, and every other gateway has lost them too.
    """
    parts: Parts = request.app.state.parts
    if not parts.has_started.is_set():
        checks = await _check(parts)
        if not _is_ready(checks):
            return JSONResponse({"status": "starting", "checks": checks}, HTTPStatus.SERVICE_UNAVAILABLE)
        parts.has_started.set()
    return JSONResponse({"status": "started"})


async def _check(parts: Parts) -> dict[str, str]:
    checks: dict[str, str] = {}
    try:
        await parts.redis.ping()
        checks["redis"] = "ok"
    except RedisError as error:
        checks["redis"] = redis_client.cause(error)
    try:
        await parts.store.ping()
        checks["blob"] = "ok"
    except BlobError:
        checks["blob"] = "unavailable"
    return checks


def _is_ready(checks: dict[str, str]) -> bool:
    return all(value == "ok" for value in checks.values())


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format; the queues are read as they are now."""
    parts: Parts = request.app.state.parts
    shown = parts.metrics
    shown.upload_memory.set(parts.intake.used_bytes)
    shown.memory_share.set(parts.redis_watch.memory_share)
    shared = None
    failing = ""
    try:
        shared = await _read_shared(parts) if await _has_turn(parts) else None
    except RedisError as error:
        failing = redis_client.cause(error)
    # From here on nothing else runs: another scrape must not find half of it.
    for gauge in (shown.messages, shown.oldest_age, shown.dependency_up, shown.redis_failing):
        gauge.clear()
    if shared is not None:
        shown.show(*shared)
    shown.dependency_up.labels("redis").set(not failing)
    if failing:
        shown.redis_failing.labels(failing).set(1)
    return Response(generate_latest(shown.registry), media_type=CONTENT_TYPE_LATEST)


async def _has_turn(parts: Parts) -> bool:
    """Return whether this gateway is the one that exports what is the same for all: so that a sum counts it once."""
    client, key = parts.redis, keys.exporter(parts.settings.key_prefix)
    me = f"{socket.gethostname()}:{parts.settings.port}"
    if await client.set(key, me, nx=True, ex=TURN_SECONDS):
        return True
    if await client.get(key) != me.encode():
        return False
    await client.pexpire(key, TURN_SECONDS * 1000)
    return True


async def _read_shared(parts: Parts) -> tuple[list[queues.QueueState], dict[bytes, bytes]]:
    states = await queues.read(parts.redis, parts.settings.broker_prefix)
    found: Any = await parts.redis.hgetall(keys.health(parts.settings.key_prefix))
    return states, found
