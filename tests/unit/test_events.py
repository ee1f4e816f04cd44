"""Events as subscribers get them, and their page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offload_core import events
from offload_core.events import Event

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "events.md"


def test_the_page_names_every_type_and_when_it_comes():
    assert dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)) == events.TYPES


def test_an_event_has_the_form_of_a_webhooks_body():
    data = b'{"task_id": "t", "state": "RETRY", "retry_at_ms": "1700000000123"}'
    event = Event.of(b"1700000000000-7", {b"type": b"task.retrying", b"data": data})
    assert event is not None
    assert event.body() == {
        "type": "task.retrying",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "data": {"task_id": "t", "state": "RETRY", "retry_at": "2023-11-14T22:13:20.123Z"},
    }


def test_what_an_older_release_has_written_is_no_event():
    assert Event.of(b"1-0", {b"type": b"step", b"step": b"1", b"data": b"STARTED"}) is None


@pytest.mark.parametrize(("text", "place"), [("0-0", (0, 0)), ("5", (5, 0)), (f"{2**63}-{2**63}", (2**63, 2**63))])
def test_an_id_is_a_place(text, place):
    assert events.position(text) == place


@pytest.mark.parametrize("text", ["", "-", "1-", "x", "1-x", "-1", "1-2-3", "1" * 50, "\u0661-1", "$"])
def test_anything_else_is_none(text):
    with pytest.raises(ValueError, match="event's id"):
        events.position(text)
