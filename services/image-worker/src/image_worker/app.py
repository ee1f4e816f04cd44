"""The image worker, and what its tasks work with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from image_worker.sandbox import Sandbox
from image_worker.settings import ImageWorkerSettings
from offload_contracts.contract import Queue
from offload_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _lifespan(settings: ImageWorkerSettings) -> Iterator[Sandbox]:
    sandbox = Sandbox(settings)
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()


worker = Worker("image-worker", ImageWorkerSettings, _lifespan, queues=(Queue.IMAGES, Queue.REPORTS), pool="prefork")
