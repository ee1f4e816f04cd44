"""Contracts: deaf to what is new, strict with what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_contracts import address
from offload_contracts.contract import ContractError, Queue
from offload_contracts.images import RESIZE_IMAGE, Output, Outputs, ResizeImage
from offload_contracts.mails import SEND_MAIL
from offload_contracts.registry import ALL
from offload_contracts.reports import RenderReport


def test_names_are_noun_verb_version():
    for contract in ALL:
        noun, verb, version = contract.name.split(".")
        assert (noun.isalpha(), verb.replace("_", "").isalpha(), version[0]) == (True, True, "v")
        assert contract.queue in Queue
    assert len({contract.name for contract in ALL}) == len(ALL)


def test_a_newer_versions_fields_are_ignored():
    assert RESIZE_IMAGE.decode({"source": "a", "sharpen": True}) == ResizeImage(source="a")


@pytest.mark.parametrize("data", [{"width": "8px"}, {"source": "a", "width": 0}, {"source": 1}, [], None, "x"])
def test_a_message_that_lacks_something_cannot_be_decoded(data):
    with pytest.raises(ContractError, match=r"image\.resize\.v1 cannot be decoded"):
        RESIZE_IMAGE.decode(data)


def test_an_error_does_not_repeat_the_value():
    with pytest.raises(ContractError) as raised:
        SEND_MAIL.decode({"to": ["secret@example.com\nBcc: x"], "text": "x", "subject": "y"})
    assert "secret" not in str(raised.value)


def test_defaults_do_not_travel():
    assert RESIZE_IMAGE.encode(ResizeImage(source="a")) == {"source": "a"}


def test_outputs_of_a_step_replace_those_of_an_earlier_run():
    def output(step: str, sha256: str) -> Output:
        return Output(name="n", step=step, key="k", media_type="image/png", size_bytes=1, sha256=sha256)

    outputs = Outputs().plus(output("resize", "a")).plus(output("thumbnail", "b")).plus(output("resize", "c"))
    assert [(one.step, one.sha256) for one in outputs.outputs] == [("thumbnail", "b"), ("resize", "c")]


@pytest.mark.parametrize("good", ["ann@example.com", "a.b+c@x-y.example", "o'neil@example.com", "a@b"])
def test_plain_addresses_are_taken(good):
    assert address.check(good) == good


@pytest.mark.parametrize(
    "bad",
    [
        "", "ann", "@example.com", "ann@", "ann@@example.com", "a b@example.com",
        "ann@example.com\n", "\nann@example.com",
        "ann@example.com\r\nBcc: x@example.com", "ann@exa_mple.com", "ann@-example.com", '"a b"@example.com',
        "ann@[127.0.0.1]", "änn@example.com", "ann@exämple.com", ".ann@example.com", "ann.@example.com",
        "a" * 250 + "@example.com", "a@" + "b." * 130 + "com", "ann@example.com,bob@example.com", "ann@example.com>",
    ],
)  # fmt: skip
def test_anything_else_is_refused(bad):
    with pytest.raises(ValueError, match="e-mail address"):
        address.check(bad)


@given(st.text(max_size=80))
def test_no_text_gets_a_control_character_through(text):
    try:
        address.check(text)
    except ValueError:
        return
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


def test_a_wrong_message_is_a_type_error(tmp_path):
    """Contracts are invariant: a covariant one would accept any message."""
    file = tmp_path / "wrong.py"
    file.write_text(
        "from offload_contracts.images import RESIZE_IMAGE, ResizeImage\n"
        "from offload_contracts.reports import RenderReport\n"
        "RESIZE_IMAGE.encode(ResizeImage(source='a'))\n"
        "RESIZE_IMAGE.encode(RenderReport(rows=1))\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "wrong.py:4: error" in found
    assert "wrong.py:3: error" not in found
    assert RenderReport(rows=1).title == "Report"
