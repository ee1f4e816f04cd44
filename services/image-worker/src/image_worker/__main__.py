"""``python -m image_worker``: run the worker until SIGTERM. More arguments go to ``celery worker``."""

from __future__ import annotations

import sys

from offload_core.process import exit_on_sigterm


def main() -> None:
    """Start the worker."""
    exit_on_sigterm()
    from image_worker.app import POOL, QUEUES, create
    from image_worker.settings import ImageWorkerSettings
    from offload_worker.celery_app import run_worker

    settings = ImageWorkerSettings()
    run_worker(create(settings), settings, QUEUES, POOL, settings.image_concurrency, sys.argv[1:])


if __name__ == "__main__":
    main()
