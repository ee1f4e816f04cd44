"""What is to be posted: written with the rows that it belongs to, in their transaction."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models


class Entry(models.Model):
    """A task to be posted. Its id is the Idempotency-Key: posted twice, it is one task."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # The body of `POST /v1/tasks`.
    body = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    # What Offload calls it, once it was accepted.
    task_id = models.CharField(max_length=100, blank=True, default="")
    # The code of a refusal that no repetition would change.
    refused = models.CharField(max_length=100, blank=True, default="")

    class Meta:
        """The relay looks for what is not sent, the oldest first."""

        ordering: ClassVar[list[str]] = ["created_at"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["created_at"], condition=models.Q(sent_at=None), name="outbox_unsent")
        ]

    def __str__(self) -> str:
        """Return what it asks for, and whether it was sent."""
        state = self.refused or self.task_id or "not sent"
        return f"{self.id}: {self.body.get('task', 'workflow')} ({state})"
