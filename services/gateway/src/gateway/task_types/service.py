"""The catalogue as the gateway has it: read from Redis every two seconds, with a validator for each version."""

from __future__ import annotations

import difflib
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import jsonschema_rs
from redis.exceptions import RedisError

from gateway.problems import MAX_ERRORS, MAX_FIELD_LENGTH, Problem, field_errors
from offload_contracts.contract import Queue
from offload_contracts.registry import by_name
from offload_core import catalogue, keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis.asyncio

    from gateway.settings import GatewaySettings
    from offload_core.catalogue import TaskType

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
# What is gone from Redis is known here for so long: its workers register again meanwhile.
GRACE_SECONDS = 4 * catalogue.REGISTER_SECONDS


class Catalogue:
    """The task types that there are, by name; of each the newest version first."""

    def __init__(self, client: redis.asyncio.Redis, settings: GatewaySettings) -> None:
        """Take the client; nothing is read before `refresh`."""
        self._client = client
        self._prefix = settings.key_prefix
        # What each fleet has registered, when it wrote that, and when (monotonic) its key was last seen in Redis.
        self._fleets: dict[str, list[TaskType]] = {}
        self._written_at: dict[str, bytes] = {}
        self._seen_at: dict[str, float] = {}
        self._by_name: dict[str, list[TaskType]] = {}
        self._validators: dict[str, Any] = {}

    @property
    def version(self) -> int:
        """What changes when the newest version of any task type does: for what is made of them."""
        return hash(tuple((name, versions[0].version) for name, versions in sorted(self._by_name.items())))

    @property
    def queues(self) -> list[str]:
        """The names of the built-in queues, and of those that a task type waits in."""
        own = sorted({one.queue for versions in self._by_name.values() for one in versions})
        return list(dict.fromkeys([*map(str, Queue), *own]))

    def all(self) -> list[TaskType]:
        """Return the newest version of each task type that can be posted, by name."""
        return [versions[0] for _, versions in sorted(self._by_name.items()) if not versions[0].is_internal]

    def versions(self, name: str, *, internal: bool = False) -> list[TaskType]:
        """Return the versions of a task type that can be posted, the newest first; none where there is none.

        With `internal`, of one that is Offload's own.
        """
        return [one for one in self._by_name.get(name, ()) if one.is_internal == internal]

    def check(self, name: str, given: dict[str, Any], where: str = "", *, internal: bool = False) -> TaskType:
        """Return the version of a task type, one of Offload's own if it is `internal`, that an input is right for.

        During a rollout that is the newest one, or else an older one that still has workers. `where` is the JSON
        pointer of what asks for the task.

        Raises:
            Problem: 422 ``task_type.unknown``, with names that are near; 422 ``input.invalid``, with JSON pointers.

        """
        versions = self.versions(name, internal=internal)
        if not versions:
            raise self._unknown(name, where)
        newest, *older = versions
        if self._validator(newest).is_valid(given):
            return newest
        now_ms = time.time() * 1000
        for one in older:
            if now_ms - one.last_seen_at <= catalogue.ALIVE_MS and self._validator(one).is_valid(given):
                return one
        raise self._invalid(newest, given, where)

    async def refresh(self) -> None:
        """Read what has changed. While Redis does not answer, what is known stays."""
        try:
            written_at: Any = await self._client.hgetall(keys.catalogue(self._prefix))
            changed = [name for name, at in written_at.items() if self._written_at.get(name.decode()) != at]
            async with self._client.pipeline(transaction=False) as pipe:
                for name in changed:
                    pipe.hgetall(keys.catalogue(self._prefix, name.decode()))
                found = await pipe.execute() if changed else []
        except RedisError as error:
            logger.debug("the catalogue cannot be read: %s", error)
            return
        now = time.monotonic()
        for name, raw in zip(changed, found, strict=True):
            fleet = name.decode()
            self._written_at[fleet] = written_at[name]
            try:
                registered = catalogue.decode(raw, round(time.time() * 1000))
            except (TypeError, ValueError):
                logger.exception("the task types of the fleet %s cannot be read", fleet)
                continue
            self._fleets[fleet] = [one for one in registered if self._is_usable(one)]
        for name in written_at:
            self._seen_at[name.decode()] = now
        for fleet, seen_at in list(self._seen_at.items()):
            if now - seen_at > GRACE_SECONDS:
                for known in (self._fleets, self._written_at, self._seen_at):
                    known.pop(fleet, None)
        self._by_name = _by_name(one for fleet in self._fleets.values() for one in fleet)

    def _is_usable(self, task_type: TaskType) -> bool:
        """Return whether a task type is what it says: not the name of a built-in one, and with a schema that is one."""
        built_in = by_name(task_type.name)
        if built_in is not None and str(built_in.queue) != task_type.queue:
            logger.error("the fleet %s cannot register %s: it is a built-in task type", task_type.fleet, task_type.name)
            return False
        try:
            self._validator(task_type)
        except (ValueError, TypeError) as error:
            logger.error("the input schema of %s (%s) cannot be used: %s", task_type.name, task_type.fleet, error)  # noqa: TRY400 -- the error says all
            return False
        return True

    def _validator(self, task_type: TaskType) -> Any:  # noqa: ANN401 -- the library's own class has no common type
        """Return the validator of a version: compiled once, and for as long as the process lives."""
        key = f"{task_type.name}:{task_type.version}"
        if key not in self._validators:
            # The values of an input are nobody else's: they are not repeated.
            self._validators[key] = jsonschema_rs.validator_for(task_type.input_schema, mask="the value")
        return self._validators[key]

    def _unknown(self, name: str, where: str) -> Problem:
        known = [one.name for one in self.all()]
        near = difflib.get_close_matches(name, known, n=3)
        detail = f"there is no task type {name[:MAX_FIELD_LENGTH]}"
        if near:
            detail += f"; did you mean {' or '.join(near)}?"
        return Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "task_type.unknown", detail, errors=field_errors({f"{where}/task": detail})
        )

    def _invalid(self, task_type: TaskType, given: dict[str, Any], where: str) -> Problem:
        found: dict[str, str] = {}
        for error in self._validator(task_type).iter_errors(given):
            path = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.instance_path)
            found.setdefault(f"{where}/input{path}"[:MAX_FIELD_LENGTH], error.message)
            if len(found) == MAX_ERRORS:
                break
        detail = f"the input is not right for {task_type.name}: " + "; ".join(
            f"{at}: {text}" for at, text in found.items()
        )
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "input.invalid", detail, errors=field_errors(found))


def _by_name(task_types: Iterable[TaskType]) -> dict[str, list[TaskType]]:
    found: dict[str, dict[str, TaskType]] = {}
    for one in task_types:
        versions = found.setdefault(one.name, {})
        known = versions.get(one.version)
        if known is None or one.registered_at > known.registered_at:
            versions[one.version] = one
    return {
        name: sorted(versions.values(), key=lambda one: one.registered_at, reverse=True)
        for name, versions in found.items()
    }
