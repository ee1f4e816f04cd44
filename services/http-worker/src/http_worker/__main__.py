"""``python -m http_worker``: run the worker until SIGTERM. More arguments go to ``celery worker``."""

from __future__ import annotations

import sys

from offload_core.process import exit_on_sigterm


def main() -> None:
    """Start the worker."""
    exit_on_sigterm()
    from http_worker import tasks  # noqa: F401 -- gives the worker its tasks
    from http_worker.app import worker

    worker.main(sys.argv[1:])


if __name__ == "__main__":
    main()
