"""Running a worker's task types in memory: the tests of your own tasks need nothing else."""

from __future__ import annotations

import base64
import inspect
import json
import tempfile
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from celery_leases.publish import message_key
from offload_contracts.registry import by_name
from offload_core import keys
from offload_core.blobs import BlobStore
from offload_core.errors import PostponeError
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.records import BURIED
from offload_core.settings import BlobSettings, FleetSettings
from offload_worker import event_loop, exits
from offload_worker.backend import describe
from offload_worker.lifespan import Lifespan
from offload_worker.run import Run, encode_returned, outputs_of, with_outputs
from offload_worker.testing.broker import MemoryBroker
from offload_worker.testing.store import MemoryTaskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    from offload_contracts.images import Output
    from offload_core.records import Record
    from offload_worker.policy import Policy
    from offload_worker.testing.broker import Popped
    from offload_worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Finished:
    """How a task ended: its `state`, its `result` as JSON has it, its `error`, and the record with its steps."""

    state: str
    result: Any
    error: dict[str, Any] | None
    record: Record
    outputs: tuple[Output, ...]

    @property
    def attempts(self) -> list[int]:
        """How often each step was run, dead workers not counted."""
        return [step.attempt + 1 if step.started_at is not None else 0 for step in self.record.steps]


@dataclass(slots=True)
class _Stub:
    """What stands for a task type of another worker: what it is given is kept."""

    result: Any
    given: list[Any] = field(default_factory=list)


