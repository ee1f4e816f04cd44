"""Schedules of tenants: what is run when, and how far each is. All of it is in Redis."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from offload_core.messages import NewStep
from offload_core.records import integer, text_of
from offload_core.task_store import TaskScript
from offload_core.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from offload_core.publisher import Publisher
    from offload_core.records import NewTask
    from offload_core.task_store import Call, TaskStore

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_running", "allow"]
CatchUp = Literal["latest", "all"]
KIND = "task"
# The owner of schedules that Offload itself needs, and the kind of their tasks.
OURS, MAINTENANCE = "beat", "maintenance"
# Occurrences that wait for the one before, with `buffer_all`.
BUFFER_LIMIT = 100
# So many that were missed are counted, or caught up, in one look.
LOOK_LIMIT = 1_000
# An occurrence that is found this late was missed where nothing is caught up; a look takes a second at most.
PUNCTUAL_SECONDS = 10

_PUT = TaskScript("offload_core/lua/schedule_put.lua")
_PAUSE = TaskScript("offload_core/lua/schedule_pause.lua")
_OCCUR = TaskScript("offload_core/lua/schedule_occur.lua")
_BUFFER = TaskScript("offload_core/lua/schedule_buffer.lua")
_DELETE = TaskScript("offload_core/lua/schedule_delete.lua")


@dataclass(frozen=True, slots=True)
class Template:
    """The task of each occurrence."""

    name: str
    queue: str
    version: str
    arguments: Mapping[str, Any]
    headers: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    expires_in_ms: int = 0
    retain_ms: int | None = None
    kind: str = KIND


@dataclass(frozen=True, slots=True)
class Definition:
    """What a tenant asks for. Times are milliseconds since the epoch."""

    task: Template
    cron: str = ""
    every_seconds: int = 0
    time_zone: str = "UTC"
    starts_at: int | None = None
    ends_at: int | None = None
    max_runs: int | None = None
    jitter_seconds: int = 0
    overlap: Overlap = "skip"
    catch_up_seconds: int = 3600
    catch_up: CatchUp = "latest"
    pause_on_failure: bool = False

    @property
    def timing(self) -> Timing:
        """When its occurrences are."""
        return Timing(self.cron, self.every_seconds, self.time_zone, moment(self.starts_at), moment(self.ends_at))

    @classmethod
    def of(cls, text: str) -> Definition:
        """Return the definition of a record."""
        found: dict[str, Any] = json.loads(text)
        task = found.pop("task")
        return cls(task=Template(**task | {"tags": tuple(task["tags"])}), **found)

    def as_text(self) -> str:
        """Return it as the record has it."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands. Times are milliseconds since the epoch."""

    owner: str
    name: str
    definition: Definition
    revision: int
    created_at: int
    updated_at: int
    is_paused: bool
    note: str | None
    # Occurrences after this one are still to come.
    since: int
    last_task_id: str | None
    last_at: int | None
    runs: int
    skipped: int
    missed: int
    finished_at: int | None
    # Occurrences that wait for the one that runs.
    buffer: tuple[int, ...]

    @classmethod
    def new(
        cls,
        owner: str,
        name: str,
        definition: Definition,
        now: int,
        *,
        is_paused: bool = False,
        note: str | None = None,
        since: int | None = None,
    ) -> Schedule:
        """Return a schedule that is to be written now (ms); nothing of it has been run `since` then, or now."""
        since = now if since is None else since
        return cls(owner, name, definition, 0, now, now, is_paused, note, since, None, None, 0, 0, 0, None, ())

    @classmethod
    def of(cls, owner: str, name: str, found: Mapping[bytes, bytes]) -> Schedule | None:
        """Return the schedule of a hash in Redis; None where there is none."""
        text = text_of(found)
        if "definition" not in text:
            return None
        return cls(
            owner=owner,
            name=name,
            definition=Definition.of(text["definition"]),
            revision=int(text["revision"]),
            created_at=int(text["created_at"]),
            updated_at=int(text["updated_at"]),
            is_paused="paused" in text,
            note=text.get("note"),
            since=int(text["since"]),
            last_task_id=text.get("last_task_id"),
            last_at=integer(text.get("last_at")),
            runs=int(text.get("runs", 0)),
            skipped=int(text.get("skipped", 0)),
            missed=int(text.get("missed", 0)),
            finished_at=integer(text.get("finished_at")),
            buffer=tuple(json.loads(text.get("buffer", "[]"))),
        )

    @property
    def key(self) -> str:
        """What it is called among the schedules of all owners."""
        return f"{self.owner}:{self.name}"

    def due(self, occurrence: datetime) -> datetime:
        """Return when an occurrence is to be published: later by chance, but by the same for whoever asks."""
        jitter = self.definition.jitter_seconds
        if not jitter:
            return occurrence
        digest = hashlib.sha256(f"{self.key} {milliseconds(occurrence)}".encode()).digest()
        return occurrence + timedelta(seconds=jitter) * (int.from_bytes(digest[:4]) / 2**32)

    def occurrences(self, after: int) -> Iterator[datetime]:
        """Yield the occurrences after a time (ms)."""
        return self.definition.timing.after(datetime.fromtimestamp(after / 1000, UTC))

    def next_due(self, after: int) -> int | None:
        """Return when (ms) the first occurrence after a time is to be published; None when none comes any more."""
        found = next(self.occurrences(after), None)
        return milliseconds(self.due(found)) if found is not None else None

    def look(self, now: datetime) -> Look:
        """Return which occurrences are to be published now, and which were missed."""
        definition = self.definition
        within = timedelta(seconds=max(definition.catch_up_seconds, PUNCTUAL_SECONDS))
        # One of the future was run while Redis's clock was ahead: those up to it would never come.
        missed, first = 0, min(self.since, milliseconds(now))
        for occurrence in takewhile(lambda one: now - self.due(one) > within, self.occurrences(first)):
            missed, first = missed + 1, milliseconds(occurrence)
            if missed == LOOK_LIMIT:
                # They are not counted one by one for a year.
                first = max(first, milliseconds(now - within) - 1)
                break
        found: list[datetime] = []
        for occurrence in takewhile(lambda one: self.due(one) <= now, self.occurrences(first)):
            found.append(occurrence)
            if definition.catch_up == "latest" and len(found) > 1:
                missed, first = missed + 1, milliseconds(found.pop(0))
            elif len(found) == LOOK_LIMIT:
                break
        return Look(missed, first, tuple(milliseconds(one) for one in found))

    def task_id(self, occurrence: int) -> str:
        """Return the id of an occurrence's task: one UTC instant is one task."""
        return f"{self.key}@{datetime.fromtimestamp(occurrence / 1000, UTC):%Y%m%dT%H%M%SZ}"

    def new_task(
        self, publisher: Publisher, task_id: str, now_ms: int, *, idempotency_ttl_ms: int | None = None
    ) -> NewTask:
        """Return the task of an occurrence, in a trace of its own."""
        template = self.definition.task
        step = NewStep(template.name, template.queue, dict(template.arguments), template.version)
        with publisher.publishing(
            task_id, template.kind, self.owner, [step], trace_of_its_own=True, headers=template.headers,
            tags=template.tags, metadata=template.metadata, callback_url=template.callback_url,
            retain_ms=template.retain_ms, schedule=self.name, idempotency_ttl_ms=idempotency_ttl_ms,
            expires_at=now_ms + template.expires_in_ms if template.expires_in_ms else None,
        ) as task:  # fmt: skip
            return task


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a schedule finds."""

    missed: int
    # The last occurrence that was missed, or the one before all (ms).
    since: int
    # To be published, the oldest first (ms).
    occurrences: tuple[int, ...]


def moment(at: int | None) -> datetime | None:
    """Return a time that is given in milliseconds since the epoch."""
    return datetime.fromtimestamp(at / 1000, UTC) if at is not None else None


def milliseconds(at: datetime) -> int:
    """Return a time in milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def put(
    store: TaskStore, schedule: Schedule, *, if_match: int | None, must_be_new: bool, due: int | None, limit: int
) -> Call:
    """Write a schedule's definition.

    Answers ``created``, ``changed``, ``mismatch`` (it has another revision than `if_match`, or is there) or ``limit``.
    """
    return _PUT.of(
        prefix=store.prefix, owner=schedule.owner, name=schedule.name, definition=schedule.definition.as_text(),
        now=schedule.updated_at, since=schedule.since, note=schedule.note, paused=schedule.is_paused, if_match=if_match,
        must_be_new=must_be_new, due=due, limit=limit,
    )  # fmt: skip


