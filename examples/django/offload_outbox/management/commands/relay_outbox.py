"""``manage.py relay_outbox``: post what the outbox holds, until SIGTERM. Run one; a second does no harm."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand
from django.db import OperationalError, close_old_connections

from offload_outbox import outbox
from offload_outbox.client import Unavailable, connect

if TYPE_CHECKING:
    from argparse import ArgumentParser

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Posts what the outbox holds."""

    help = "Post what the outbox holds to Offload, until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say how often it looks."""
        parser.add_argument("--pause-seconds", type=float, default=0.5, help="pause between two looks (default: 0.5)")
        parser.add_argument("--once", action="store_true", help="end when nothing is left")

    def handle(self, *_: object, **options: Any) -> None:  # noqa: ANN401 -- Django's signature
        """Look, post, and wait."""
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        logger.info("relaying")
        with connect() as client:
            while not stopping.is_set():
                pause = options["pause_seconds"]
                try:
                    if outbox.relay(client):
                        continue
                except Unavailable as error:
                    pause = error.seconds
                except OperationalError as error:
                    logger.warning("waiting for the database: %s", error)
                    close_old_connections()
                if options["once"]:
                    return
                stopping.wait(pause)
