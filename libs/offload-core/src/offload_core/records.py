"""Task records: what they begin with, and what they hold. The `TaskStore` changes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offload_core import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_leases.scripts import Argument
    from offload_core.messages import Envelope, NewStep, Stage

STATES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED")
TERMINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
# The kind of the tasks of adopted Celery applications.
ADOPTED = "celery"
# What ``self.replace()`` of Celery publishes counts its attempts from so many on: it comes after all of the task
# that it replaces.
REPLACED = 1_000_000
# The delivery of what the broker says of a step whose message it has given up: no run's comes after it.
BURIED = 2**31


@dataclass(frozen=True, slots=True)
class Subscription:
    """A task of one step that is published when another one ends: with that end, or not at all.

    Its message is the `message` of the step and, beside it, ``failed_task_id``, ``step``, ``code`` and ``reason`` of
    the end. Its id is that of the other task, a dash and the `name`; after each redrive another one.
    """

    name: str
    kind: str
    states: tuple[str, ...]
    contract: str
    queue: str
    message: Mapping[str, Any]
    # Not when a step of this queue ended the task.
    unless_queue: str | None = None

    def as_field(self) -> dict[str, Any]:
        """Return it as the record has it, and as the script that ends a task reads it."""
        found = {
            "name": self.name, "kind": self.kind, "states": self.states,
            "task": self.contract, "queue": self.queue, "arguments": self.message, "unless_queue": self.unless_queue,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be accepted."""

    task_id: str
    kind: str
    owner: str
    stages: tuple[Stage, ...]
    # The messages of the first stage.
    envelopes: tuple[Envelope, ...]
    # Of the messages of every stage, beside those that say which one it is.
    headers: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str = ""
    user_id: str | None = None
    notify: str | None = None
    parent_task_id: str | None = None
    # Whose item it is.
    batch: str | None = None
    # Whose occurrence it is, by name.
    schedule: str | None = None
    subscriptions: tuple[Subscription, ...] = ()
    upload: str | None = None
    upload_sha256: str | None = None
    # How long its outputs are kept: as long something of the task is left that says whose they are.
    retain_ms: int | None = None
    # How long the idempotency key lives, from when the task may start; None: by our own rule.
    idempotency_ttl_ms: int | None = None
    # By when (ms since the epoch) it must be started.
    expires_at: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    # Whom a webhook tells of its end.
    callback_url: str | None = None

    @property
    def steps(self) -> tuple[NewStep, ...]:
        """The steps of all stages, as they are numbered."""
        return tuple(step for stage in self.stages for step in stage)

    @property
    def messages(self) -> list[tuple[str, str, str]]:
        """The messages of the first stage as scripts take them: queue, message key, text."""
        return [(one.queue, one.message_key, one.text) for one in self.envelopes]

    def fields(self) -> list[Argument]:
        """Return the record's fields as Redis takes them: name, value, name, value."""
        steps: list[dict[str, Any]] = []
        fields: dict[str, str] = {"kind": self.kind, "owner": self.owner}
        for number, stage in enumerate(self.stages, 1):
            for step in stage:
                steps.append({"name": step.name, "queue": step.queue, "id": keys.step_id(self.task_id, len(steps) + 1)})
                steps[-1] |= {"stage": number} | ({"version": step.version} if step.version else {})
                # What a later stage is published with; and what a branch is, when another one is redriven.
                if number > 1 or len(stage) > 1:
                    fields[f"{len(steps)}:message"] = json.dumps(step.arguments)
        fields["steps"] = json.dumps(steps)
        optional = (
            "trace_id", "user_id", "notify", "parent_task_id", "batch", "schedule", "upload", "upload_sha256",
            "retain_ms", "expires_at", "idempotency_ttl_ms", "callback_url",
        )  # fmt: skip
        fields |= {name: str(value) for name in optional if (value := getattr(self, name))}
        for name in ("headers", "tags", "metadata"):
            if value := getattr(self, name):
                fields[name] = json.dumps(value)
        if self.subscriptions:
            fields["subscriptions"] = json.dumps([one.as_field() for one in self.subscriptions])
        if self.envelopes[0].due_ms:
            fields["due_at"] = str(self.envelopes[0].due_ms)
        return [part for pair in fields.items() for part in pair]


