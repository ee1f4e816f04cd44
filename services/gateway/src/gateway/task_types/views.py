"""Task types as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload_core.catalogue import TaskType


def task_type(versions: Sequence[TaskType]) -> dict[str, Any]:
    """Return a task type of its versions, the newest first."""
    newest = versions[0]
    return {
        "name": newest.name,
        "queue": newest.queue,
        "version": newest.version,
        "service": newest.service,
        "fleet": newest.fleet,
        "last_seen_at": rfc3339(newest.last_seen_at),
        "input_schema": newest.input_schema,
        "result_schema": newest.result_schema,
        "retry": newest.retry,
        "versions": [
            {
                "version": one.version,
                "service": one.service,
                "fleet": one.fleet,
                "registered_at": rfc3339(one.registered_at),
                "last_seen_at": rfc3339(one.last_seen_at),
            }
            for one in versions
        ],
    }