def pause(store: TaskStore, owner: str, name: str, *, note: str | None) -> Call:
    """Pause a schedule. Answers 1, or 0 when there is none."""
    return _PAUSE.of(prefix=store.prefix, owner=owner, name=name, paused=True, note=note)


def resume(store: TaskStore, owner: str, name: str, *, now: int, due: int | None) -> Call:
    """Let a schedule go on: with what comes from now on. Answers 1, or 0 when there is none."""
    return _PAUSE.of(prefix=store.prefix, owner=owner, name=name, paused=False, now=now, due=due)


def buffer(store: TaskStore, owner: str, name: str, occurrences: Sequence[int]) -> Call:
    """Have occurrences (ms) of the past run one after the other. Answers 1, or 0 when too many wait already."""
    return _BUFFER.of(prefix=store.prefix, owner=owner, name=name, occurrences=occurrences, limit=BUFFER_LIMIT)


def delete(store: TaskStore, owner: str, name: str) -> Call:
    """Delete a schedule. Answers 1, or 0 when there is none."""
    return _DELETE.of(prefix=store.prefix, owner=owner, name=name)


def occur(
    store: TaskStore,
    schedule: Schedule,
    task: NewTask | None,
    occurrence: int | None,
    *,
    look: Look,
    due: int | None,
    is_buffered: bool = False,
) -> Call:
    """Publish an occurrence, or do with it what the schedule's `overlap` asks for; without one, note what was missed.

    With `is_buffered` it is the first of those that wait, and goes on waiting while another one runs. Answers
    ``published``, ``skipped``, ``buffered``, ``noted``, or ``changed``: it is not what it was, look again.
    """
    definition = schedule.definition
    return _OCCUR.of(
        prefix=store.prefix, broker_prefix=store.broker_prefix, keep_ms=store.keep_ms, owner=schedule.owner,
        name=schedule.name, revision=schedule.revision, since=schedule.since, missed=look.missed,
        missed_until=look.since, occurrence=occurrence, due=due, overlap=definition.overlap,
        buffer_limit=1 if definition.overlap == "buffer_one" else BUFFER_LIMIT, max_runs=definition.max_runs,
        task=_task(task), is_buffered=is_buffered,
    )  # fmt: skip


def _task(task: NewTask | None) -> dict[str, Any] | None:
    if task is None:
        return None
    return {
        "id": task.task_id, "count": len(task.steps), "fields": task.fields(), "expires_at": task.expires_at or 0,
        "messages": task.messages,
    }  # fmt: skip


def owner_and_name(member: str) -> tuple[str, str]:
    """Return whose schedule a member of the lists of schedules is, and its name."""
    owner, _, name = member.partition(":")
    return owner, name
