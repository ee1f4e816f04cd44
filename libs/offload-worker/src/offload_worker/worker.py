"""A worker: its task types, what they work with, and how it runs."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import typing
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Unpack

from pydantic import BaseModel
from typing_extensions import TypeVar

from offload_contracts.contract import Result, TaskContract
from offload_core import logs
from offload_core.blobs import BlobStore
from offload_core.catalogue import TaskType
from offload_core.errors import PermanentError
from offload_core.settings import BlobSettings, FleetSettings, SettingsError, old_names
from offload_worker import celery_telemetry, drain, registration
from offload_worker.celery_app import create_app
from offload_worker.lifespan import Lifespan
from offload_worker.policy import Policy, TaskOptions
from offload_worker.steps import register
from offload_worker.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offload_worker.celery_app import OffloadApp
    from offload_worker.lifespan import Resources

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=FleetSettings, default=FleetSettings)
C = TypeVar("C", default=None)


class Nothing(Result):
    """The result of a function that returns None."""


class _Registered(NamedTuple):
    contract: TaskContract[Any, Any]
    function: Callable[..., Any]
    policy: Callable[[Any], Policy]


class Worker(Generic[S, C]):
    """A worker service. Its functions are decorated with `task`; `main` runs it.

    `settings` is read from the environment at start. `lifespan` is a context manager, asynchronous or not, that is
    opened in each process which runs functions: what it gives they have as `Run.resources`. `queues` are what it can
    serve beside those of its task types. `pool` is ``prefork`` (processes), ``threads``, or ``asyncio``: coroutine
    functions on one event loop, for hundreds of slow requests at once; it needs ``offload-worker[asyncio]``.
    """

    def __init__(
        self,
        name: str,
        settings: type[S] = FleetSettings,  # type: ignore[assignment]  # the default of S
        lifespan: Callable[[S], Resources[C]] | None = None,
        *,
        queues: Sequence[str] = (),
        pool: str = "prefork",
    ) -> None:
        """Describe the worker; nothing is read or connected yet."""
        self.name = name
        self._queues = tuple(str(queue) for queue in queues)
        self.settings_class = settings
        self.lifespan = lifespan
        self._pool = pool
        self._registered: dict[str, _Registered] = {}

    @property
    def queues(self) -> tuple[str, ...]:
        """All that it can serve, of which the fleet's settings may name some."""
        own = (str(one.contract.queue) for one in self._registered.values())
        return tuple(dict.fromkeys((*self._queues, *own)))

    @property
    def contracts(self) -> tuple[TaskContract[Any, Any], ...]:
        """The contracts of its task types."""
        return tuple(one.contract for one in self._registered.values())

    def task[F: Callable[..., Any]](
        self,
        task_type: str | TaskContract[Any, Any],
        *,
        queue: str | None = None,
        policy: Callable[[S], Policy] | None = None,
        **options: Unpack[TaskOptions],
    ) -> Callable[[F], F]:
        """Make a function the one that does the work of a task type.

        A name, ``noun.verb.vN``, takes the models of input and result from the function's annotations, and needs the
        `queue`; a contract has all of it. What happens when the function fails is said by the `options`, or by a
        `policy` of the settings.

        Raises:
            TypeError: when the function's annotations do not say what it takes and gives.
            ValueError: for a name, a queue or an option that cannot be.

        """

        def decorate(function: F) -> F:
            if self._pool == "asyncio" and not inspect.iscoroutinefunction(function):
                message = f"{task_type}: {function.__name__} must be `async def` in the pool asyncio"
                raise TypeError(message)
            contract = task_type
            if isinstance(contract, str):
                if queue is None:
                    message = f"{contract}: say in which queue it waits"
                    raise ValueError(message)
                contract = TaskContract(contract, queue, *_models(contract, function))
            if contract.name in self._registered:
                message = f"{contract.name} has two functions"
                raise ValueError(message)
            # At import, so that a wrong option is found by whoever writes it.
            Policy.with_options(_Defaults(), options, self._pool)  # type: ignore[arg-type]  # all that it reads

            def of_settings(settings: S) -> Policy:
                return policy(settings) if policy else Policy.with_options(settings, options, self._pool)

            takes_run = len(inspect.signature(function).parameters) > 1
            called = function if takes_run else functools.wraps(function)(_without_run(function))
            self._registered[contract.name] = _Registered(contract, called, of_settings)
            return function

        return decorate

    def function(self, name: str) -> Callable[..., Any]:
        """Return the function of a task type; it is called with the message and a `Run`."""
        return self._registered[name].function

    def policy(self, name: str, settings: S) -> Policy:
        """Return the policy of a task type."""
        return self._registered[name].policy(settings)

    def entries(self, settings: S) -> list[TaskType]:
        """Return what the catalogue is told of its task types; with settings, only of those whose queues they name."""
        served = settings.queues or self.queues
        return [
            TaskType.of(
                one.contract,
                service=self.name,
                fleet=settings.fleet or self.name,
                retry=one.policy(settings).as_entry(),
            )
            for one in self._registered.values()
            if str(one.contract.queue) in served
        ]

    def read_settings(self) -> S:
        """Read the settings from the environment.

        Raises:
            SettingsError: when one is wrong, or names a queue of another service.

        """
        settings = self.settings_class()
        foreign = set(settings.queues) - set(self.queues)
        if foreign:
            message = f"OFFLOAD_QUEUES: {self.name} serves {', '.join(self.queues)}, not {', '.join(sorted(foreign))}"
            raise SettingsError(message)
        return settings

    def create(self, settings: S) -> OffloadApp:
        """Return the worker's Celery application, with its tasks."""
        logs.configure(self.name, settings.log_level)
        for old, name in old_names(self.settings_class).items():
            if old in os.environ:
                logger.warning("%s is called %s now: the old name is not read by the next release", old, name)
        policies = {name: one.policy(settings) for name, one in self._registered.items()}
        app = create_app(
            self.name,
            settings,
            worker=settings,
            queues=self.queues,
            reads=Versions(self.contracts),
            run_limits={name: one.concurrency for name, one in policies.items() if one.concurrency is not None},
        )
        if self._pool == "asyncio":
            # Celery's command line knows no names but its own, and takes the setting in place of its default.
            app.conf.worker_pool = "offload_worker.asyncio_pool:TaskPool"
        make = self.lifespan
        lifespan = Lifespan(functools.partial(make, settings) if make else None)
        lifespan.follow(self._pool)
        store = functools.cache(functools.partial(_blob_store, settings))
        for name, one in self._registered.items():
            register(app, one.contract, one.function, policies[name], lifespan, store)
        celery_telemetry.instrument(self.name, self._pool)
        registration.install(settings, settings.fleet or self.name, self.entries(settings))
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

        settings = self.read_settings()
        app = self.create(settings)
        drain.install(settings.drain_seconds)
        # Not `app.worker_main`: it drops the exit code, and a worker that has failed would end as one told to.
        sys.exit(
            worker.main(
                args=[
                    "--pool", "prefork" if self._pool == "asyncio" else self._pool,
                    "--concurrency", str(settings.concurrency),
                    "--queues", ",".join(settings.queues or self.queues), "--loglevel", settings.log_level,
                    "--without-gossip", "--without-mingle", "--without-heartbeat", *arguments,
                ],
                prog_name=self.name,
                standalone_mode=False,
                obj=CLIContext(app, no_color=False, workdir=None),
            )
        )  # fmt: skip


