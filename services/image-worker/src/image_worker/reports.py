"""Reports, as a pure function: a PDF with a chart and a table, the same bytes for the same request."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reportlab.graphics import renderPDF
from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.shapes import Drawing
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEDIA_TYPE = "application/pdf"
ROWS_ON_A_PAGE = 48
_WIDTH, _HEIGHT = A4
_LEFT, _TOP, _LINE = 20 * mm, _HEIGHT - 22 * mm, 5.2 * mm
_COLUMNS = (("No.", 0), ("Month", 22), ("Article", 50), ("Pieces", 120), ("Amount", 165))
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; the amount is in cents."""

    number: int
    month: int
    article: str
    pieces: int
    amount: int


@dataclass(frozen=True, slots=True)
class Pdf:
    """A rendered report."""

    data: bytes
    pages: int


def rows(title: str, count: int) -> Iterator[Row]:
    """Yield the rows of a title: always the same ones."""
    chance = random.Random(title)  # noqa: S311 -- figures, no secret
    for number in range(1, count + 1):
        pieces = chance.randint(1, 40)
        yield Row(
            number,
            chance.randrange(12),
            f"Article {chance.randint(100, 999)}",
            pieces,
            pieces * chance.randint(99, 9_999),
        )


def render(title: str, count: int, progress: Callable[[int, int], None]) -> Pdf:
    """Return the PDF. `progress` is told after each page: rows done, and all rows.

    The file holds no date and no random id, so that a second run gives the same bytes.
    """
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)
    canvas.setTitle(title)
    canvas.setAuthor("Offload")
    table = list(rows(title, count))
    _cover(canvas, title, table)
    pages = 1
    for start in range(0, count, ROWS_ON_A_PAGE):
        _page(canvas, title, table[start : start + ROWS_ON_A_PAGE], pages + 1)
        pages += 1
        progress(min(start + ROWS_ON_A_PAGE, count), count)
    canvas.save()
    return Pdf(buffer.getvalue(), pages)


def _cover(canvas: Canvas, title: str, table: list[Row]) -> None:
    totals = [0] * 12
    for row in table:
        totals[row.month] += row.amount
    canvas.setFont("Helvetica-Bold", 20)
    canvas.drawString(_LEFT, _TOP, title)
    canvas.setFont("Helvetica", 11)
    canvas.drawString(_LEFT, _TOP - 9 * mm, f"{len(table):,} rows, {sum(totals) / 100:,.2f} in all")
    drawing = Drawing(170 * mm, 90 * mm)
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 18 * mm, 12 * mm, 148 * mm, 72 * mm
    chart.data = [[total / 100 for total in totals]]
    chart.categoryAxis.categoryNames = list(_MONTHS)
    chart.valueAxis.valueMin = 0
    chart.valueAxis.labelTextFormat = "%d"
    chart.bars[0].fillColor = colors.HexColor("#2f6f8f")
    drawing.add(chart)
    renderPDF.draw(drawing, canvas, _LEFT, _TOP - 110 * mm)
    canvas.showPage()


def _page(canvas: Canvas, title: str, table: list[Row], number: int) -> None:
    y = _TOP
    canvas.setFont("Helvetica-Bold", 9)
    for name, offset in _COLUMNS:
        draw = canvas.drawRightString if name in {"Pieces", "Amount"} else canvas.drawString
        draw(_LEFT + offset * mm, y, name)
    canvas.line(_LEFT, y - 1.5 * mm, _LEFT + 165 * mm, y - 1.5 * mm)
    canvas.setFont("Helvetica", 9)
    for row in table:
        y -= _LINE
        canvas.drawString(_LEFT, y, f"{row.number:,}")
        canvas.drawString(_LEFT + 22 * mm, y, _MONTHS[row.month])
        canvas.drawString(_LEFT + 50 * mm, y, row.article)
        canvas.drawRightString(_LEFT + 120 * mm, y, str(row.pieces))
        canvas.drawRightString(_LEFT + 165 * mm, y, f"{row.amount / 100:,.2f}")
    canvas.setFont("Helvetica", 8)
    canvas.drawString(_LEFT, 12 * mm, title)
    canvas.drawRightString(_LEFT + 165 * mm, 12 * mm, str(number))
    canvas.showPage()
