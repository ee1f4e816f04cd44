"""Values that the poster of a task has called private: nobody is shown them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = "<private>"


def redacted(given: Any, pointers: Sequence[str]) -> Any:  # noqa: ANN401 -- any JSON
    """Return an input without the values that these JSON pointers lead to."""
    shown = copy.deepcopy(given)
    for pointer in pointers:
        found: Any = shown
        try:
            *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
            for part in parents:
                found = found[int(part) if isinstance(found, list) else part]
            place: Any = int(last) if isinstance(found, list) else last
            if found[place] is not None:
                found[place] = SHOWN
        except (IndexError, KeyError, TypeError, ValueError):
            continue  # it points to nothing
    return shown
