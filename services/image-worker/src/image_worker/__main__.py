"""``python -m image_worker``: run the worker until SIGTERM. More arguments go to ``celery worker``."""

from __future__ import annotations

import sys

from offload_runtime.celery_app import run_worker

from image_worker.app import POOL, QUEUES, create


def main() -> None:
    """Start the worker."""
    app = create()
    run_worker(app, QUEUES, POOL, app.settings.image_concurrency, sys.argv[1:])


if __name__ == "__main__":
    main()
