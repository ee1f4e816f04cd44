"""The outbox: tasks are written in the caller's transaction, and posted by one process, `manage.py relay_outbox`.

What is committed is posted, whatever dies in between; what is rolled back never was. Each entry is one task: its id is
the Idempotency-Key, which Offload knows for at least a day after the task was accepted.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from django.utils import timezone

from offload_outbox.client import Refused, post
from offload_outbox.models import Entry

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

# So many are looked at between two looks at the clock.
BATCH = 100


def enqueue(body: dict[str, Any], entry_id: UUID | None = None) -> Entry:
    """Write a task into the outbox, in the current transaction.

    The `body` is that of `POST /v1/tasks`: a `task` and its `input`, or the `steps` of a workflow, and options.
    """
    return Entry.objects.create(id=entry_id or uuid4(), body=body)


def relay(client: httpx.Client) -> int:
    """Post what is not sent, the oldest first; returns how many were. An entry that is refused stands in nobody's way.

    Raises:
        Unavailable: when Offload takes nothing now; what was sent before it is noted.

    """
    sent = 0
    for entry in Entry.objects.filter(sent_at=None)[:BATCH]:
        try:
            entry.task_id = post(client, entry.body, str(entry.id))
            sent += 1
        except Refused as error:
            logger.error("the outbox's %s is refused: %s", entry.id, error)  # noqa: TRY400 -- the error says all
            entry.refused = error.code
        # A relay that dies before this posts it again, with the same key.
        entry.sent_at = timezone.now()
        entry.save(update_fields=["task_id", "refused", "sent_at"])
    return sent
