"""The store of tasks in Redis: every change of a task is one script.

A script with its arguments is a value (`Call`) that either kind of client runs: the gateway's asynchronous one, and the
workers' own.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_leases.publish import load
from celery_leases.scripts import Argument, Script
from offload_core import keys
from offload_core.records import STATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis
    import redis.asyncio

    from offload_core.keys import Step
    from offload_core.messages import Envelope
    from offload_core.records import AdoptedTask, NewTask
    from offload_core.settings import Settings


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its arguments, to be run by either kind of client."""

    script: Script
    arguments: tuple[Argument, ...]

    def run(self, client: redis.Redis) -> Any:  # noqa: ANN401 -- Redis answers what the script returns
        """Run it."""
        return self.script(client, (), self.arguments)

    async def run_async(self, client: redis.asyncio.Redis) -> Any:  # noqa: ANN401 -- the same
        """Run it on an asynchronous client."""
        return await self.script.run_async(client, (), self.arguments)

    def command(self) -> list[Argument]:
        """Return the command that runs it by the script's digest."""
        return self.script.command((), self.arguments)


class TaskScript:
    """A script over tasks; with its arguments it gives a `Call`.

    Those on the way of every task take words, which cost less; the others take one request as JSON.
    """

    def __init__(self, path: str) -> None:
        """Take the script's file, as `celery_leases.publish.load` names it."""
        self._script = Script(load(path))

    def __call__(self, *arguments: Argument) -> Call:
        """Return the script with its arguments."""
        return Call(self._script, arguments)

    def of(self, **request: Any) -> Call:  # noqa: ANN401 -- what JSON can hold
        """Return the script with its request."""
        return Call(self._script, (json.dumps(request),))