@dataclass(frozen=True, slots=True)
class AdoptedTask:
    """What a message of an adopted Celery application says of its task."""

    celery_id: str
    root_id: str
    # The step of this message, and those that its chain leads to: name, queue, id, and `immutable` where a step does
    # not take the result of the one before.
    steps: tuple[Mapping[str, Any], ...]
    owner: str
    # Its first argument as a step's result: of a later step of a chain, what the one before gave.
    given: Mapping[str, Any]
    trace_id: str = ""
    metadata: Mapping[str, Any] | None = None

    def fields(self, due_ms: int) -> list[Argument]:
        """Return the fields of a record as Redis takes them: name, value, name, value."""
        fields = {"kind": ADOPTED, "owner": self.owner}
        if self.trace_id:
            fields["trace_id"] = self.trace_id
        if self.metadata:
            fields["metadata"] = json.dumps(self.metadata)
        if due_ms:
            fields["due_at"] = str(due_ms)
        return [part for pair in fields.items() for part in pair]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as the record has it. Times are milliseconds since the epoch."""

    number: int
    name: str
    queue: str
    state: str
    attempt: int
    delivery: int
    started_at: int | None
    ended_at: int | None
    retry_at: int | None
    worker: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    progress: dict[str, int] | None
    # Steps of one stage are branches, which run at once.
    stage: int
    # Whether it is given the result of the step before.
    takes_result: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """A task as it stands."""

    task_id: str
    kind: str
    owner: str
    state: str
    created_at: int
    finished_at: int | None
    due_at: int | None
    cancel_requested: bool
    trace_id: str | None
    user_id: str | None
    notify: str | None
    parent_task_id: str | None
    batch: str | None
    schedule: str | None
    upload: str | None
    steps: tuple[StepRecord, ...]
    # Each time it came back from the dead letters: at, step, reason, deliveries, worker, died_at.
    redrives: tuple[dict[str, Any], ...] = ()
    expires_at: int | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    # When what it was given and what it gave were erased.
    erased_at: int | None = None

    @property
    def last_stage(self) -> tuple[StepRecord, ...]:
        """The step that ends the task, or its branches."""
        return tuple(step for step in self.steps if step.stage == self.steps[-1].stage)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """All files made so far: each step's result has its own and those of the stages before."""
        found: dict[str, dict[str, Any]] = {}
        for step in self.steps:
            for output in (step.result or {}).get("outputs", ()):
                found[output["name"]] = output
        return list(found.values())


def decode(task_id: str, raw: Mapping[Any, Any]) -> Record | None:
    """Return the record of a hash as Redis gives it; None when there is none."""
    fields = text_of(raw)
    if "state" not in fields:
        return None
    steps: Sequence[dict[str, Any]] = json.loads(fields["steps"])
    return Record(
        task_id=task_id,
        kind=fields["kind"],
        owner=fields["owner"],
        state=fields["state"],
        created_at=int(fields["created_at"]),
        finished_at=integer(fields.get("finished_at")),
        due_at=integer(fields.get("due_at")),
        cancel_requested="cancel_requested" in fields,
        trace_id=fields.get("trace_id"),
        user_id=fields.get("user_id"),
        notify=fields.get("notify"),
        parent_task_id=fields.get("parent_task_id"),
        batch=fields.get("batch"),
        schedule=fields.get("schedule"),
        upload=fields.get("upload"),
        erased_at=integer(fields.get("erased_at")),
        steps=tuple(_step(number, step, fields) for number, step in enumerate(steps, 1)),
        redrives=tuple(json.loads(fields.get("redrives", "[]"))),
        expires_at=integer(fields.get("expires_at")),
        tags=tuple(json.loads(fields.get("tags", "[]"))),
        metadata=_json(fields.get("metadata")),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a task whose record has expired. Times are milliseconds since the epoch."""

    task_id: str
    kind: str
    owner: str
    state: str
    created_at: int
    finished_at: int
    trace_id: str | None


def decode_ended(task_id: str, raw: Mapping[Any, Any]) -> Ended | None:
    """Return what is left of a task, from a hash as Redis gives it; None when there is nothing."""
    fields = text_of(raw)
    if "state" not in fields:
        return None
    return Ended(
        task_id,
        fields["kind"],
        fields["owner"],
        fields["state"],
        int(fields["created_at"]),
        int(fields["finished_at"]),
        fields["trace_id"] or None,
    )


def _step(number: int, step: Mapping[str, Any], fields: Mapping[str, str]) -> StepRecord:
    def own(name: str) -> str | None:
        return fields.get(f"{number}:{name}")

    return StepRecord(
        number=number,
        name=step["name"],
        queue=step["queue"],
        state=own("state") or "PENDING",
        attempt=int(own("attempt") or 0) % REPLACED,
        delivery=int(own("delivery") or 0),
        started_at=integer(own("started_at")),
        ended_at=integer(own("ended_at")),
        retry_at=integer(own("retry_at")),
        worker=own("worker"),
        result=_json(own("result")),
        error=_json(own("error")),
        progress=_json(own("progress")),
        stage=step.get("stage", number),
        takes_result=not step.get("immutable", False),
    )


def text_of(raw: Mapping[Any, Any]) -> dict[str, str]:
    """Return a hash as text, from what Redis gives."""
    return {name.decode(): value.decode() for name, value in raw.items()}


def integer(text: str | None) -> int | None:
    """Return a field that is a number; None where there is none."""
    return int(text) if text else None


def _json(text: str | None) -> dict[str, Any] | None:
    value: dict[str, Any] | None = json.loads(text) if text else None
    return value
