"""``python -m benchmarks [NAME …]``: all of them, or some, as `--help` names them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import batches, bulk, gateways, idle, images, lists, queues, schedules, streams, upload_memory
from benchmarks.measure import console
from devstack import history

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("var/bench").absolute()
NAMES = ("images", "upload", "memory", "accept", "batch", "queue", "idle", "lists", "streams", "schedules", "bulk")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *NAMES], help="which ones (default: all)")
    parser.add_argument("--against", metavar="COMMIT", help="measure accept and idle of another commit too, in turn")
    options = parser.parse_args()
    wanted = options.name or NAMES
    before = {options.against: history.environment(options.against)} if options.against else {}
    console.print("Medians of five, each side in turn, in one run on this machine. Compare ratios only.\n")
    for name in wanted:
        for measure in _measures(before)[name]:
            measure()


def _measures(before: dict[str, dict[str, str]]) -> dict[str, list[Callable[[], None]]]:
    return {
        "images": [images.compare],
        "upload": [lambda: gateways.upload(FOLDER / "upload")],
        "memory": [lambda: upload_memory.measure(FOLDER / "memory")],
        "accept": [
            lambda: gateways.accept(FOLDER / "accept", before, telemetry=False),
            lambda: gateways.accept(FOLDER / "accept-telemetry", before, telemetry=True),
        ],
        "batch": [lambda: batches.accept(FOLDER / "batch")],
        "queue": [
            lambda: queues.compare(FOLDER / "queue", "prefork"),
            lambda: queues.compare(FOLDER / "queue", "threads"),
        ],
        "idle": [lambda: idle.measure(FOLDER / "idle", before)],
        "lists": [lambda: lists.measure(FOLDER / "lists")],
        "streams": [lambda: streams.measure(FOLDER / "streams")],
        "schedules": [lambda: schedules.measure(FOLDER / "schedules")],
        "bulk": [lambda: bulk.measure(FOLDER / "bulk")],
    }


if __name__ == "__main__":
    main()
