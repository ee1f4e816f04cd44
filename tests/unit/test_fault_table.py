"""The fault table keeps what was not made again: of a cluster always, of one machine where only a part was."""

from __future__ import annotations

from faults.report import EARLIER, MARK, ON_A_CLUSTER, merged

LOCAL, OTHER, KILLED, UPGRADED = (
    f"| {fault} | some load |" for fault in ("kill", "cut", f"{ON_A_CLUSTER}kill", f"{ON_A_CLUSTER}upgrade")
)
REPORT = f"text\n{MARK}\n| fault | load |\n| --- | --- |\n{LOCAL}\n{OTHER}\n{KILLED}\n{UPGRADED}\n\n2 cores.\n"


def again(row: str) -> str:
    return row.replace("some", "more")


def earlier(row: str) -> str:
    return row.replace(" | some", f"{EARLIER} | some")


def test_a_whole_run_keeps_the_rows_of_a_cluster_alone():
    assert merged(REPORT, [again(LOCAL)], is_part=False) == [again(LOCAL), KILLED, UPGRADED]


def test_a_part_takes_its_places_and_marks_the_others():
    new = "| new | some load |"
    assert merged(REPORT, [new, again(OTHER)], is_part=True) == [earlier(LOCAL), again(OTHER), new, KILLED, UPGRADED]
    made = merged(REPORT, [again(UPGRADED)], is_part=True)
    assert made == [earlier(LOCAL), earlier(OTHER), KILLED, again(UPGRADED)]
    # And the mark goes when the fault is injected again.
    table = f"{MARK}\n| fault | load |\n| --- | --- |\n" + "\n".join(made)
    assert merged(table, [again(LOCAL)], is_part=True)[:2] == [again(LOCAL), earlier(OTHER)]
