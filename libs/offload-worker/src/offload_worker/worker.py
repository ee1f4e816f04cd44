"""A worker: its task types, what they work with, and how it runs."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from offload_core import logs
from offload_core.settings import FleetSettings, SettingsError, old_names
from offload_worker import celery_telemetry, drain
from offload_worker.celery_app import create_app
from offload_worker.steps import Policy, register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offload_contracts.contract import Message, Queue, Result, TaskContract
    from offload_worker.celery_app import OffloadApp
    from offload_worker.steps import Run

logger = logging.getLogger(__name__)


class _TaskType(NamedTuple):
    contract: TaskContract[Any, Any]
    function: Callable[..., Any]
    policy: Callable[[Any], Policy]


class Worker[S: FleetSettings, C]:
    """A worker service. Its functions are decorated with `task`; `main` runs it.

    `settings` is read from the environment at start. `resources` makes, once a process, what the functions work with:
    each run has it as `Run.resources`. `queues` are all that the service can serve, of which the fleet's settings may
    name some. `pool` is that of ``celery worker``.
    """

    def __init__(
        self,
        name: str,
        settings: type[S],
        resources: Callable[[S], C],
        *,
        queues: Sequence[Queue],
        pool: str,
    ) -> None:
        """Describe the worker; nothing is read or connected yet."""
        self.name = name
        self.queues = tuple(queues)
        self._settings = settings
        self._resources = resources
        self._pool = pool
        self._task_types: list[_TaskType] = []

    def task[M: Message, R: Result](
        self, contract: TaskContract[M, R], *, policy: Callable[[S], Policy] = Policy.of
    ) -> Callable[[Callable[[M, Run[C]], R]], Callable[[M, Run[C]], R]]:
        """Make a function the one that does a contract's work; what happens when it fails is the `policy`."""

        def decorate(function: Callable[[M, Run[C]], R]) -> Callable[[M, Run[C]], R]:
            self._task_types.append(_TaskType(contract, function, policy))
            return function

        return decorate

    def create(self, settings: S) -> OffloadApp:
        """Return the worker's Celery application, with its tasks."""
        logs.configure(self.name, settings.log_level)
        for old, name in old_names(self._settings).items():
            if old in os.environ:
                logger.warning("%s is called %s now: the old name is not read by the next release", old, name)
        app = create_app(self.name, settings, worker=settings)
        resources = self._resources(settings)
        for one in self._task_types:
            register(app, one.contract, one.function, one.policy(settings), resources)
        celery_telemetry.instrument(self.name, self._pool)
        return app

    def main(self, arguments: Sequence[str]) -> NoReturn:
        """Run until told to stop, and exit. `arguments` go to ``celery worker`` after ours.

        Gossip, mingle and heartbeats are off: their chatter grows with the square of the pods, and nothing here needs
        it.

        Raises:
            SettingsError: when a setting is wrong, or names a queue of another service.

        """
        # Not `celery.bin.celery`: it has all of Celery's commands, and for one of them it imports a shell, which is a
        # third of a worker's start.
        from celery.bin.base import CLIContext
        from celery.bin.worker import worker

        settings = self._settings()
        foreign = set(settings.queues) - set(self.queues)
        if foreign:
            message = f"OFFLOAD_QUEUES: {self.name} serves {', '.join(self.queues)}, not {', '.join(sorted(foreign))}"
            raise SettingsError(message)
        app = self.create(settings)
        drain.install(settings.drain_seconds)
        # Not `app.worker_main`: it drops the exit code, and a worker that has failed would end as one told to.
        sys.exit(
            worker.main(
                args=[
                    "--pool", self._pool, "--concurrency", str(settings.concurrency),
                    "--queues", ",".join(settings.queues or self.queues), "--loglevel", settings.log_level,
                    "--without-gossip", "--without-mingle", "--without-heartbeat", *arguments,
                ],
                prog_name=self.name,
                standalone_mode=False,
                obj=CLIContext(app, no_color=False, workdir=None),
            )
        )  # fmt: skip
