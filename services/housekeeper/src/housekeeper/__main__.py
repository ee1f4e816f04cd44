"""``python -m housekeeper``: run the housekeeper until SIGTERM. More arguments go to ``celery worker``."""

from __future__ import annotations

import sys

from offload_core.process import exit_on_sigterm


def main() -> None:
    """Start the housekeeper."""
    exit_on_sigterm()
    from housekeeper import tasks  # noqa: F401 -- gives the worker its tasks
    from housekeeper.app import worker

    worker.main(sys.argv[1:])


if __name__ == "__main__":
    main()
