"""Every task there is: the contracts of the modules of this package."""

from __future__ import annotations

from typing import Any

from offload_contracts import calls, images, mails, maintenance, reports, webhooks
from offload_contracts.contract import TaskContract

ALL: tuple[TaskContract[Any, Any], ...] = tuple(
    value
    for module in (images, reports, mails, calls, webhooks, maintenance)
    for value in vars(module).values()
    if isinstance(value, TaskContract)
)
_BY_NAME = {contract.name: contract for contract in ALL}


def by_name(name: str) -> TaskContract[Any, Any] | None:
    """Return the contract of a task name, or None when there is none."""
    return _BY_NAME.get(name)
