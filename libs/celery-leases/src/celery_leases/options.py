"""The transport's options, read from ``broker_transport_options``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

DeadLetterHandler = Callable[[dict[str, Any], str], object]


class InvalidOptionError(ValueError):
    """An option of the transport has a value that cannot work."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a lease is, and when a message is given up. Units stand in the names."""

    # A killed worker's task is back after at most a lease and a sweep. Renewed every third of it.
    lease_seconds: float = 10.0
    # A worker that runs tasks in its own process (threads, solo) keeps its leases while a task keeps the interpreter's
    # lock, for so long at most.
    stall_seconds: float = 600.0
    # A prefork pool's child that has not begun a task so long after it was given to it is ended.
    begin_seconds: float = 30.0
    # Deliveries that ended badly and that the message alone can be blamed for, before it is buried.
    delivery_limit: int = 3
    # The same for deliveries that ended together with others of the same worker: a dead node is nobody's fault.
    shared_delivery_limit: int = 10
    sweep_interval_seconds: float = 1.0
    # Set before every key and channel name, kombu's own included.
    key_prefix: str = "leases:"
    # A task name that this worker does not know goes back, delayed by this much, for as long as the grace.
    unknown_task_delay_seconds: float = 5.0
    unknown_task_grace_seconds: float = 600.0
    # Asked about each message of a task that this worker knows: one that it cannot read goes back as if it did not.
    reads: Callable[[dict[str, Any]], bool] | None = None
    # Gives, for a task's name, how many of its messages this worker has at once; None: no limit. What is too much goes
    # back, delayed.
    run_limit: Callable[[str], int | None] | None = None
    run_limit_delay_seconds: float = 2.0
    # How long a settled message's key is remembered, so that it is not published again. 0 turns it off.
    tombstone_seconds: float = 600.0
    dead_letter_retention_seconds: float = 14 * 86_400.0
    # "module:function", called with (message, reason) for each dead letter until it has returned. None turns it off.
    on_dead_letter: str | DeadLetterHandler | None = "celery_leases.failures:store_failure"
    # A handler that takes longer is left to itself, and the next dead letter is reported.
    on_dead_letter_seconds: float = 30.0
    # Whether ``Reject(requeue=True)`` counts as a delivery that ended badly. Stock Celery requeues without end.
    count_requeued_rejections: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidOptionError: with the option's name and what it must be.

        """
        positive = (
            "lease_seconds", "sweep_interval_seconds", "unknown_task_delay_seconds", "on_dead_letter_seconds",
            "begin_seconds", "run_limit_delay_seconds",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                message = f"{name} must be greater than 0, not {getattr(self, name)!r}"
                raise InvalidOptionError(message)
        for name in ("delivery_limit", "shared_delivery_limit"):
            if getattr(self, name) < 1:
                message = f"{name} must be at least 1, not {getattr(self, name)!r}"
                raise InvalidOptionError(message)
        for name in (
            "unknown_task_grace_seconds",
            "tombstone_seconds",
            "dead_letter_retention_seconds",
            "stall_seconds",
        ):
            if getattr(self, name) < 0:
                message = f"{name} must not be negative, not {getattr(self, name)!r}"
                raise InvalidOptionError(message)

    @classmethod
    def of(cls, transport_options: Mapping[str, Any]) -> Options:
        """Return the options found among kombu's; what is missing has its default.

        Raises:
            InvalidOptionError: when a value cannot work, or when kombu's ``global_keyprefix`` is used beside ours.

        """
        if transport_options.get("global_keyprefix"):
            message = "use key_prefix instead of global_keyprefix: it holds for kombu's own keys too"
            raise InvalidOptionError(message)
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in transport_options.items() if name in known})
