"""What a post of a report may ask for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from gateway.intake.fields import INTEGRAL, USER_ID, Line, TaskRequest, UserId
from offload_contracts.address import Address
from offload_contracts.reports import MAX_ROWS


class ReportRequest(TaskRequest):
    """One report."""

    rows: Annotated[int, Field(ge=1, le=MAX_ROWS), INTEGRAL] = Field(description="Number of rows of the table.")
    title: Line = "Report"
    notify: Address | None = Field(default=None, description="E-mail this address when the task has failed.")
    user_id: UserId | None = USER_ID


REPORT: TypeAdapter[ReportRequest] = TypeAdapter(ReportRequest)
