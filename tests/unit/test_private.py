"""Private values: left out where an input is shown, and taken out of texts while a run has them."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from offload_core import private
from offload_core.logs import redact

GIVEN = {"name": "Ada Lovelace", "deep": {"a/b": ["x", 18151210]}, "age": 36, "none": None, "text": "shown"}


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.setattr(private, "_hidden", {})
    monkeypatch.setattr(private, "_pattern", None)


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/name", GIVEN | {"name": "<private>"}),
        ("/deep", GIVEN | {"deep": "<private>"}),
        ("/deep/a~1b/1", GIVEN | {"deep": {"a/b": ["x", "<private>"]}}),
        ("/none", GIVEN),
        ("/missing", GIVEN),
        ("/name/0", GIVEN),
        ("/deep/a~1b/7", GIVEN),
        ("/deep/a~1b/-", GIVEN),
        ("name", GIVEN),
        ("", GIVEN),
    ],
)
def test_an_input_is_shown_without_what_pointers_lead_to(pointer, expected):
    assert private.redacted(GIVEN, [pointer]) == expected
    assert GIVEN["name"] == "Ada Lovelace", "the input itself stays as it is"


def test_texts_are_scrubbed_while_a_run_has_the_values_and_for_a_minute_after_it(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(private.time, "monotonic", lambda: now)
    with private.hidden(GIVEN, ["/name", "/deep"]):
        assert redact("Ada Lovelace, born 18151210, is shown") == "<private>, born <private>, is shown"
    assert redact("Ada Lovelace") == "<private>"
    now += private.KEPT_SECONDS + 1
    with private.hidden(GIVEN, ["/age"]):
        assert redact("Ada Lovelace, 36") == "Ada Lovelace, 36", "a short number stands everywhere"


def test_two_runs_hide_at_once():
    with private.hidden({"a": "first one"}, ["/a"]):
        with private.hidden({"a": "first one too"}, ["/a"]):
            assert private.scrub("first one too; first one") == "<private>; <private>"
        assert private.scrubbed({"x": ["first one", 1]}) == {"x": ["<private>", 1]}


@pytest.mark.parametrize(
    "text", ['O\'Brien, "Pat"', "12 St James's\nLondon", "(555) 867-5309", "a.*b+c", "李小龍", "50% {x}"]
)
def test_a_value_is_found_however_it_is_written(text):
    with private.hidden({"it": text}, ["/it"]):
        for written in (text, repr(text), f"{text!a}", json.dumps(text), quote(text)):
            assert text not in private.scrub(f"before {written} after")
            assert "<private>" in private.scrub(f"before {written} after")
