"""Which run of a step speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from offload_core.records import REPLACED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Fence(NamedTuple):
    """One run of a step: its attempt (0 is the first) and, of that attempt, the delivery (1 is the first).

    What a run says is stored only while no later one has spoken.
    """

    attempt: int
    delivery: int

    @classmethod
    def of(cls, request: Any) -> Fence:  # noqa: ANN401 -- Celery's request, or None where Celery knows of none
        """Return the run that Celery's request is."""
        return cls._of(lambda name: getattr(request, name, None))

    @classmethod
    def of_headers(cls, headers: Mapping[str, Any]) -> Fence:
        """Return the run that a message with these headers starts."""
        return cls._of(headers.get)

    @classmethod
    def _of(cls, field: Callable[[str], Any]) -> Fence:
        attempt = REPLACED * int(field("replaced_task_nesting") or 0) + int(field("retries") or 0)
        return cls(attempt, int(field("delivery_count") or 1))
