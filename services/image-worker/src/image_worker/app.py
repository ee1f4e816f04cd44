"""The image worker, and what its tasks work with."""

from __future__ import annotations

from dataclasses import dataclass

from celery import signals

from image_worker.sandbox import Sandbox
from image_worker.settings import ImageWorkerSettings
from offload_contracts.contract import Queue
from offload_core.blobs import BlobStore
from offload_worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Resources:
    """Where files are, and the process that images are worked on in."""

    store: BlobStore
    sandbox: Sandbox


def _open(settings: ImageWorkerSettings) -> Resources:
    sandbox = Sandbox(settings)
    signals.worker_process_init.connect(sandbox.start, weak=False)
    signals.worker_process_shutdown.connect(sandbox.stop, weak=False)
    return Resources(BlobStore(settings), sandbox)


worker = Worker(
    "image-worker",
    ImageWorkerSettings,
    _open,
    queues=(Queue.IMAGES, Queue.REPORTS),
    pool="prefork",
)
