"""Maintenance: what beat asks for."""

from __future__ import annotations

from pydantic import Field

from offload_contracts.address import Address
from offload_contracts.contract import Message, Queue, Result, TaskContract


class HealthCheck(Message):
    """Look at Redis, the blob store and the SMTP server."""


class Report(Message):
    """Mail yesterday's figures to the operators."""

    recipients: tuple[Address, ...]


class CleanUp(Message):
    """Delete expired outputs, and blobs whose record is gone."""

    # The weekly run looks at every blob; the nightly one only at outputs past their retention.
    thorough: bool = False


class RunBulk(Message):
    """Go on with a bulk operation, which is in Redis."""

    bulk_id: str


class Swept(Result):
    """What a maintenance task found or did, by name."""

    figures: dict[str, float | str] = Field(default={})


CHECK_HEALTH = TaskContract("maintenance.health.v1", Queue.MAINTENANCE, HealthCheck, Swept, is_internal=True)
REPORT_DAILY = TaskContract("maintenance.report.v1", Queue.MAINTENANCE, Report, Swept, is_internal=True)
CLEAN_UP = TaskContract("maintenance.clean_up.v1", Queue.MAINTENANCE, CleanUp, Swept, is_internal=True)
RUN_BULK = TaskContract("maintenance.bulk.v1", Queue.MAINTENANCE, RunBulk, Swept, is_internal=True)
