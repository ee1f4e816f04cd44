"""Posting a report: read and check the request, accept a task of one step, answer 202."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway import dependencies, openapi
from gateway.intake.bodies import json_body
from gateway.reports import schemas
from gateway.tasks import service
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core.messages import NewStep

router = APIRouter(prefix="/v1/reports", tags=["tasks"])


@openapi.accepts_task(router, openapi.json_request(schemas.ReportRequest))
async def post_report(request: Request) -> Response:
    """Render a PDF report with a chart and a table."""
    caller = dependencies.caller(request)
    options = await json_body(request, schemas.REPORT)
    return await service.accept_json(
        request,
        caller,
        "report",
        [NewStep.of(RENDER_REPORT, RenderReport(rows=options.rows, title=options.title))],
        options,
        user_id=options.user_id,
        notify=options.notify,
        retain_ms=dependencies.of(request).settings.output_retention_ms,
    )
