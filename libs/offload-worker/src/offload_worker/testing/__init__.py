"""For the tests of your own task types: Offload in memory, without Redis, processes and waiting.

`Testbed` runs a worker's functions as Offload does: with retries, later steps, branches and their join. Below it are a
broker and a task store with the same state machine as the scripts in Redis; a stateful test of ours runs both and finds
that they agree.
"""

from __future__ import annotations

from offload_worker.testing.broker import MemoryBroker, Popped
from offload_worker.testing.store import MemoryTaskStore
from offload_worker.testing.testbed import Finished, Testbed

__all__ = ["Finished", "MemoryBroker", "MemoryTaskStore", "Popped", "Testbed"]
