"""What `POST /v1/tasks` asks for, as the stages of a task: each input is checked against the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.tasks.schemas import ParallelSteps, SingleTask, TaskStep
from offload_core.messages import NewStep

if TYPE_CHECKING:
    from gateway.task_types.service import Catalogue
    from gateway.tasks.schemas import Workflow
    from offload_core.messages import Stage


def stages(asked: SingleTask | Workflow, catalogue: Catalogue) -> list[Stage]:
    """Return the stages of a task: one step each, or branches that run at once.

    Raises:
        Problem: 422 ``task_type.unknown`` or ``input.invalid``, with the JSON pointer of the step.

    """
    if isinstance(asked, SingleTask):
        return [(_step(asked, catalogue, ""),)]
    found: list[Stage] = []
    for number, step in enumerate(asked.steps):
        where = f"/steps/{number}"
        if isinstance(step, ParallelSteps):
            branches = enumerate(step.parallel)
            found.append(tuple(_step(one, catalogue, f"{where}/parallel/{branch}") for branch, one in branches))
        else:
            found.append((_step(step, catalogue, where),))
    return found


def _step(asked: SingleTask | TaskStep, catalogue: Catalogue, where: str) -> NewStep:
    task_type = catalogue.check(asked.task, asked.input, where)
    return NewStep(task_type.name, task_type.queue, asked.input, task_type.version)
