"""Acme's task types, without Redis: retries, later steps and files are as they are in production."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from acme.contract import Badge, Invoice, Line
from acme.worker import worker
from offload_worker.testing import Testbed

if TYPE_CHECKING:
    from collections.abc import Iterator

INVOICE = Invoice(number="2026-17", customer="Ann", lines=[Line(text="Paper", cents=1250), Line(text="Ink", cents=99)])


@pytest.fixture
def testbed() -> Iterator[Testbed]:
    """Offload in memory, with this worker."""
    with Testbed(worker) as made:
        yield made


def test_an_invoice_becomes_a_pdf_and_is_mailed(testbed: Testbed) -> None:
    mailed = testbed.stub("mail.notify.v1", {})
    done = testbed.run_workflow([("invoice.render.v1", INVOICE), ("mail.notify.v1", {"to": "ann@example.com"})])
    assert done.state == "SUCCESS"
    assert testbed.read_output(done.outputs[0]).startswith(b"%PDF-")
    assert mailed == [{"to": "ann@example.com"}]


def test_a_killed_worker_makes_the_same_file_again(testbed: Testbed) -> None:
    testbed.kill("invoice.render.v1")
    done = testbed.run("invoice.render.v1", INVOICE)
    assert done.result["total_cents"] == 1349
    assert [one.name for one in done.outputs] == [one.name for one in testbed.run("invoice.render.v1", INVOICE).outputs]


def test_badges_are_archived(testbed: Testbed) -> None:
    branches = [("badge.draw.v1", Badge(name=name, side=120)) for name in ("Ann", "Bob")]
    done = testbed.run_workflow([branches, ("files.archive.v1", {})])
    archive = zipfile.ZipFile(io.BytesIO(testbed.read_output(done.outputs[-1])))
    assert sorted(archive.namelist()) == sorted(done.result["files"])
    assert len(archive.namelist()) == len(branches)
    with Image.open(io.BytesIO(archive.read(archive.namelist()[0]))) as image:
        assert image.size == (120, 120)


def test_an_archive_of_nothing_fails_with_a_code(testbed: Testbed) -> None:
    done = testbed.run("files.archive.v1", {})
    assert done.error is not None
    assert (done.state, done.error["code"], done.attempts) == ("FAILURE", "archive.empty", [1])
