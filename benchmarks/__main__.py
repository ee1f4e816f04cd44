"""``python -m benchmarks [NAME …]``: all of them, or some: images, upload, memory, accept, queue."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import gateways, images, queues, upload_memory
from benchmarks.measure import console

FOLDER = Path("var/bench").absolute()
NAMES = ("images", "upload", "memory", "accept", "queue")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *NAMES], help="which ones (default: all)")
    wanted = parser.parse_args().name or NAMES
    console.print("Medians of five, each side in turn, in one run on this machine. Compare ratios only.\n")
    if "images" in wanted:
        images.compare()
    if "upload" in wanted:
        gateways.upload(FOLDER / "upload")
    if "memory" in wanted:
        upload_memory.measure(FOLDER / "memory")
    if "accept" in wanted:
        gateways.accept(FOLDER / "accept", telemetry=False)
        gateways.accept(FOLDER / "accept-telemetry", telemetry=True)
    if "queue" in wanted:
        queues.compare(FOLDER / "queue", "prefork")
        queues.compare(FOLDER / "queue", "threads")


if __name__ == "__main__":
    main()
