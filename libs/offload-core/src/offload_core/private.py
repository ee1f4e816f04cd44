"""Values that the poster of a task has called private: only the function that works with them sees them.

They are named by JSON pointers into a step's input. Where an input is shown they are left out (`redacted`); out of a
worker's texts (logs, spans, errors) they are taken wherever they stand (`scrub`), while a run has them and for a minute
after it: an error is stored, logged and exported when its run is over.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHOWN = "<private>"
# In UTF-8. A shorter value stands in half of all texts by chance.
MIN_BYTES = 4
KEPT_SECONDS = 60.0

_lock = threading.Lock()
# Of each run what it must not tell, and when (monotonic) that is forgotten; None while it runs.
_hidden: dict[object, tuple[frozenset[str], float | None]] = {}
_pattern: re.Pattern[str] | None = None


def redacted(given: Any, pointers: Sequence[str]) -> Any:  # noqa: ANN401 -- any JSON
    """Return an input without the values that these JSON pointers lead to."""
    shown = copy.deepcopy(given)
    for holder, place in _places(shown, pointers):
        if holder[place] is not None:
            holder[place] = SHOWN
    return shown


@contextlib.contextmanager
def hidden(given: Any, pointers: Sequence[str]) -> Iterator[None]:  # noqa: ANN401 -- any JSON
    """Let `scrub` know what is private of a run's input, within this block and for a minute after it."""
    if not pointers:
        yield
        return
    run, texts = object(), frozenset(_written(_leaves(given, pointers)))
    _hide(run, texts, None)
    try:
        yield
    finally:
        _hide(run, texts, time.monotonic() + KEPT_SECONDS)


def scrub(text: str) -> str:
    """Return a text without the values that are hidden now."""
    pattern = _pattern
    return text if pattern is None else pattern.sub(SHOWN, text)


def scrubbed(given: Any) -> Any:  # noqa: ANN401 -- any JSON
    """Return JSON whose texts are without the values that are hidden now."""
    if isinstance(given, str):
        return scrub(given)
    if isinstance(given, dict):
        return {key: scrubbed(value) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return [scrubbed(value) for value in given]
    return given


def _hide(run: object, texts: frozenset[str], until: float | None) -> None:
    global _pattern  # noqa: PLW0603 -- one a process
    with _lock:
        now = time.monotonic()
        for known in [one for one, (_, ends) in _hidden.items() if ends is not None and ends < now]:
            del _hidden[known]
        _hidden[run] = (texts, until)
        found = set().union(*(one for one, _ in _hidden.values()))
        # The longest first: one may hold another.
        _pattern = re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None


def _leaves(given: Any, pointers: Sequence[str]) -> Iterator[str]:  # noqa: ANN401 -- any JSON
    """Yield what these pointers lead to, and what is within it, as texts."""
    pending = [holder[place] for holder, place in _places(given, pointers)]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif value is not None and not isinstance(value, bool):
            yield str(value)


def _written(leaves: Iterator[str]) -> Iterator[str]:
    """Yield the ways in which texts stand in others: as they are, as Python and JSON write them, in URLs."""
    for leaf in leaves:
        ways = (leaf, leaf.strip(), repr(leaf)[1:-1], json.dumps(leaf)[1:-1], quote(leaf), quote(leaf, safe=""))
        yield from (way for way in ways if len(way.encode(errors="replace")) >= MIN_BYTES)


def _places(given: Any, pointers: Sequence[str]) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 -- any JSON
    """Yield where the values of JSON pointers (RFC 6901) are: what holds each, and its place there."""
    for pointer in pointers:
        found: Any = given
        try:
            *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
            for part in parents:
                found = found[int(part) if isinstance(found, list) else part]
            place: Any = int(last) if isinstance(found, list) else last
            _ = found[place]
        except (IndexError, KeyError, TypeError, ValueError):
            continue  # it points to nothing
        yield found, place
