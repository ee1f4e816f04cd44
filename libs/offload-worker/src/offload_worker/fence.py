"""Which run of a step speaks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Fence(NamedTuple):
    """One run of a step: its attempt (0 is the first) and, of that attempt, the delivery (1 is the first).

    What a run says is stored only while no later one has spoken.
    """

    attempt: int
    delivery: int

    @classmethod
    def of(cls, request: Any) -> Fence:  # noqa: ANN401 -- Celery's request, or None where Celery knows of none
        """Return the run that Celery's request is."""
        attempt, delivery = getattr(request, "retries", None), getattr(request, "delivery_count", None)
        return cls(int(attempt or 0), int(delivery or 1))
