"""The housekeeper's tasks: unwrap the message, call one function, wrap the result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from housekeeper import bulk as bulks
from housekeeper import clean_up as cleaning
from housekeeper import daily_report
from housekeeper.app import worker
from offload_contracts.maintenance import (
    CHECK_HEALTH,
    CLEAN_UP,
    REPORT_DAILY,
    RUN_BULK,
    CleanUp,
    HealthCheck,
    Report,
    RunBulk,
    Swept,
)
from offload_core.blobs import BlobError
from offload_core.errors import TemporaryError
from offload_worker.policy import Policy

if TYPE_CHECKING:
    from housekeeper.app import Resources
    from housekeeper.settings import HousekeeperSettings
    from offload_worker import Run


def _policy(settings: HousekeeperSettings) -> Policy:
    return Policy.of(settings, settings.maintenance_deadline_seconds)


@worker.task(CHECK_HEALTH, policy=_policy)
def check_health(_message: HealthCheck, run: Run[Resources]) -> Swept:
    """Begin to look at what Offload stands on."""
    return Swept(figures={"started": float(run.resources.health.start())})


@worker.task(REPORT_DAILY, policy=_policy)
def report(message: Report, run: Run[Resources]) -> Swept:
    """Have yesterday's figures mailed."""
    if not message.recipients:
        return Swept(figures={"recipients": 0})
    settings, client = run.resources.settings, run.resources.client
    task_id = daily_report.mail(settings, client, message.recipients, run.task_id, datetime.now(UTC))
    return Swept(figures={"recipients": len(message.recipients), "mail": task_id})


@worker.task(CLEAN_UP, policy=_policy)
def clean_up(message: CleanUp, run: Run[Resources]) -> Swept:
    """Delete files that nothing needs any more."""
    resources = run.resources
    try:
        figures = cleaning.clean_up(
            resources.settings, resources.client, resources.store, thorough=message.thorough, now=datetime.now(UTC)
        )
    except BlobError:
        raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None
    return Swept(figures=figures)


@worker.task(RUN_BULK, policy=_policy)
def run_bulk(message: RunBulk, run: Run[Resources]) -> Swept:
    """Go on with a bulk operation."""
    resources = run.resources
    try:
        figures = bulks.run(resources.settings, resources.client, resources.store, message.bulk_id)
    except BlobError:
        raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None
    return Swept(figures=figures)
