"""What a function gave, as a record has it."""

from __future__ import annotations

import json
from typing import Any, Final

# A record is read and written whole: a larger result stays in the application's backend alone.
RESULT_BYTES: Final = 64 * 1024


def value_of(result: object) -> dict[str, Any]:
    """Return ``{"value": …}``; or, in ``omitted``, why the record has not got it."""
    try:
        size = len(json.dumps(result))
    except (TypeError, ValueError, RecursionError):
        return {"omitted": f"a {type(result).__name__} that is not JSON"}
    return {"value": result} if size <= RESULT_BYTES else {"omitted": f"more than {RESULT_BYTES} bytes of JSON"}
