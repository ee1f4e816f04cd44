"""A Redis broker for Celery in which a message is always somewhere: waiting, leased, delayed or dead.

``broker_transport = "celery_leases:Transport"`` with an ordinary ``redis://`` URL is all that an application needs.
Nothing of kombu or Celery is imported until `Transport` is asked for, so that a web process can use
`celery_leases.publish` without paying for a worker's imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_leases.transport import SentinelTransport, Transport

__version__ = "0.2.0"
__all__ = ["SETTINGS", "SentinelTransport", "Transport", "__version__"]

# What the promises need of a Celery application, beside the transport: see README.md for the reason of each.
SETTINGS: dict[str, object] = {
    "broker_transport": "celery_leases:Transport",
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Wait for Redis rather than fail: once a second for a day. (None would be replaced by 3 for the next step of a
    # chain, and stock Redis results sum over all retries for each chord, so the number cannot be much larger.)
    "task_publish_retry_policy": {
        "max_retries": 86_400,
        "interval_start": 0.05,
        "interval_step": 0.2,
        "interval_max": 1,
    },
}


def __getattr__(name: str) -> object:
    """Import the transports on first use."""
    if name in {"Transport", "SentinelTransport"}:
        return getattr(importlib.import_module("celery_leases.transport"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
