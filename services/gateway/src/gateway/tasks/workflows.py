"""What `POST /v1/tasks` asks for, as the stages of a task: each input is checked against the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.problems import invalid_fields
from gateway.tasks.schemas import MAX_STEPS, ParallelSteps, SingleTask, TaskStep
from offload_core.messages import NewStep

if TYPE_CHECKING:
    from gateway.task_types.service import Catalogue
    from gateway.tasks.schemas import Workflow
    from offload_core.messages import Stage


def stages(asked: SingleTask | Workflow, catalogue: Catalogue, within: str = "") -> list[Stage]:
    """Return the stages of a task: one step each, or branches that run at once.

    `within` is the JSON pointer of the task, where it is a part of the request.

    Raises:
        Problem: 422 ``task_type.unknown`` or ``input.invalid``, with the JSON pointer of the step; 422
            ``request.invalid`` when there are too many steps.

    """
    if isinstance(asked, SingleTask):
        return [(_step(asked, catalogue, within),)]
    found: list[Stage] = []
    for number, step in enumerate(asked.steps):
        where = f"{within}/steps/{number}"
        if isinstance(step, ParallelSteps):
            branches = enumerate(step.parallel)
            found.append(tuple(_step(one, catalogue, f"{where}/parallel/{branch}") for branch, one in branches))
        else:
            found.append((_step(step, catalogue, where),))
    if sum(map(len, found)) > MAX_STEPS:
        raise invalid_fields(
            {f"{within}/steps".lstrip("/"): f"must have at most {MAX_STEPS} steps, all branches counted"}
        )
    return found


def _step(asked: SingleTask | TaskStep, catalogue: Catalogue, where: str) -> NewStep:
    task_type = catalogue.check(asked.task, asked.input, where)
    return NewStep(task_type.name, task_type.queue, asked.input, task_type.version)