_ACCEPT = TaskScript("offload_core/lua/accept.lua")
_ADOPT = TaskScript("offload_core/lua/adopt.lua")
_START = TaskScript("offload_core/lua/start.lua")
_FINISH = TaskScript("offload_core/lua/finish.lua")
_RETRY = TaskScript("offload_core/lua/retry.lua")
_PROGRESS = TaskScript("offload_core/lua/progress.lua")
_CANCEL = TaskScript("offload_core/lua/cancel.lua")
_LIST = TaskScript("offload_core/lua/list.lua")
_FORGET = TaskScript("offload_core/lua/forget.lua")
_MEND = TaskScript("offload_core/lua/mend.lua")
_ERASE = TaskScript("offload_core/lua/erase.lua")
_EXPIRE = TaskScript("offload_core/lua/expire.lua")
_REDRIVE = TaskScript("offload_core/lua/redrive.lua")
_DISCARD = TaskScript("offload_core/lua/discard.lua")


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one owner may post: so many tasks a second in the long run, and so many at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What refuses new tasks for now; 0 and None: nothing does."""

    # Messages that wait in one queue, and that are delayed in it.
    waiting: int = 0
    delayed: int = 0
    # Tasks of the owner that have not started.
    tenant_waiting: int = 0
    is_nearly_full: bool = False
    rate: Rate | None = None

    def words(self, prefix: str, owner: str) -> tuple[Argument, ...]:
        """Return what of it is the owner's, as the scripts that accept tasks read it."""
        rate = self.rate
        return (
            keys.rate(prefix, owner) if rate else "",
            1000 / rate.per_second if rate else 0,
            rate.burst if rate else 0,
            keys.tasks(prefix, owner, "PENDING"),
            self.tenant_waiting,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks a list shows: those of an owner or all (``""``), created between two times (ms, 0: any).

    Of each of `tags` a task has at least one.
    """

    owner: str
    states: tuple[str, ...] = STATES
    after: int = 0
    before: int = 0
    task: str = ""
    queue: str = ""
    error_code: str = ""
    trace_id: str = ""
    batch: str = ""
    schedule: str = ""
    tags: tuple[tuple[str, ...], ...] = ()


class Place(NamedTuple):
    """A place in a list: behind the task of this time (ms) and id."""

    created_at: int
    task_id: str


class Found(NamedTuple):
    """What one look at a list has found, and the place from which to go on."""

    examined: int
    is_end: bool
    place: Place
    # Of each task its id and its fields.
    rows: list[tuple[str, list[str | None]]]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Found:
        """Return what `TaskStore.find` has answered."""
        examined, is_end, created_at, task_id, *rows = answer
        return cls(
            examined,
            bool(is_end),
            Place(int(created_at), task_id.decode()),
            [(row[0].decode(), [value.decode() if value is not None else None for value in row[1:]]) for row in rows],
        )


@dataclass(frozen=True, slots=True)
class TaskStore:
    """The tasks under one key prefix. What each call answers stands at the head of its script.

    `run` is always the attempt and the delivery of the run that speaks: what it says is not stored once a later one has
    spoken.
    """

    prefix: str
    broker_prefix: str
    # How long a record is kept after its task's end.
    keep_ms: int = 0

    @classmethod
    def of(cls, settings: Settings) -> TaskStore:
        """Return the store that a service's settings name."""
        return cls(settings.key_prefix, settings.broker_prefix, settings.result_expires_seconds * 1000)

    def accept(
        self,
        task: NewTask,
        *,
        idempotency_key: str = "",
        fingerprint: str = "",
        limits: Limits = Limits(),
    ) -> Call:
        """Take a task: record, message and idempotency key, or nothing of it.

        The `idempotency_key` is the owner's own. The `limits` refuse nothing that was accepted before.
        """
        message, *further = task.envelopes
        return _ACCEPT(
            self.prefix, self.broker_prefix, task.task_id,
            message.queue, message.message_key, message.text, message.due_ms,
            keys.idempotency(self.prefix, task.owner, idempotency_key) if idempotency_key else "", fingerprint,
            limits.delayed if message.due_ms else limits.waiting, int(limits.is_nearly_full),
            *limits.words(self.prefix, task.owner),
            len(task.steps), task.expires_at or 0,
            len(further), *(part for one in further for part in (one.queue, one.message_key, one.text)),
            *task.fields(),
        )  # fmt: skip

    def adopt(self, task: AdoptedTask, message: Envelope, priority: int) -> Call:
        """Publish a message of an adopted Celery application, with the record of its task where it is the first."""
        return _ADOPT(
            self.prefix, self.broker_prefix, task.celery_id, task.root_id,
            message.queue, message.message_key, message.text, message.due_ms, priority,
            json.dumps(task.given), json.dumps(task.steps), *task.fields(message.due_ms),
        )  # fmt: skip

    def start(self, step: Step, run: tuple[int, int], worker: str, carried: object, *, traceparent: str = "") -> Call:
        """Ask whether a run of a step may begin. `carried` is the result of the step before."""
        return _START(
            self.prefix, self.broker_prefix, step.task_id, step.number, *run, worker, json.dumps(carried), self.keep_ms,
            traceparent,
        )  # fmt: skip

    def finish(
        self,
        step: Step,
        run: tuple[int, int],
        state: str,
        outcome: object,
        *,
        keep_ms: int | None = None,
        traceparent: str = "",
    ) -> Call:
        """Store how a step ended, with its result or its error.

        When it ends its stage the next one is published with it, and when it ends its task what the task's
        subscriptions ask for: both within this trace.
        """
        return _FINISH(
            self.prefix, self.broker_prefix, step.task_id, step.number, *run,
            state, json.dumps(outcome), keep_ms or self.keep_ms, traceparent,
        )  # fmt: skip

    def retry(self, step: Step, run: tuple[int, int], error: Mapping[str, Any], retry_at_ms: int) -> Call:
        """Store that a step failed and is tried again."""
        attempt, delivery = run
        return _RETRY.of(
            prefix=self.prefix,
            task_id=step.task_id,
            step=step.number,
            attempt=attempt,
            delivery=delivery,
            error=json.dumps(error),
            retry_at=retry_at_ms,
        )

    def progress(self, step: Step, run: tuple[int, int], done: int, total: int) -> Call:
        """Store how far a step is."""
        return _PROGRESS(self.prefix, step.task_id, step.number, *run, done, total)

    def cancel(self, task_id: str) -> Call:
        """Cancel a task: at once where it waits, else with the step that runs."""
        return _CANCEL.of(prefix=self.prefix, broker_prefix=self.broker_prefix, task_id=task_id, keep_ms=self.keep_ms)

    def erase(self, task_id: str) -> Call:
        """Erase what a task that has ended was given and what it gave."""
        return _ERASE.of(prefix=self.prefix, broker_prefix=self.broker_prefix, task_id=task_id)

    def expire(self, limit: int = 100) -> Call:
        """End tasks that were not started in time, as many at most."""
        return _EXPIRE.of(prefix=self.prefix, broker_prefix=self.broker_prefix, keep_ms=self.keep_ms, limit=limit)

    def find(
        self,
        wanted: Wanted,
        fields: Sequence[str],
        *,
        limit: int,
        examine: int,
        place: Place | None = None,
        newer: bool = False,
    ) -> Call:
        """Look for tasks behind a place, the newest first; with `newer` the other way. `Found` reads the answer.

        It looks at so many tasks at most. `fields` are those of the record; the first one is in every record.
        """
        return _LIST.of(
            prefix=self.prefix, direction="newer" if newer else "older", **{"from": place},
            **dataclasses.asdict(wanted), fields=fields, limit=limit, examine=examine,
        )  # fmt: skip

    def forget(self, limit: int = 1000) -> Call:
        """Take tasks whose records have expired out of the lists, as many at most. Answers how many there were."""
        return _FORGET.of(prefix=self.prefix, limit=limit)

    def mend(self, owner: str, state: str, task_ids: Sequence[str]) -> Call:
        """Put right the places of tasks in the list of a state. Answers how many were wrong."""
        return _MEND.of(prefix=self.prefix, owner=owner, state=state, task_ids=task_ids)

    def redrive(self, queue: str, message_key: str) -> Call:
        """Bring a dead letter back, with its task."""
        return _REDRIVE.of(**self._letter(queue, message_key))

    def discard(self, queue: str, message_key: str) -> Call:
        """Delete a dead letter; its task's record lives on as long as any other."""
        return _DISCARD.of(**self._letter(queue, message_key), keep_ms=self.keep_ms)

    def _letter(self, queue: str, message_key: str) -> dict[str, str]:
        return {
            "prefix": self.prefix, "broker_prefix": self.broker_prefix, "queue": queue, "message_key": message_key,
            # The message key is the step's id, the attempt and how often it was replaced.
            "celery_id": message_key.rsplit(":", 2)[0],
        }  # fmt: skip
