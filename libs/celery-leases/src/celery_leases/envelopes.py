"""What a task's envelope must be like, so that Celery's worker can make a task of it.

Celery unpacks headers without looking at them: a time limit that is no pair ends the whole worker, long after the
message was taken. So they are looked at here, before they are handed over; by its task protocol, version 2.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

_TEXT: Final = (str, type(None))
_NUMBER: Final = (int, float, type(None))

# Header -> what it may be. Those that are not named, an application's own among them, may be anything.
_HEADERS: Final[dict[str, tuple[type, ...]]] = {
    "task": (str,),
    "id": (str,),
    "lang": _TEXT,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "group": _TEXT,
    "shadow": _TEXT,
    "origin": _TEXT,
    "argsrepr": _TEXT,
    "kwargsrepr": _TEXT,
    "eta": _TEXT,
    "expires": _TEXT,
    "retries": (int, type(None)),
    "replaced_task_nesting": (int, type(None)),
    "group_index": (int, type(None)),
    "ignore_result": (bool, type(None)),
    "timelimit": (list, type(None)),
    "meth": _TEXT,
    "stamped_headers": (list, type(None)),
    "stamps": (dict, type(None)),
}
_PROPERTIES: Final[dict[str, tuple[type, ...]]] = {
    "correlation_id": _TEXT,
    "reply_to": _TEXT,
    "body_encoding": _TEXT,
    "delivery_info": (dict, type(None)),
    "priority": _NUMBER,
}
_ENVELOPE: Final[dict[str, tuple[type, ...]]] = {"content-type": _TEXT, "content-encoding": _TEXT}


def check(envelope: dict[str, Any]) -> None:
    """Refuse a task's envelope that Celery would stumble over.

    Raises:
        ValueError: with the field's name. A message that is not a task's by protocol 2 is not looked at.

    """
    headers = envelope["headers"]
    if "task" not in headers:
        return
    for fields, shapes in ((headers, _HEADERS), (envelope["properties"], _PROPERTIES), (envelope, _ENVELOPE)):
        for name, shape in shapes.items():
            if name in fields and not isinstance(fields[name], shape):
                message = f"{name} is {type(fields[name]).__name__}"
                raise ValueError(message)
    if "id" not in headers:
        raise ValueError("id is missing")
    limits = headers.get("timelimit")
    if limits is not None and not (len(limits) == 2 and all(isinstance(one, _NUMBER) for one in limits)):  # noqa: PLR2004 -- hard and soft
        raise ValueError("timelimit is no pair of seconds")
    for name in ("eta", "expires"):
        if headers.get(name):
            datetime.fromisoformat(headers[name])
