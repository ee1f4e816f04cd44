"""Publishing a task: its span, its message, and what its record begins with.

In one place for the gateway, beat, and what follows from a task.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from offload_contracts.mails import NOTIFY_FAILURE
from offload_core import messages, telemetry
from offload_core.messages import PUBLISHED_AT, NewStep
from offload_core.records import NewTask, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from offload_core.messages import Stage


class Publisher:
    """Makes tasks that a script of the `TaskStore` then puts into Redis."""

    def __init__(self, origin: str) -> None:
        """Take who publishes, as the messages' header ``origin`` has it."""
        self._origin = origin
        self._tracer = trace.get_tracer("offload") if telemetry.is_enabled() else trace.NoOpTracer()

    @contextmanager
    def publishing(
        self,
        task_id: str,
        kind: str,
        owner: str,
        stages: Sequence[NewStep | Stage],
        *,
        trace_of_its_own: bool = False,
        **details: Any,  # noqa: ANN401 -- those of `task`
    ) -> Iterator[NewTask]:
        """Give a `task` that is put into Redis within this block, which is its producer's span.

        With `trace_of_its_own` that begins a trace, with a link to the current one: of many tasks that come at once.
        """
        first = stages[0] if isinstance(stages[0], NewStep) else stages[0][0]
        attributes = telemetry.publish_attributes(first.name, first.queue, task_id)
        context, links = None, None
        if trace_of_its_own:
            context, links = Context(), [trace.Link(trace.get_current_span().get_span_context())]
        with self._tracer.start_as_current_span(
            f"apply_async/{first.name}", context=context, links=links, kind=SpanKind.PRODUCER, attributes=attributes
        ):
            yield self.task(task_id, kind, owner, stages, **details)

    def task(
        self,
        task_id: str,
        kind: str,
        owner: str,
        stages: Sequence[NewStep | Stage],
        *,
        due: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        **fields: Any,  # noqa: ANN401 -- those of `NewTask`
    ) -> NewTask:
        """Return a task that belongs to what goes on in this trace: its messages continue the current span.

        `headers` are those of every step's message, beside our own.
        """
        own: dict[str, Any] = {**telemetry.trace_headers(), PUBLISHED_AT: time.time()}
        if notify := fields.get("notify"):
            fields["subscriptions"] = (_failure_mail(notify, fields.get("user_id")),)
        full = tuple((stage,) if isinstance(stage, NewStep) else tuple(stage) for stage in stages)
        return NewTask(
            task_id=task_id,
            kind=kind,
            owner=owner,
            stages=full,
            envelopes=messages.envelopes(task_id, full, {**own, **(headers or {})}, origin=self._origin, due=due),
            headers=headers or {},
            **{"trace_id": telemetry.trace_id_of(own)} | fields,
        )


def _failure_mail(to: str, user_id: str | None) -> Subscription:
    """Return the mail that tells a user of a failure. Of a mail that failed no mail tells."""
    message = {"to": to} | ({"user_id": user_id} if user_id else {})
    queue = str(NOTIFY_FAILURE.queue)
    return Subscription(
        "failure", "failure-notification", ("FAILURE",), NOTIFY_FAILURE.name, queue, message, unless_queue=queue
    )
