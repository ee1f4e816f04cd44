"""The OpenAPI document with the task types that are registered now, so that clients can be generated for them."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload_core.catalogue import TaskType

SCHEMAS = "#/components/schemas/"
# The schemas that have a task type and its input: a post, and a step of one.
POSTS = ("SingleTask", "TaskStep")


def with_task_types(document: dict[str, Any], task_types: Sequence[TaskType]) -> dict[str, Any]:
    """Return the document with an `input` for each task type, told apart by the member `task`."""
    if not task_types:
        return document
    found = copy.deepcopy(document)
    schemas = found["components"]["schemas"]
    for post in POSTS:
        generic = schemas[post]
        mapping = {}
        for one in task_types:
            label = _label(one.name)
            schemas |= _components(f"{label}Input", one.input_schema)
            schemas[f"{label}{post}"] = _narrowed(generic, one, label)
            mapping[one.name] = f"{SCHEMAS}{label}{post}"
        schemas[post] = {
            "oneOf": [{"$ref": ref} for ref in mapping.values()],
            "discriminator": {"propertyName": "task", "mapping": mapping},
        }
    return found


def _narrowed(generic: dict[str, Any], task_type: TaskType, label: str) -> dict[str, Any]:
    properties = generic["properties"] | {
        "task": {"type": "string", "enum": [task_type.name]},
        "input": {"$ref": f"{SCHEMAS}{label}Input"},
    }
    return generic | {
        "title": f"{label}{generic['title']}",
        "description": f"{task_type.name}: waits in the queue {task_type.queue}.",
        "properties": properties,
        "required": ["task", "input"],
    }


def _components(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema and those that it defines, as components of the document under names of their own."""

    def moved(part: Any) -> Any:  # noqa: ANN401 -- any JSON
        if isinstance(part, list):
            return [moved(one) for one in part]
        if not isinstance(part, dict):
            return part
        return {
            key: f"{SCHEMAS}{name}{one.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(one, str)
            else moved(one)
            for key, one in part.items()
        }

    own = {key: value for key, value in schema.items() if key != "$defs"}
    found = {name: moved(own) | {"title": name}}
    for defined, part in schema.get("$defs", {}).items():
        found[f"{name}{defined}"] = moved(part) | {"title": f"{name}{defined}"}
    return found


def _label(name: str) -> str:
    """Return a task type's name as classes are named: invoice.render.v1 is InvoiceRenderV1."""
    return "".join(part.capitalize() for part in re.split(r"[._]", name))