class _Defaults(NamedTuple):
    """What a policy reads of the settings, while these are not there yet."""

    max_retries: int = 3
    retry_backoff_seconds: float = 60
    soft_time_limit_seconds: int = 300
    hard_time_limit_seconds: int = 360


def _models(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the models of a function's first parameter and of what it returns."""
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        # Imported for a type checker alone.
        message = f"{name}: the annotations of {function.__name__} must be known when it is decorated: {error}"
        raise TypeError(message) from None
    parameters = list(inspect.signature(function).parameters)
    given = hints.get(parameters[0]) if parameters else None
    returned = hints.get("return")
    taken = _model(given, f"{name}: annotate the first parameter of {function.__name__} with a pydantic model")
    if returned is type(None):
        return taken, Nothing
    result = _model(returned, f"{name}: annotate what {function.__name__} returns with a pydantic model, or None")
    if "outputs" in result.model_fields:
        wrong = f"{name}: the field outputs of {result.__name__} is Offload's own: call it something else"
        raise TypeError(wrong)
    return taken, result


def _model(annotation: object, otherwise: str) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    raise TypeError(otherwise)


def _without_run(function: Callable[[Any], Any]) -> Callable[[Any, object], Any]:
    """Return a function of message and run from one of a message alone."""
    if inspect.iscoroutinefunction(function):

        async def wait(message: Any, _: object) -> Any:  # noqa: ANN401 -- the function's own types
            return await function(message)

        return wait
    return lambda message, _: function(message)


def _blob_store(settings: FleetSettings) -> BlobStore:
    if isinstance(settings, BlobSettings):
        return BlobStore(settings)
    if "OFFLOAD_BLOB_URL" not in os.environ:
        raise PermanentError("blob.not_configured", "this fleet has no blob store: set OFFLOAD_BLOB_URL (needs: s3)")
    return BlobStore(BlobSettings())
