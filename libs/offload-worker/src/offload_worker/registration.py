"""Telling the catalogue which task types this worker runs: when it starts, and again and again."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from celery import signals
from redis.exceptions import RedisError

from offload_core import catalogue
from offload_core.redis_client import cause, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload_core.catalogue import TaskType
    from offload_core.settings import FleetSettings

logger = logging.getLogger(__name__)


def install(settings: FleetSettings, fleet: str, task_types: Sequence[TaskType]) -> None:
    """Register the task types once this process's worker takes tasks, and every 15 s from then on."""

    def begin(**_: object) -> None:
        threading.Thread(target=_register, args=(settings, fleet, task_types), name="catalogue", daemon=True).start()

    if task_types:
        signals.worker_ready.connect(begin, weak=False)


def _register(settings: FleetSettings, fleet: str, task_types: Sequence[TaskType]) -> None:
    client, is_written = connect(settings), None
    pause = threading.Event()
    while True:
        try:
            catalogue.register(client, settings.key_prefix, fleet, task_types)
        except RedisError as error:
            if is_written is not False:
                logger.warning("the catalogue cannot be written (%s), which is tried again: %s", cause(error), error)
            is_written = False
        else:
            if not is_written:
                logger.info("registered in the catalogue: %s", ", ".join(one.name for one in task_types))
            is_written = True
        pause.wait(catalogue.REGISTER_SECONDS)
