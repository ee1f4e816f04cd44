"""``python -m mail_worker``: run the worker until SIGTERM. More arguments go to ``celery worker``."""

from __future__ import annotations

import sys

from offload_core.process import exit_on_sigterm


def main() -> None:
    """Start the worker."""
    exit_on_sigterm()
    from mail_worker.app import POOL, QUEUES, create
    from mail_worker.settings import MailWorkerSettings
    from offload_worker.celery_app import run_worker

    settings = MailWorkerSettings()
    run_worker(create(settings), settings, QUEUES, POOL, settings.mail_concurrency, sys.argv[1:])


if __name__ == "__main__":
    main()
