"""What is done with endpoints for a caller."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway import paging
from gateway.intake import idempotency
from gateway.problems import Problem
from offload_contracts.webhooks import WEBHOOK_DELIVER, Deliver
from offload_core import keys, records, webhooks
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import Found, Place, Wanted

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.auth import Caller
    from gateway.dependencies import Dependencies
    from gateway.intake.idempotency import Key
    from gateway.webhooks.schemas import NewWebhook, WebhookChange
    from offload_core.webhooks import Endpoint

# Of one owner. Each event is held against each of them.
MAX_ENDPOINTS = 50
# One recovery does so many, or so long.
RECOVERED_LIMIT, RECOVERED_SECONDS = 1000, 2.0
_PUBLISHER = Publisher("gateway")


async def find(deps: Dependencies, caller: Caller, endpoint_id: str) -> Endpoint:
    """Return an endpoint of this caller's.

    Raises:
        Problem: 404 ``webhook.not_found`` for what is not there, or is another tenant's.

    """
    found = await webhooks.read(deps.redis, deps.settings.key_prefix, endpoint_id)
    if found is None or (found.owner != caller.tenant and not caller.is_operator):
        raise Problem(HTTPStatus.NOT_FOUND, "webhook.not_found", "there is no such endpoint")
    return found


async def create(
    deps: Dependencies, caller: Caller, asked: NewWebhook, key: Key | None, fingerprint: str
) -> tuple[Endpoint, bool]:
    """Create an endpoint; returns it, and whether an earlier request with the same key has done so.

    Raises:
        Problem: 422 ``idempotency.conflict``, 409 ``webhook.limit``.

    """
    client, prefix = deps.redis, deps.settings.key_prefix
    endpoint = webhooks.Endpoint(
        webhooks.new_id(),
        caller.tenant,
        asked.url,
        webhooks.now_ms(),
        (webhooks.Secret(webhooks.new_secret(asked.signature)),),
        asked.signature,
        tuple(map(str, asked.events)),
        asked.tags,
        asked.description,
        asked.rate_per_second,
        asked.retry_seconds,
    )
    known = await idempotency.claim(client, prefix, caller.tenant, key, fingerprint, endpoint.id)
    if known is not None:
        earlier = await webhooks.read(client, prefix, known)
        if earlier is not None:
            return earlier, True
        # It died between the claim and the endpoint.
        endpoint = replace(endpoint, id=known)
    if await client.zcard(keys.webhooks(prefix, caller.tenant)) >= MAX_ENDPOINTS:
        raise Problem(HTTPStatus.CONFLICT, "webhook.limit", f"there are {MAX_ENDPOINTS} endpoints already")
    await webhooks.write(client, prefix, endpoint)
    return endpoint, False


async def change(deps: Dependencies, endpoint: Endpoint, asked: WebhookChange) -> Endpoint:
    """Change an endpoint in what is asked for."""
    given = asked.model_dump(exclude_unset=True, exclude={"disabled"})
    nullable = {"rate_per_second", "retry_seconds"}
    changed = replace(
        endpoint, **{name: value for name, value in given.items() if value is not None or name in nullable}
    )
    changed = replace(changed, events=tuple(map(str, changed.events)))
    if asked.disabled is True and endpoint.disabled_at is None:
        changed = replace(changed, disabled_at=webhooks.now_ms(), disabled_reason=webhooks.BY_OWNER)
    elif asked.disabled is False:
        changed = replace(changed, disabled_at=None, disabled_reason=None, failing_since=None)
    await webhooks.write(deps.redis, deps.settings.key_prefix, changed)
    return changed


async def rotate(deps: Dependencies, endpoint: Endpoint, grace_seconds: int) -> Endpoint:
    """Give an endpoint a new secret."""
    rotated = endpoint.rotated(webhooks.new_secret(endpoint.signature), grace_seconds * 1000, webhooks.now_ms())
    await webhooks.write(deps.redis, deps.settings.key_prefix, rotated)
    return rotated


async def newest(
    deps: Dependencies, owner: str, limit: int, place: list[Any] | None, *, newer: bool
) -> tuple[list[Endpoint], bool]:
    """Return endpoints of an owner (``""``: of all), the newest first, and whether there are more beyond them."""
    client, prefix = deps.redis, deps.settings.key_prefix
    ids, more = await paging.newest(client, keys.webhooks(prefix, owner), limit, place, newer=newer)
    found = [await webhooks.read(client, prefix, endpoint_id) for endpoint_id in ids]
    return [one for one in found if one is not None], more


async def attempts(
    deps: Dependencies, endpoint: Endpoint, limit: int, place: str | None, *, newer: bool
) -> tuple[list[tuple[str, bytes]], bool]:
    """Return attempts at an endpoint, the newest first, each with its place, and whether there are more beyond them."""
    key = keys.webhook_attempts(deps.settings.key_prefix, endpoint.id)
    rows: Any
    if newer:
        rows = await deps.redis.xrange(key, min=f"({place}" if place else "-", count=limit + 1)
    else:
        rows = await deps.redis.xrevrange(key, max=f"({place}" if place else "+", count=limit + 1)
    found = [(entry.decode(), fields[b"attempt"]) for entry, fields in rows[:limit]]
    return found[::-1] if newer else found, len(rows) > limit


async def test(deps: Dependencies, endpoint: Endpoint) -> tuple[str, str]:
    """Send an endpoint an event that nothing has happened for; returns the ids of the event and of its delivery."""
    data = json.dumps({"webhook_id": endpoint.id})
    event = webhooks.event_id(endpoint.id, f"{webhooks.now_ms()}-0")
    return event, await _send(deps, endpoint, event, "webhook.test", data)


async def resend(deps: Dependencies, endpoint: Endpoint, event: str) -> str:
    """Send an event to an endpoint again, whatever became of it before; returns the id of the delivery.

    Raises:
        Problem: 404 ``event.not_found``.

    """
    client, prefix = deps.redis, deps.settings.key_prefix
    source, entry = webhooks.source_of(event) or ("", "")
    rows: Any = await client.xrange(keys.events(prefix, source), entry, entry) if source else []
    record = records.decode(source, await client.hgetall(keys.record(prefix, source))) if rows else None
    if record is None or record.owner != endpoint.owner:
        raise Problem(HTTPStatus.NOT_FOUND, "event.not_found", "there is no such event, or its task's record is gone")
    [(_, fields)] = rows
    event_type, data = fields[b"type"].decode(), fields[b"data"].decode()
    if event_type == "task.succeeded":
        data = webhooks.with_result(data, [step.result for step in record.last_stage])
    return await _send(deps, endpoint, event, event_type, data)


async def recover(deps: Dependencies, endpoint: Endpoint, since: datetime, until: datetime | None) -> tuple[int, bool]:
    """Bring back the deliveries to an endpoint that were given up; returns how many, and whether these are all."""
    wanted = Wanted(
        owner=webhooks.OWNER,
        states=("FAILURE",),
        after=max(round(since.timestamp() * 1000), 1),
        before=round(until.timestamp() * 1000) if until else 0,
        tags=((endpoint.id,),),
    )
    resent, is_complete, begun = 0, True, time.monotonic()
    place: Place | None = None
    while resent < RECOVERED_LIMIT and time.monotonic() - begun < RECOVERED_SECONDS:
        call = deps.tasks.find(wanted, ("kind", "1:attempt"), limit=25, examine=250, place=place)
        found = Found.of(await call.run_async(deps.redis))
        place = found.place
        for task_id, (_, attempt) in found.rows:
            outcome = await deps.tasks.redrive(str(WEBHOOK_DELIVER.queue), f"{task_id}:{attempt or 0}:0").run_async(
                deps.redis
            )
            resent += outcome == b"redriven"
            # Given up a moment ago: it can be brought back in a moment.
            is_complete = is_complete and outcome != b"dead_letter.unreported"
        if found.is_end:
            return resent, is_complete
    return resent, False


async def _send(deps: Dependencies, endpoint: Endpoint, event: str, event_type: str, data: str) -> str:
    task_id = f"{event}-{endpoint.id}-{secrets.token_hex(4)}"
    message = Deliver(event=event, type=event_type, data=data, owner=endpoint.owner, endpoint=endpoint.id)
    headers = {"retry": {"schedule": list(endpoint.retry_seconds)}} if endpoint.retry_seconds else {}
    with _PUBLISHER.publishing(
        task_id,
        webhooks.KIND,
        webhooks.OWNER,
        [NewStep.of(WEBHOOK_DELIVER, message)],
        headers=headers,
        tags=(endpoint.id,),
    ) as task:
        await deps.tasks.accept(task).run_async(deps.redis)
    return task_id
