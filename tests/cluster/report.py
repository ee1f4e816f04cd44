"""The figures that the tests measure, written to reports/cluster.md and into the page about elasticity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = ("Install", "Elasticity", "Rollouts", "Kills", "Outages", "Network", "Probes", "Manifests", "Skaffold")
MARK = "<!-- What follows is written by `make cluster-test`. -->\n"


@dataclass
class Report:
    """Rows of (what was done, what was measured), by section."""

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, section: str, what: str, measured: str) -> None:
        """Note one figure."""
        assert section in SECTIONS
        self.sections.setdefault(section, []).append((what, measured))

    def write(self, root: Path) -> None:
        """Write all of it, unless only a part of the tests has run: then the last whole run stands."""
        if set(self.sections) != set(SECTIONS):
            return
        lines = []
        for section in SECTIONS:
            lines += [f"## {section}", "", "| what | measured |", "| --- | --- |"]
            lines += [f"| {what} | {measured} |" for what, measured in self.sections[section]]
            lines.append("")
        tables = MARK + "\n" + "\n".join(lines)
        for path in (root / "reports" / "cluster.md", root / "docs" / "explanation" / "elasticity.md"):
            head = path.read_text().partition(MARK)[0]
            path.write_text(head + tables)
