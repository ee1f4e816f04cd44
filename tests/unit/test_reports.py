"""Reports: the same request gives the same bytes, and progress is told."""

from __future__ import annotations

from image_worker import reports


def nothing(done: int, total: int) -> None:
    """Be told of progress."""


def test_a_report_has_a_cover_and_a_page_for_each_48_rows():
    assert [reports.render("Sales", rows, nothing).pages for rows in (1, 48, 49, 480)] == [2, 2, 3, 11]


def test_the_same_request_gives_the_same_bytes():
    first, second = reports.render("Sales", 100, nothing), reports.render("Sales", 100, nothing)
    assert first.data == second.data
    assert first.data.startswith(b"%PDF-")
    assert first.data != reports.render("Costs", 100, nothing).data


def test_progress_ends_at_the_last_row():
    seen = []
    reports.render("Sales", 100, lambda done, total: seen.append((done, total)))
    assert seen == [(48, 100), (96, 100), (100, 100)]


def test_the_title_holds_whatever_was_asked():
    assert reports.render("Größe & <b>Preis</b> — 日本", 3, nothing).data.startswith(b"%PDF-")
