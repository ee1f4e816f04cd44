"""The fault table: a row for each fault, gathered over several processes, written into reports/ and the docs.

``python tests/faults/report.py`` writes it from what the last ``make faults`` has left in var/faults; with ``--all``
these are all faults of one machine, and no others stay.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ledgers import Verdict

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "var" / "faults" / "rows.jsonl"
REPORT = ROOT / "reports" / "faults.md"
# How the faults begin that `make faults-cluster` injects.
ON_A_CLUSTER = "on a cluster: "
# After a fault that was not injected again when others were.
EARLIER = " †"
MARK = "<!-- What follows is written by `make faults`. -->\n"
COLUMNS = (
    "fault",
    "load",
    "injected",
    "lost",
    "doubled",
    "recovery p50 / p99 / max",
    "what else was seen",
    "stock Celery beside it",
)


@dataclass
class Row:
    """What one fault did."""

    order: float
    fault: str
    load: str
    injected: int
    lost: int
    doubled: int
    # Seconds, of everything that had to be done again or had to wait.
    recovery: list[float] = field(default_factory=list)
    seen: str = ""
    stock: str = ""
    seed: int | None = None

    @classmethod
    def of(cls, verdict: Verdict, **cells: Any) -> Row:
        """Return the row of a run in which the invariants alone say what was lost and doubled."""
        return cls(lost=len(verdict.lost), doubled=len(verdict.doubled), **cells)

    def note(self) -> None:
        """Keep it for the report; O_APPEND keeps lines of several processes whole."""
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (json.dumps(asdict(self)) + "\n").encode())
        os.close(file)
        print(self.line())

    def line(self) -> str:
        """Return it as a row of the table."""
        seed = f" (seed {self.seed})" if self.seed is not None else ""
        cells = (
            self.fault, self.load, f"{self.injected}{seed}", self.lost, self.doubled, figures(self.recovery), self.seen,
            self.stock or "—",
        )  # fmt: skip
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


def figures(seconds: list[float]) -> str:
    """Return p50 / p99 / max of times, with how many there were."""
    if not seconds:
        return "—"
    ordered = sorted(seconds)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return f"{statistics.median(ordered):.1f} / {p99:.1f} / {ordered[-1]:.1f} s of {len(ordered)}"


def merged(report: str, rows: list[str], *, is_part: bool) -> list[str]:
    """Return the rows of an earlier report with those that were made now in their places, and new ones after them.

    Rows that were not made again stay where only a part of the faults was injected, with a mark; those of a cluster
    stay always, because `make faults` makes none of them.
    """
    made = {fault_of(row): row for row in rows}
    earlier = [line for line in report.partition(MARK)[2].splitlines() if line.startswith("| ")][2:]
    found = [
        made.pop(fault_of(row), row if is_of_a_cluster(row) else _marked(row))
        for row in earlier
        if fault_of(row) in made or is_part or is_of_a_cluster(row)
    ]
    if not is_part:
        # In their own order.
        found = rows + [row for row in found if row not in rows]
        made = {}
    return sorted([*found, *made.values()], key=is_of_a_cluster)


def _marked(row: str) -> str:
    fault, rest = row.split(" | ", maxsplit=1)
    return f"{fault.removesuffix(EARLIER)}{EARLIER} | {rest}"


def fault_of(row: str) -> str:
    """Return the first cell of a row."""
    return row.split(" | ", maxsplit=1)[0].removesuffix(EARLIER)


def is_of_a_cluster(row: str) -> bool:
    """Return whether a fault was injected into a release on a cluster."""
    return row.startswith(f"| {ON_A_CLUSTER}")


def main() -> int:
    """Write the table; returns 1 when there are no rows."""
    if not ROWS.exists():
        print("no rows: `make faults` has not run", file=sys.stderr)
        return 1
    found = {row.fault: row for row in (Row(**json.loads(line)) for line in ROWS.read_text().splitlines())}
    lines = [MARK, "| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    rows = [row.line() for row in sorted(found.values(), key=lambda row: row.order)]
    lines += merged(REPORT.read_text(), rows, is_part="--all" not in sys.argv)
    lines += ["", f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}."]
    if any(EARLIER in line for line in lines):
        lines[-1] += f" {EARLIER.strip()} of an earlier run."
    table = "\n".join(lines) + "\n"
    for path in (REPORT, ROOT / "docs" / "explanation" / "reliability.md"):
        path.write_text(path.read_text().partition(MARK)[0] + table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
