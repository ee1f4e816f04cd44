"""``python -m benchmarks [NAME …]``: all of them, or some, as `--help` names them."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import bulk, gateways, idle, images, lists, queues, streams, upload_memory
from benchmarks.measure import console
from devstack import history

FOLDER = Path("var/bench").absolute()
NAMES = ("images", "upload", "memory", "accept", "queue", "idle", "lists", "streams", "bulk")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *NAMES], help="which ones (default: all)")
    parser.add_argument("--against", metavar="COMMIT", help="measure accept and idle of another commit too, in turn")
    options = parser.parse_args()
    wanted = options.name or NAMES
    before = {options.against: history.environment(options.against)} if options.against else {}
    console.print("Medians of five, each side in turn, in one run on this machine. Compare ratios only.\n")
    if "images" in wanted:
        images.compare()
    if "upload" in wanted:
        gateways.upload(FOLDER / "upload")
    if "memory" in wanted:
        upload_memory.measure(FOLDER / "memory")
    if "accept" in wanted:
        gateways.accept(FOLDER / "accept", before, telemetry=False)
        gateways.accept(FOLDER / "accept-telemetry", before, telemetry=True)
    if "queue" in wanted:
        queues.compare(FOLDER / "queue", "prefork")
        queues.compare(FOLDER / "queue", "threads")
    if "idle" in wanted:
        idle.measure(FOLDER / "idle", before)
    if "lists" in wanted:
        lists.measure(FOLDER / "lists")
    if "streams" in wanted:
        streams.measure(FOLDER / "streams")
    if "bulk" in wanted:
        bulk.measure(FOLDER / "bulk")


if __name__ == "__main__":
    main()
