"""The figures that the tests measure, written to reports/cluster.md when all have run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Report:
    """Rows of (what was done, what was measured), by section."""

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, section: str, what: str, measured: str) -> None:
        """Note one figure."""
        self.sections.setdefault(section, []).append((what, measured))

    def write(self, path: Path) -> None:
        """Write all of it as one page."""
        lines = ["# What a real cluster showed", "", "Written by `make cluster-test`; do not edit.", ""]
        for section, rows in self.sections.items():
            lines += [f"## {section}", "", "| what | measured |", "| --- | --- |"]
            lines += [f"| {what} | {measured} |" for what, measured in rows]
            lines.append("")
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
