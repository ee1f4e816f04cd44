"""Offload's SDK: your own task types on a worker of your own, and your own Celery application on Offload."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offload_core.errors import BlockedError, PermanentError, PostponeError, TemporaryError
    from offload_worker.adoption.application import adopt
    from offload_worker.run import Run
    from offload_worker.worker import Worker

__all__ = ["BlockedError", "PermanentError", "PostponeError", "Run", "TemporaryError", "Worker", "adopt"]

_MODULES = {
    "BlockedError": "offload_core.errors",
    "PermanentError": "offload_core.errors",
    "PostponeError": "offload_core.errors",
    "TemporaryError": "offload_core.errors",
    "Run": "offload_worker.run",
    "Worker": "offload_worker.worker",
    "adopt": "offload_worker.adoption.application",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- what is asked for
    """Import what is asked for: beat uses parts of this package, and needs no worker."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_MODULES[name]), name)
