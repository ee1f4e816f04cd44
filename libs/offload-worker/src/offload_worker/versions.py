"""Which messages this worker can read: while two versions of a task type are about, some are for the other one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from offload_contracts.contract import ContractError
from offload_core.catalogue import version_of
from offload_core.messages import TASK_TYPE_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload_contracts.contract import TaskContract


class Versions:
    """Says of a message whether this worker's version of its task type reads it.

    One that was checked against another version, and that this one cannot decode, goes back to its queue for a worker
    of that version. It waits for one as a message does whose task no worker knows: see `unknown_task_grace_seconds`.
    """

    def __init__(self, contracts: Sequence[TaskContract[Any, Any]]) -> None:
        """Take the contracts of this worker."""
        self._known = {contract.name: (contract, version_of(contract)) for contract in contracts}

    def __call__(self, message: dict[str, Any]) -> bool:
        """Return whether the message, as the broker has it, can be read."""
        headers = message["headers"]
        version = headers.get(TASK_TYPE_VERSION)
        contract, ours = self._known.get(headers.get("task"), (None, ""))
        if contract is None or version is None or version == ours:
            return True
        arguments = json.loads(base64.b64decode(message["body"]))[0]
        try:
            contract.decode(arguments[-1])
        except ContractError:
            return False
        return True
