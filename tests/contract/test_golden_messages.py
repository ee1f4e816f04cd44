"""Committed examples of every version of every contract: what was once published can be read for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offload_contracts.registry import ALL, by_name

FILES = sorted((Path(__file__).parent / "messages").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_message_is_still_read(file):
    example = json.loads(file.read_text())
    contract = by_name(example["name"])
    assert contract is not None
    assert contract.queue == example["queue"]
    for message in example["messages"]:
        decoded = contract.decode(message)
        # Nothing of it is lost, but what the example has beyond the contract on purpose.
        assert contract.decode(contract.encode(decoded)) == decoded
    for result in example["results"]:
        contract.result.model_validate(result)


def test_every_contract_has_an_example():
    assert {json.loads(file.read_text())["name"] for file in FILES} == {contract.name for contract in ALL}