class Testbed:
    """Offload in memory for one worker; use it as a context manager.

        with Testbed(worker) as testbed:
            finished = testbed.run("invoice.render.v1", {"number": "7"})
            assert finished.state == "SUCCESS"

    Pauses before retries take no time. Files are in a temporary folder. A task type of another worker has a stand-in
    that `stub` names. Its messages and results are checked as on the wire: what cannot travel as JSON is found here.
    """

    __test__ = False  # pytest would take it for a test class

    def __init__(
        self,
        worker: Worker[Any, Any],
        *,
        resources: Any = None,  # noqa: ANN401 -- the worker's own
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the worker. `resources` stand for what its lifespan gives; `settings` are added to the defaults."""
        self._worker = worker
        self._folder = tempfile.TemporaryDirectory(prefix="testbed-")
        known: dict[str, Any] = {"redis_url": "redis://in-memory", "blob_url": f"file://{self._folder.name}"}
        self._settings: FleetSettings = worker.settings_class(**known | dict(settings or {}))
        self.blobs = BlobStore(BlobSettings(blob_url=known["blob_url"]))
        make = worker.lifespan
        self._lifespan = Lifespan((lambda: make(self._settings)) if make and resources is None else None)
        self._resources = resources
        self._policies = {one.name: worker.policy(one.name, self._settings) for one in worker.contracts}
        self._contracts = {one.name: one for one in worker.contracts}
        self._stubs: dict[str, _Stub] = {}
        self.broker = MemoryBroker(self._settings.delivery_limit)
        self.store = MemoryTaskStore(self.broker)
        # The queue of each run whose worker is to die in it, once.
        self._dying: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what the worker's lifespan opened, and delete the files."""
        self._lifespan.close()
        self._folder.cleanup()

    def stub(self, task: str, result: BaseModel | Mapping[str, Any]) -> list[Any]:
        """Let a task type of another worker give this result. Returns the list that its inputs are put into."""
        given = result if not hasattr(result, "model_dump") else result.model_dump(mode="json")
        self._stubs[task] = _Stub(given)
        return self._stubs[task].given

    def kill(self, task: str, times: int = 1) -> None:
        """Let the worker die in the next runs of a task type, after its function has returned."""
        self._dying[task] = times

    def run(self, task: str, given: BaseModel | Mapping[str, Any], **options: Any) -> Finished:  # noqa: ANN401 -- those of `run_workflow`
        """Run a task of one step to its end."""
        return self.run_workflow([(task, given)], **options)

    def run_workflow(
        self,
        stages: Sequence[tuple[str, Any] | Sequence[tuple[str, Any]]],
        *,
        retry: Mapping[str, Any] | None = None,
        source: bytes | None = None,
    ) -> Finished:
        """Run a workflow to its end. A stage is a task type and its input, or a list of those: branches.

        `retry` is the option of that name of the API. `source` is a file that belongs to the task: its key is
        ``uploads/{task_id}/original``, and an input may have ``{task_id}`` in its place.
        """
        task_id = str(uuid.uuid4())
        if source is not None:
            self.blobs.put(f"uploads/{task_id}/original", source)
        steps = [self._stage(stage, task_id) for stage in stages]
        headers = {"retry": dict(retry)} if retry else None
        self.store.accept(Publisher("testbed").task(task_id, "task", "testbed", steps, headers=headers))
        while True:
            taken = self.broker.pop(self.broker.queues())
            if taken is not None:
                self._deliver(taken)
                continue
            due = self.broker.next_due_ms()
            if due is None:
                return self._finished(task_id)
            # Nothing waits: the next pause is over at once.
            self.broker.now_ms = max(self.broker.now_ms, due)

    def _stage(self, asked: Any, task_id: str) -> tuple[NewStep, ...]:  # noqa: ANN401 -- a step, or a list of them
        return (
            (self._step(asked, task_id),)
            if isinstance(asked[0], str)
            else tuple(self._step(one, task_id) for one in asked)
        )

    def _step(self, asked: tuple[str, Any], task_id: str) -> NewStep:
        name, given = asked
        data = given.model_dump(mode="json") if hasattr(given, "model_dump") else dict(given)
        data = json.loads(json.dumps(data).replace("{task_id}", task_id))
        contract = self._contracts.get(name) or by_name(name)
        if name not in self._contracts and name not in self._stubs:
            message = f"{name} is no task type of {self._worker.name}: name its result with stub()"
            raise LookupError(message)
        if contract is not None:
            contract.decode(data)
        return NewStep(name, str(contract.queue) if contract else "stubs", data)

    def _deliver(self, taken: Popped) -> None:
        message = json.loads(taken.message)
        headers = message["headers"]
        step, attempt = keys.step_of(headers["id"]), headers["retries"]
        fence = (attempt, taken.delivery)
        answer, _, first_attempt = self.store.start(step, fence).partition(":")
        if answer != "run":
            self.broker.settle(taken)
            return
        *carried, data = json.loads(base64.b64decode(message["body"]))[0]
        name, policy = headers["task"], self._policies.get(headers["task"])
        try:
            with exits.contained():
                result = self._call(name, headers["id"], fence, carried[0] if carried else None, data)
        except PostponeError as error:
            self.broker.postpone(taken, error.seconds)
            return
        except Exception as error:  # noqa: BLE001 -- whatever a function raises ends its step
            ours = policy.for_task(headers.get("retry")) if policy else None
            if ours is None or not ours.may_heal(error):
                self.store.finish(step, fence, "FAILURE", describe(error, None))
                self.broker.settle(taken)
            else:
                self._retry(taken, ours, error, attempt - int(first_attempt))
            return
        if self._dying.get(name, 0) > 0:
            self._dying[name] -= 1
            reason = self.broker.lose(taken)
            if reason is not None:
                self.store.finish(step, (attempt, BURIED), "FAILURE", {"code": reason, "message": reason})
            return
        self.store.finish(step, fence, "SUCCESS", result)
        self.broker.settle(taken)

    def _retry(self, taken: Popped, policy: Policy, error: Exception, retries: int) -> None:
        message = json.loads(taken.message)
        headers = message["headers"]
        step, attempt = keys.step_of(headers["id"]), headers["retries"]
        pause = policy.pause_seconds(retries, error)
        retry_at = self.broker.now_ms + round((pause or 0) * 1000)
        described = describe(error, None)
        self.store.retry(step, (attempt, taken.delivery), described, retry_at)
        if pause is None:
            self.broker.bury(taken, described["code"])
            self.store.finish(step, (attempt, BURIED), "FAILURE", described)
            letter = self.broker.dead_letter(taken.queue, taken.message_key)
            if letter is not None:
                letter.reported = True
            return
        headers["retries"] = attempt + 1
        self.broker.publish(taken.queue, message_key(headers["id"], attempt + 1), json.dumps(message), retry_at)
        self.broker.settle(taken)

    def _call(self, name: str, celery_id: str, fence: tuple[int, int], previous: Any, data: Any) -> dict[str, Any]:  # noqa: ANN401 -- any JSON
        if name in self._stubs:
            self._stubs[name].given.append(data)
            return with_outputs(dict(self._stubs[name].result), outputs_of(previous))
        contract = self._contracts[name]
        step = keys.step_of(celery_id)
        limit = self._policies[name].soft_time_limit_seconds

        def progress(done: int, total: int) -> None:
            self.store.progress(step, fence, done, total)

        run = Run.begin(
            name, celery_id, fence, previous, limit_seconds=limit, progress=progress, blobs=lambda: self.blobs
        )
        run.resources = self._resources if self._resources is not None else self._lifespan.resources()
        function: Callable[..., Any] = self._worker.function(name)
        returned = function(contract.decode(data), run)
        result = event_loop.run(returned) if inspect.isawaitable(returned) else returned  # type: ignore[arg-type]  # a coroutine function's
        encoded: dict[str, Any] = json.loads(json.dumps(encode_returned(contract, result, run.outputs)))
        return encoded

    def _finished(self, task_id: str) -> Finished:
        record = self.store.record(task_id)
        if record is None or record.finished_at is None:
            message = f"the task did not end: {record}"
            raise AssertionError(message)
        failed = next((step for step in record.steps if step.state == "FAILURE"), None)
        results = [step.result for step in record.last_stage]
        result = (results[0] if len(results) == 1 else results) if record.state == "SUCCESS" else None
        outputs = outputs_of([step.result for step in record.steps if step.result]).outputs
        return Finished(record.state, result, failed.error if failed else None, record, outputs)

    def read_output(self, output: Output) -> bytes:
        """Return a file that a task has made."""
        return self.blobs.get(output.key)
