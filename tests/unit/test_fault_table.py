"""The fault table keeps what was seen on a cluster when the other faults are made again."""

from __future__ import annotations

from faults.report import MARK, ON_A_CLUSTER, kept

LOCAL, OTHER, KILLED, UPGRADED = (
    f"| {fault} | some load |" for fault in ("kill", "cut", f"{ON_A_CLUSTER}kill", f"{ON_A_CLUSTER}upgrade")
)
REPORT = f"text\n{MARK}\n| fault | load |\n| --- | --- |\n{LOCAL}\n{OTHER}\n{KILLED}\n{UPGRADED}\n\n2 cores.\n"


def test_a_run_without_a_cluster_keeps_its_rows_alone():
    assert kept(REPORT, [LOCAL]) == [KILLED, UPGRADED]


def test_a_run_on_a_cluster_keeps_all_but_what_it_has_made_again():
    assert kept(REPORT, [UPGRADED.replace("some", "more")]) == [LOCAL, OTHER, KILLED]
