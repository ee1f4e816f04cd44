"""The keys of records, and how a step's id names its task."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import NamedTuple


class Step(NamedTuple):
    """Which step of which task."""

    task_id: str
    number: int


def step_id(task_id: str, number: int) -> str:
    """Return the Celery id of a step: the task's own for the first, then ``{task_id}.2``, ``{task_id}.3``."""
    return task_id if number == 1 else f"{task_id}.{number}"


def step_of(celery_id: str) -> Step:
    """Return the task and the number of a step from its Celery id alone: failures may come without a root id."""
    task_id, dot, number = celery_id.rpartition(".")
    if dot and number.isascii() and number.isdecimal():
        return Step(task_id, int(number))
    return Step(celery_id, 1)


def step(prefix: str, celery_id: str) -> str:
    """Return the key that says which step of which task a Celery id of an adopted application is."""
    return f"{prefix}step:{celery_id}"


def adopted_step(celery_id: str, found: bytes | None) -> Step:
    """Return what that key holds; where there is none, the id says it by itself."""
    if found is None:
        return step_of(celery_id)
    task_id, _, number = found.decode().rpartition(" ")
    return Step(task_id, int(number))


def record(prefix: str, task_id: str) -> str:
    """Return the key of a task's record."""
    return f"{prefix}task:{task_id}"


def ended(prefix: str, task_id: str) -> str:
    """Return the key of what is left of a task whose record has expired."""
    return f"{prefix}ended:{task_id}"


def events(prefix: str, task_id: str) -> str:
    """Return the key of a task's event stream."""
    return f"{prefix}events:{task_id}"


def owner_events(prefix: str, owner: str) -> str:
    """Return the key of the event stream of all tasks of an owner, or of all owners (``""``)."""
    return f"{prefix}events-of:{owner}"


def tasks(prefix: str, owner: str, state: str) -> str:
    """Return the key of the tasks in a state, by creation: those of an owner, or of all owners (``""``)."""
    return f"{prefix}tasks:{owner}:{state}"


def webhook(prefix: str, endpoint_id: str) -> str:
    """Return the key of an endpoint of webhooks."""
    return f"{prefix}webhook:{endpoint_id}"


def webhooks(prefix: str, owner: str) -> str:
    """Return the key of the endpoints of an owner, or of all owners (``""``), by creation."""
    return f"{prefix}webhooks-of:{owner}"


def subscriptions(prefix: str, owner: str) -> str:
    """Return the key of what an owner's endpoints ask for: endpoint id to JSON. Those that are disabled ask nothing."""
    return f"{prefix}subscriptions:{owner}"


def webhook_attempts(prefix: str, endpoint_id: str) -> str:
    """Return the key of the stream of an endpoint's last attempts."""
    return f"{prefix}webhook-attempts:{endpoint_id}"


def webhook_rate(prefix: str, endpoint_id: str) -> str:
    """Return the key of when an endpoint may be called again at its rate."""
    return f"{prefix}webhook-rate:{endpoint_id}"


def batch(prefix: str, batch_id: str) -> str:
    """Return the key of a batch."""
    return f"{prefix}batch:{batch_id}"


def batch_items(prefix: str, batch_id: str) -> str:
    """Return the key of a batch's items: index to what is known of it."""
    return f"{prefix}batch-items:{batch_id}"


def schedule(prefix: str, owner: str, name: str) -> str:
    """Return the key of a schedule."""
    return f"{prefix}schedule:{owner}:{name}"


def schedules(prefix: str) -> str:
    """Return the key of the schedules that are to be looked at, ``owner:name``, by when (ms)."""
    return f"{prefix}schedules"


def schedules_of(prefix: str, owner: str) -> str:
    """Return the key of the schedules of an owner, or of all owners (``""``), by creation: ``owner:name``."""
    return f"{prefix}schedules-of:{owner}"


def tenants(prefix: str) -> str:
    """Return the key of the tenants: name to record."""
    return f"{prefix}tenants"


def api_keys(prefix: str) -> str:
    """Return the key of the API keys: id to record."""
    return f"{prefix}api-keys"


def api_keys_used(prefix: str) -> str:
    """Return the key that says when each API key was last used (ms)."""
    return f"{prefix}api-keys-used"


def access_version(prefix: str) -> str:
    """Return the key of a number that grows with each change of a tenant or an API key."""
    return f"{prefix}access-version"


def audit(prefix: str) -> str:
    """Return the key of the stream of what operators and administrators have done."""
    return f"{prefix}audit"


def paused_queues(prefix: str) -> str:
    """Return the key of the queues that are paused: until when (ms, 0: no end), and who asked for it."""
    return f"{prefix}paused-queues"


def bulk(prefix: str, bulk_id: str) -> str:
    """Return the key of a bulk operation."""
    return f"{prefix}bulk:{bulk_id}"


def bulks(prefix: str) -> str:
    """Return the key of the bulk operations that are under way, by the time (ms) of their last sign of life."""
    return f"{prefix}bulks"


def forgetting(prefix: str) -> str:
    """Return the key of the tasks that leave these lists, by the time (ms) when their records expire."""
    return f"{prefix}forgetting"


def idempotency(prefix: str, owner: str, idempotency_key: str) -> str:
    """Return the key of an idempotency key: its scope is the API key."""
    return f"{prefix}idempotency:{owner}:{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"


def expiring(prefix: str) -> str:
    """Return the key of the tasks that must be started by a time: a sorted set, by milliseconds."""
    return f"{prefix}expiring"


def catalogue(prefix: str, fleet: str = "") -> str:
    """Return the key of a fleet's part of the catalogue; without a fleet, that of the names of all fleets."""
    return f"{prefix}catalogue:{fleet}" if fleet else f"{prefix}catalogue"


def rate(prefix: str, owner: str) -> str:
    """Return the key of how fast an owner has posted."""
    return f"{prefix}rate:{owner}"


def ledger(prefix: str, celery_id: str) -> str:
    """Return the key of the mail ledger of one step."""
    return f"{prefix}ledger:{celery_id}"


def configured_schedules(prefix: str) -> str:
    """Return the key of what the settings said last of Offload's own schedules: name to definition."""
    return f"{prefix}configured-schedules"


def clock(prefix: str) -> str:
    """Return the key of the time (ms, Redis's clock) at which beat looked last."""
    return f"{prefix}clock"


def occurrences(prefix: str) -> str:
    """Return the key of the last occurrences that beat of a release before 0.3 has published."""
    return f"{prefix}slots"


def health(prefix: str) -> str:
    """Return the key of what the last health checks found, by server."""
    return f"{prefix}health"


def checked_at(dependency: str) -> str:
    """Return the field of that key which says when a server was checked, in milliseconds."""
    return f"{dependency}:checked_at"


def exporter(prefix: str) -> str:
    """Return the key that names the gateway which exports the queues' metrics."""
    return f"{prefix}exporter"


def figures(prefix: str, day: date) -> str:
    """Return the key of a day's figures: how many tasks of each kind ended how."""
    return f"{prefix}figures:{(day - date(1970, 1, 1)).days}"
