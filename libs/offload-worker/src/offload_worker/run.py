"""One run of one step, as its function sees it."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Generic

from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from offload_contracts.contract import ContractError
from offload_contracts.images import Output, Outputs
from offload_contracts.media_types import LABEL, extension_of
from offload_core import blobs, keys
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from offload_contracts.contract import TaskContract
    from offload_core.blobs import BlobStore

C = TypeVar("C", default=Any)

# Kept in memory up to so much, then in a file.
SPOOL_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class Run(Generic[C]):
    """One run of one step: which one it is, what the steps before have made, and what a function can do.

    A run may be repeated: after a retry, and after its worker died. So the same input must give the same output, and an
    effect outside must bear to be asked for twice; `celery_id` is the same in each run of a step.
    """

    # What the worker's lifespan gave.
    resources: C
    task_id: str
    step: int
    # The step's own id: the task's for the first step, then ``{task_id}.2``.
    celery_id: str
    # 0 is the first attempt, and 1 the first delivery of it.
    attempt: int
    delivery: int
    # The result of the step before as JSON has it, a list of results after parallel branches; None for the first step.
    previous: Any
    # For a follow-up of a batch: `batch_id`, `state`, `counts`, and after a first failure `failed_task_id`. Else None.
    batch: Mapping[str, Any] | None
    # The files that the task has made so far, this run's included.
    outputs: Outputs
    # When the run reaches its soft time limit; None where it has none.
    deadline: datetime | None
    logger: logging.LoggerAdapter[logging.Logger]
    # Tells how far it is: so much done, of so much. It is shown to whoever asks for the task.
    progress: Callable[[int, int], None]
    _blobs: Callable[[], BlobStore] = field(repr=False)

    @classmethod
    def begin(
        cls,
        task_type: str,
        celery_id: str,
        run: tuple[int, int],
        previous: Any,  # noqa: ANN401 -- any JSON
        *,
        limit_seconds: float | None,
        progress: Callable[[int, int], None],
        blobs: Callable[[], BlobStore],
        batch: Mapping[str, Any] | None = None,
    ) -> Run[Any]:
        """Return a run that begins now: of a step by its id, with this attempt and delivery, and this time limit."""
        step = keys.step_of(celery_id)
        return Run(
            resources=None,
            task_id=step.task_id,
            step=step.number,
            celery_id=celery_id,
            attempt=run[0],
            delivery=run[1],
            previous=previous,
            batch=batch,
            outputs=outputs_of(previous),
            deadline=datetime.now(UTC) + timedelta(seconds=limit_seconds) if limit_seconds else None,
            logger=logger_of(task_type, {"step": step.number}),
            progress=progress,
            _blobs=blobs,
        )

    def previous_as[M: BaseModel](self, model: type[M]) -> M:
        """Return the result of the step before as a model. The first step has none.

        Raises:
            ContractError: when it is none of this model.

        """
        try:
            return model.model_validate(self.previous)
        except ValidationError:
            message = f"the step before did not give a {model.__name__}"
            raise ContractError(message) from None

    def write_output(self, label: str, data: bytes, media_type: str, **details: int) -> Output:
        """Write a file that the task has made, and return what the record keeps of it.

        The `label` is the first part of its name, of at most 40 lower-case letters, digits, dashes and underscores; a
        later file of the same label replaces it. The name ends with the digest of the content: a second run writes the
        same file. `details` are `width`, `height` and `pages`.

        Raises:
            TemporaryError: ``blob.unavailable``.

        """
        if not LABEL.fullmatch(label):
            message = f"{label!r} is no label of an output: use at most 40 of a-z, 0-9, - and _"
            raise ValueError(message)
        sha256 = blobs.digest(data)
        key = blobs.output_key(self.task_id, label, sha256, extension_of(media_type))
        try:
            self._blobs().put(key, data)
        except blobs.BlobError:
            raise TemporaryError("blob.unavailable", "the blob store takes nothing") from None
        output = Output(
            name=key.rpartition("/")[2], step=label, key=key, media_type=media_type, size_bytes=len(data),
            sha256=sha256, **details,
        )  # fmt: skip
        self.outputs = self.outputs.plus(output)
        return output

    @contextlib.contextmanager
    def open_output(self, label: str, media_type: str, **details: int) -> Iterator[IO[bytes]]:
        """Give a file to write an output to; it is stored when the block ends, and not if it ends with an error.

        Raises:
            TemporaryError: ``blob.unavailable``.

        """
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            yield file
            file.seek(0)
            self.write_output(label, file.read(), media_type, **details)

    def read_output(self, output: Output | str) -> bytes:
        """Return a file that this task has made; a text is the label of one.

        Raises:
            PermanentError: ``blob.missing`` when there is none.
            TemporaryError: ``blob.unavailable``.

        """
        if isinstance(output, Output):
            return self.read_blob(output.key)
        found = next((one for one in self.outputs.outputs if one.step == output), None)
        if found is None:
            raise PermanentError("blob.missing", f"the task has made no output called {output}")
        return self.read_blob(found.key)

    def read_blob(self, key: str) -> bytes:
        """Return a blob of this task: its upload, or what it has made.

        Raises:
            PermanentError: ``blob.missing`` when it is not there, ``blob.forbidden`` when it is another task's.
            TemporaryError: ``blob.unavailable``.

        """
        if not key.startswith((f"{blobs.UPLOADS}{self.task_id}/", f"{blobs.OUTPUTS}{self.task_id}/")) or ".." in key:
            raise PermanentError("blob.forbidden", "the file belongs to another task")
        try:
            return self._blobs().get(key)
        except blobs.BlobNotFoundError:
            raise PermanentError("blob.missing", "the file to work on is not there any more") from None
        except blobs.BlobError:
            raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None


def outputs_of(previous: Any) -> Outputs:  # noqa: ANN401 -- any JSON
    """Return the files that the results of the stage before tell of."""
    # Branches may have files of the same label: each is there, under its name.
    found: dict[str, Output] = {}
    for result in previous if isinstance(previous, list) else [previous]:
        listed = result.get("outputs") if isinstance(result, dict) else None
        found |= {one.name: one for one in Outputs.model_validate({"outputs": listed or ()}).outputs}
    return Outputs(outputs=tuple(found.values()))


def encode_returned(contract: TaskContract[Any, Any], returned: Any, outputs: Outputs) -> dict[str, Any]:  # noqa: ANN401 -- what a function returned
    """Return what a function returned as its step's result is stored, with the files made so far.

    Raises:
        ContractError: when it is not the contract's result. None stands for a result without fields.

    """
    if returned is None and not contract.result.model_fields:
        returned = contract.result()
    return with_outputs(contract.encode_result(returned), outputs)


def with_outputs(result: dict[str, Any], outputs: Outputs) -> dict[str, Any]:
    """Return a step's result with the files that the task has made so far: the steps after it find them there."""
    if "outputs" in result or not outputs.outputs:
        return result
    return result | {"outputs": outputs.model_dump(mode="json", exclude_defaults=True)["outputs"]}


def logger_of(name: str, details: Mapping[str, Any]) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger of a task type, which names the task in each line."""
    return logging.LoggerAdapter(logging.getLogger(name), details)
