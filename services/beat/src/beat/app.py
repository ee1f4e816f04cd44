"""Wiring of beat: settings, schedules, Celery application."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from celery.beat import Service

from beat import built_in
from beat.scheduler import OccurrenceScheduler
from offload_core import logs
from offload_worker.celery_app import create_app

if TYPE_CHECKING:
    from beat.settings import BeatSettings
    from offload_worker.celery_app import OffloadApp

SERVICE = "beat"


def create(settings: BeatSettings) -> OffloadApp:
    """Return beat's application."""
    logs.configure(SERVICE, settings.log_level)
    return create_app(SERVICE, settings, worker=settings)


def service(app: OffloadApp, settings: BeatSettings) -> Service:
    """Return the running beat: ``start()`` blocks, ``stop()`` ends it.

    Raises:
        SettingsError: for a schedule that never comes true.

    """
    scheduler = partial(OccurrenceScheduler, built_in=built_in.definitions(settings, datetime.now(UTC)))
    return Service(app, max_interval=1, scheduler_cls=scheduler)
