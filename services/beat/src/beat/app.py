"""Wiring of beat: settings, schedules, Celery application."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from celery.beat import Service

from beat.scheduler import OccurrenceScheduler
from beat.schedules import Cron, Every, Schedule
from offload_contracts.maintenance import CHECK_HEALTH, CLEAN_UP, REPORT_DAILY, CleanUp, HealthCheck, Report
from offload_core import logs
from offload_core.messages import NewStep
from offload_worker.celery_app import create_app

if TYPE_CHECKING:
    from beat.settings import BeatSettings
    from offload_worker.celery_app import OffloadApp

SERVICE = "beat"


def schedules(settings: BeatSettings) -> tuple[Schedule, ...]:
    """Return what is done again and again."""
    zone = ZoneInfo(settings.time_zone)
    report = Report(recipients=settings.report_recipients)
    clean_up_grace = timedelta(seconds=settings.clean_up_grace_seconds)
    return (
        Schedule(
            "health", Every(settings.health_interval_seconds), NewStep.of(CHECK_HEALTH, HealthCheck()), timedelta()
        ),
        Schedule(
            "daily-report",
            Cron(settings.report_cron, zone),
            NewStep.of(REPORT_DAILY, report),
            timedelta(seconds=settings.report_grace_seconds),
        ),
        Schedule(
            "nightly-clean-up",
            Cron(settings.nightly_clean_up_cron, zone),
            NewStep.of(CLEAN_UP, CleanUp()),
            clean_up_grace,
        ),
        Schedule(
            "weekly-clean-up",
            Cron(settings.weekly_clean_up_cron, zone),
            NewStep.of(CLEAN_UP, CleanUp(thorough=True)),
            clean_up_grace,
        ),
    )


def create(settings: BeatSettings) -> OffloadApp:
    """Return beat's application."""
    logs.configure(SERVICE, settings.log_level)
    return create_app(SERVICE, settings, worker=settings)


def service(app: OffloadApp, settings: BeatSettings) -> Service:
    """Return the running beat: ``start()`` blocks, ``stop()`` ends it."""
    scheduler = partial(OccurrenceScheduler, built_in=schedules(settings))
    return Service(app, max_interval=1, scheduler_cls=scheduler)
