"""Acme's worker: ``python -m offload_worker acme.worker:worker``."""

from __future__ import annotations

import asyncio
import io
import zipfile

from acme import badges, invoices
from acme.contract import Archive, Archived, Badge, Drawn, Invoice, Rendered
from offload_worker import PermanentError, Run, Worker

worker = Worker("acme-worker", pool="prefork")


@worker.task("invoice.render.v1", queue="invoices", max_attempts=4, backoff_seconds=60, soft_time_limit_seconds=60)
def render_invoice(invoice: Invoice, run: Run) -> Rendered:
    """Render an invoice to a PDF."""
    run.write_output("invoice", invoices.render(invoice), "application/pdf", pages=1)
    run.logger.info("rendered %s", invoice.number)
    return Rendered(number=invoice.number, total_cents=sum(line.cents for line in invoice.lines))


@worker.task("badge.draw.v1", queue="badges")
def draw_badge(badge: Badge, run: Run) -> Drawn:
    """Draw a badge; a step after it can make a thumbnail of it."""
    run.write_output("badge", badges.draw(badge.name, badge.side), "image/png", width=badge.side, height=badge.side)
    return Drawn(name=badge.name)


@worker.task("files.archive.v1", queue="badges")
async def archive_files(archive: Archive, run: Run) -> Archived:
    """Put all files that the steps before have made into one ZIP."""
    files = run.outputs.outputs
    if not files:
        raise PermanentError("archive.empty", "the steps before have made no file")
    # The store's client waits in threads: all files come at once.
    contents = await asyncio.gather(*(asyncio.to_thread(run.read_output, one) for one in files))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for number, (file, content) in enumerate(zip(files, contents, strict=True), 1):
            # Without a date: a second run of the task gives the same file.
            packed.writestr(zipfile.ZipInfo(file.name), content)
            run.progress(number, len(files))
    run.write_output(archive.label, buffer.getvalue(), "application/zip")
    return Archived(files=[file.name for file in files])
