"""Invoices as PDF, as a pure function: the same invoice gives the same bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

if TYPE_CHECKING:
    from acme.contract import Invoice


def render(invoice: Invoice) -> bytes:
    """Return the PDF: one line of text for each line of the invoice, and the sum."""
    buffer = io.BytesIO()
    # Neither a date nor a random id: a second run of the task gives the same file.
    canvas = Canvas(buffer, pagesize=A4, invariant=1)
    y = A4[1] - 25 * mm
    canvas.setFont("Helvetica-Bold", 16)
    canvas.drawString(20 * mm, y, f"Invoice {invoice.number}")
    canvas.setFont("Helvetica", 11)
    canvas.drawString(20 * mm, y - 8 * mm, invoice.customer)
    y -= 24 * mm
    total = sum(line.cents for line in invoice.lines)
    for text, cents in [*((line.text, line.cents) for line in invoice.lines), ("Total", total)]:
        canvas.drawString(20 * mm, y, text)
        canvas.drawRightString(190 * mm, y, f"{cents / 100:,.2f}")
        y -= 6 * mm
    canvas.save()
    return buffer.getvalue()
