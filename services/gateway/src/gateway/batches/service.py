"""What is done with batches."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway.batches import items
from gateway.batches.schemas import REJECTED, LongBatch
from gateway.dispatch import new_task_id
from gateway.intake import idempotency
from gateway.problems import Problem
from gateway.tasks import workflows
from gateway.tasks.views import status_url
from gateway.timestamps import rfc3339
from offload_core import batches, keys
from offload_core.batches import NAMES, Batch, FollowUp, Item, NewBatch, item_id
from offload_core.records import TERMINAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.auth import Caller
    from gateway.batches.schemas import ShortBatch
    from gateway.dependencies import Dependencies
    from gateway.intake.idempotency import Key

# One script adds so many, which takes Redis a few milliseconds; other requests are served in between.
PIECE = 25
# Of one body so many of them are under way.
PIECES_AT_ONCE = 8
# Of one request so many that were rejected are told of.
MAX_REJECTED = 1_000
# Without an idempotency key nobody comes back for the rest of a batch that its gateway did not finish.
WHOLE_MS = 60_000
# One request looks at so many items.
EXAMINED_LIMIT = 10_000
EXAMINED_AT_ONCE = 500


@dataclass(slots=True)
class Tally:
    """What became of the items of one request, and how many the batch has now."""

    have: int
    is_sealed: bool
    accepted: int = 0
    deduplicated: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, index: int | None, problem: dict[str, Any]) -> None:
        """Note an item that is no task."""
        if len(self.rejected) < MAX_REJECTED:
            self.rejected.append({"index": index, "problem": problem})

    def count(self, piece: Sequence[Item], added: batches.Added) -> None:
        """Count what has become of some items."""
        self.have, self.is_sealed = added.have, added.is_sealed
        for item, outcome in zip(piece, added.outcomes, strict=True):
            if outcome == "accepted":
                self.accepted += 1
            elif outcome == "known":
                self.deduplicated += 1
            elif outcome == "conflict":
                detail = "another item was received with this index"
                self.reject(item.index, {"code": "item.conflict", "detail": detail, "errors": None})
            else:
                self.reject(item.index, json.loads(outcome))


async def create(
    deps: Dependencies, caller: Caller, asked: ShortBatch | LongBatch, key: Key | None, fingerprint: str
) -> tuple[str, bool]:
    """Create a batch without its items; returns its id, and whether an earlier request of the same key did so.

    Raises:
        Problem: 422 ``idempotency.conflict``, or what is wrong about a task that follows.

    """
    follow_ups = {name: _follow_up(deps, caller, name, one) for name in NAMES if (one := getattr(asked, name))}
    batch_id = f"batch_{secrets.token_hex(10)}"
    known = await idempotency.claim(deps.redis, deps.settings.key_prefix, caller.tenant, key, fingerprint, batch_id)
    new = NewBatch(
        known or batch_id,
        caller.tenant,
        round(time.time() * 1000),
        asked.expected if isinstance(asked, LongBatch) else len(asked.items),
        # A short one of more than one piece does not begin before its last piece is there.
        is_held=asked.start == "sealed" if isinstance(asked, LongBatch) else len(asked.items) > PIECE,
        is_whole=not isinstance(asked, LongBatch),
        open_ms=WHOLE_MS if not isinstance(asked, LongBatch) and key is None else batches.OPEN_MS,
        follow_ups=follow_ups,
    )
    await new.create(deps.tasks).run_async(deps.redis)
    return new.id, known is not None


async def add_all(deps: Dependencies, caller: Caller, batch_id: str, asked: ShortBatch) -> list[dict[str, Any]]:
    """Add the items of a short batch; returns what became of each.

    Raises:
        Problem: 429 ``queue.full`` or ``rate.limited``, 503 ``accept.unknown`` or ``redis.memory``.

    """
    rows: list[dict[str, Any]] = []
    given = [items.Given(index, dict(value)) for index, value in enumerate(asked.items)]
    for begin in range(0, len(given), PIECE):
        piece = [items.prepare(deps, caller, batch_id, one) for one in given[begin : begin + PIECE]]
        # Either all of it is refused or nothing.
        added = await _add(deps, caller, batch_id, piece, may_refuse=begin == 0)
        for item, outcome in zip(piece, added.outcomes, strict=True):
            problem = json.loads(outcome) if outcome.startswith("{") else None
            task_id = None if problem else item_id(batch_id, item.index)
            rows.append({"index": item.index, "task_id": task_id, "status_url": _url(task_id), "problem": problem})
    if len(given) > PIECE:
        while await batches.attend(deps.tasks, PIECE, batch_id).run_async(deps.redis):
            pass
    return rows


async def add_lines(deps: Dependencies, caller: Caller, batch: Batch, lines: AsyncIterator[bytes]) -> Tally:
    """Add items as they come; returns what became of them.

    What was added before a problem stays: the client sends everything again.

    Raises:
        Problem: 409 ``batch.sealed``, and those of `add_all`.

    """
    tally = Tally(have=batch.have, is_sealed=batch.sealed_at is not None)
    piece: list[Item] = []
    # Redis adds pieces while the next ones are prepared, and those that wait for it together share its write to disk.
    sending: deque[asyncio.Task[None]] = deque()

    async def send(piece: Sequence[Item]) -> None:
        added = await _add(deps, caller, batch.id, piece)
        tally.count(piece, added)

    try:
        async for line in lines:
            try:
                given = items.of_line(line)
            except Problem as problem:
                tally.reject(None, items.shown(problem))
            else:
                piece.append(items.prepare(deps, caller, batch.id, given))
            if len(piece) == PIECE:
                sending.append(asyncio.create_task(send(piece)))
                piece = []
                # It is sent now, and other requests have their turn.
                await asyncio.sleep(0)
                if len(sending) == PIECES_AT_ONCE:
                    await sending.popleft()
        if piece:
            sending.append(asyncio.create_task(send(piece)))
        while sending:
            await sending.popleft()
    finally:
        # Where the client has left, or one was refused, nobody asks what became of the others.
        await asyncio.gather(*sending, return_exceptions=True)
    return tally


async def find(deps: Dependencies, caller: Caller, batch_id: str, *, owned: bool = False) -> Batch:
    """Return a batch of this caller's; operators see those of all keys, unless it has to be `owned`.

    Raises:
        Problem: 404 ``batch.not_found``.

    """
    raw: Any = await deps.redis.hgetall(keys.batch(deps.settings.key_prefix, batch_id))
    found = Batch.of(batch_id, raw)
    if found is None or (found.owner != caller.tenant and (owned or not caller.is_operator)):
        raise _not_found()
    return found


async def cancel(deps: Dependencies, batch: Batch) -> None:
    """Cancel what is open of a batch, and let no further items come.

    Raises:
        Problem: 409 ``batch.finished``, 404 ``batch.not_found``.

    """
    outcome = (await batches.cancel(deps.tasks, batch.id).run_async(deps.redis)).decode()
    if outcome == "missing":
        raise _not_found()
    if outcome == "finished":
        raise Problem(HTTPStatus.CONFLICT, "batch.finished", "the batch has ended already")


async def page(
    deps: Dependencies, batch: Batch, states: Sequence[str], *, limit: int, place: int | None, newer: bool
) -> tuple[list[dict[str, Any]], int | None]:
    """Return items in these states (none: any) behind a place, by index, and the place from which to go on.

    With `newer`, those before it.
    """
    rows: list[dict[str, Any]] = []
    step = -1 if newer else 1
    at, examined = (place if place is not None else -1) + step, 0
    while 0 <= at < batch.expected and examined < EXAMINED_LIMIT and len(rows) < limit:
        indexes = [one for one in range(at, at + step * EXAMINED_AT_ONCE, step) if 0 <= one < batch.expected]
        for index, row in zip(indexes, await _rows(deps, batch.id, indexes), strict=True):
            at, examined = index + step, examined + 1
            if row is not None and (not states or row["state"] in states):
                rows.append(row)
            if len(rows) == limit or examined == EXAMINED_LIMIT:
                break
    return (rows[::-1] if newer else rows), (at - step if 0 <= at < batch.expected else None)


def view(batch: Batch) -> dict[str, Any]:
    """Return a batch as the API shows it."""
    url = f"/v1/batches/{batch.id}"
    return {
        "id": batch.id,
        "state": batch.state,
        "sealed": batch.sealed_at is not None,
        "start": "sealed" if batch.is_held else "now",
        "expected": batch.expected,
        "have": batch.have,
        "counts": {
            "succeeded": batch.ended["SUCCESS"],
            "failed": batch.ended["FAILURE"],
            "cancelled": batch.ended["REVOKED"],
            "open": batch.open,
            "rejected": batch.rejected,
        },
        "created_at": rfc3339(batch.created_at),
        "sealed_at": rfc3339(batch.sealed_at),
        "completed_at": rfc3339(batch.completed_at),
        "follow_ups": {name: batch.follow_ups.get(name) for name in NAMES},
        "tenant": batch.owner,
        "links": {"self": url, "items": f"{url}/items", "events": f"{url}/events"},
    }


async def _rows(deps: Dependencies, batch_id: str, indexes: Sequence[int]) -> list[dict[str, Any] | None]:
    """Return items by their indexes; None where there is none."""
    client, prefix = deps.redis, deps.settings.key_prefix
    known: Any = await client.hmget(keys.batch_items(prefix, batch_id), [str(index) for index in indexes])
    found = [one.decode()[batches.FINGERPRINT_LENGTH :] if one is not None else None for one in known]
    states: dict[int, str] = {}
    under_way = [index for index, one in zip(indexes, found, strict=True) if one == ""]
    if under_way:
        async with client.pipeline(transaction=False) as pipe:
            for index in under_way:
                pipe.hget(keys.record(prefix, item_id(batch_id, index)), "state")
            answers = await pipe.execute()
        states = {index: one.decode() for index, one in zip(under_way, answers, strict=True) if one is not None}
    rows: list[dict[str, Any] | None] = []
    for index, one in zip(indexes, found, strict=True):
        if one is None or (one == "" and index not in states):
            rows.append(None)
            continue
        problem = json.loads(one[1:]) if one.startswith(batches.REJECTED) else None
        task_id = None if problem else item_id(batch_id, index)
        state = REJECTED if problem else (one if one in TERMINAL else states[index])
        rows.append(
            {"index": index, "task_id": task_id, "state": state, "problem": problem, "status_url": _url(task_id)}
        )
    return rows


async def _add(
    deps: Dependencies, caller: Caller, batch_id: str, piece: Sequence[Item], *, may_refuse: bool = True
) -> batches.Added:
    """Add some items, or raise the problem that stopped it; those before it are added then."""
    limits = deps.admission.limits(caller)
    call = batches.add(deps.tasks, batch_id, caller.tenant, piece, limits, may_refuse=may_refuse)
    added = batches.Added.of(await deps.dispatcher.run(call))
    deps.metrics.accepted.labels(items.KIND).inc(sum(one == "accepted" for one in added.outcomes))
    if added.why == "missing":
        raise _not_found()
    if added.why == "sealed":
        raise Problem(HTTPStatus.CONFLICT, "batch.sealed", "the batch is sealed: it takes no more items")
    first = piece[len(added.outcomes)].task if added.why else None
    is_delayed = first is not None and bool(first.envelopes[0].due_ms)
    deps.dispatcher.refuse(caller, added.why, added.subject, added.queue, is_delayed=is_delayed)
    return added


def _follow_up(deps: Dependencies, caller: Caller, name: str, asked: Any) -> FollowUp:  # noqa: ANN401 -- the model of a task
    stages = workflows.stages(asked, deps.catalogue, f"/{name}")
    # Its times count from when it is published.
    later = {"delay_seconds": 0, "run_at": None, "expires_in_seconds": None}
    with deps.dispatcher.publishing(
        caller, items.KIND, stages, asked.model_copy(update=later), task_id=new_task_id(),
        retain_ms=deps.settings.output_retention_ms,
    ) as task:  # fmt: skip
        return FollowUp(
            task,
            delay_ms=round(asked.delay_seconds * 1000),
            run_at=round(asked.run_at.timestamp() * 1000) if asked.run_at else 0,
            expires_in_ms=round((asked.expires_in_seconds or 0) * 1000),
        )


def _url(task_id: str | None) -> str | None:
    return status_url(task_id) if task_id else None


def _not_found() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "batch.not_found", "there is no such batch")
