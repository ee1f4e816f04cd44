"""``python -m offload_worker MODULE:NAME``: run a worker until SIGTERM, or check that it could run."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offload_core.process import exit_on_sigterm

EPILOG = "Everything else is read from the environment: docs/reference/settings.md. More arguments go to celery worker."


def main() -> None:
    """Run the worker that is named, or check it."""
    exit_on_sigterm()
    parser = argparse.ArgumentParser(prog="python -m offload_worker", description=__doc__, epilog=EPILOG)
    parser.add_argument("worker", metavar="MODULE:NAME", help="where the Worker is, like acme.worker:worker")
    parser.add_argument(
        "--check",
        action="store_true",
        help="load the worker, check its settings where OFFLOAD_REDIS_URL is set, print its task types, and exit",
    )
    options, arguments = parser.parse_known_args()
    worker = _load(parser, options.worker)
    if not options.check:
        worker.main(arguments)
    if arguments:
        parser.error(f"unrecognized arguments: {' '.join(arguments)}")
    _check(worker)


def _load(parser: argparse.ArgumentParser, path: str) -> Any:  # noqa: ANN401 -- a Worker of any settings
    from offload_worker.worker import Worker

    module, colon, name = path.partition(":")
    if not colon or not name:
        parser.error(f"{path!r} names no worker: use MODULE:NAME, like acme.worker:worker")
    # As `python -m` and `celery -A` have it.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        parser.error(f"there is no module {error.name}")
    except AttributeError:
        parser.error(f"{module} has no {name}")
    if not isinstance(found, Worker):
        parser.error(f"{path} is no offload_worker.Worker, but a {type(found).__name__}")
    if not found.contracts:
        parser.error(f"{path} has no task type: decorate a function with @{name}.task(…) in {module}")
    return found


def _check(worker: Any) -> None:  # noqa: ANN401 -- a Worker of any settings
    is_set = "OFFLOAD_REDIS_URL" in os.environ
    if not is_set:
        print("OFFLOAD_REDIS_URL is not set: the settings were not checked", file=sys.stderr)
        os.environ["OFFLOAD_REDIS_URL"] = "redis://localhost"
    settings = worker.read_settings()
    worker.create(settings)
    entries = [asdict(one) for one in worker.entries(settings)]
    for entry in entries:
        del entry["registered_at"], entry["last_seen_at"]
    print(json.dumps(entries, indent=2))


if __name__ == "__main__":
    main()
