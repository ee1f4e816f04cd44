"""The daily report: yesterday's figures, mailed by a task of its own."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery_leases.admin import Admin
from offload_contracts.contract import Queue
from offload_contracts.mails import SEND_MAIL, SendMail, Template
from offload_core import keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from housekeeper.settings import HousekeeperSettings

OWNER = "housekeeper"


def figures(settings: HousekeeperSettings, client: redis.Redis, now: datetime) -> dict[str, Any]:
    """Return the figures of the day before `now` as the report's template wants them."""
    day = (now - timedelta(days=1)).date()
    counted: dict[str, dict[str, int]] = defaultdict(lambda: {"SUCCESS": 0, "FAILURE": 0, "REVOKED": 0})
    stored: dict[Any, Any] = client.hgetall(keys.figures(settings.key_prefix, day))
    for field, count in stored.items():
        kind, _, state = field.decode().rpartition(":")
        counted[kind][state] = int(count)
    admin = Admin(client, settings.broker_prefix)
    depths = admin.depths(dict.fromkeys([*map(str, Queue), *sorted(admin.queues())]))
    return {
        "day": day.isoformat(),
        "total": sum(sum(states.values()) for states in counted.values()),
        "failed": sum(states["FAILURE"] for states in counted.values()),
        "rows": [
            {"kind": kind, "succeeded": of["SUCCESS"], "failed": of["FAILURE"], "revoked": of["REVOKED"]}
            for kind, of in sorted(counted.items())
        ],
        "queues": [
            {"name": depth.queue, "waiting": depth.waiting, "running": depth.running, "dead": depth.dead}
            for depth in depths
        ],
    }


def mail(
    settings: HousekeeperSettings, client: redis.Redis, recipients: Sequence[str], report_id: str, now: datetime
) -> str:
    """Publish the task that mails the figures; returns its id. Waits for Redis.

    The id follows from that of the report's own task: a second run publishes nothing more.
    """
    context = wait_for_redis(lambda: figures(settings, client, now), "the daily report's figures")
    message = SendMail(to=tuple(recipients), template=Template.DAILY_REPORT, context=context)
    task_id = f"{report_id}-mail"
    steps = [NewStep.of(SEND_MAIL, message)]
    with Publisher(OWNER).publishing(task_id, "email", OWNER, steps, parent_task_id=report_id) as task:
        accept = TaskStore.of(settings).accept(task)
        wait_for_redis(lambda: accept.run(client), "the daily report's mail")
    return task_id
