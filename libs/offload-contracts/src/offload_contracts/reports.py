"""Reports: a PDF with a table and a chart."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from offload_contracts.contract import Message, Queue, TaskContract
from offload_contracts.images import Outputs

MAX_ROWS = 100_000


class RenderReport(Message):
    """Render a report of so many rows, made from the title: the same request gives the same file."""

    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]
    title: Annotated[str, Field(min_length=1, max_length=200)] = "Report"


RENDER_REPORT = TaskContract("report.render.v1", Queue.REPORTS, RenderReport, Outputs)
