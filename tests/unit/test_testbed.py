"""The double that users test their task types with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from offload_contracts.contract import ContractError
from offload_worker.testing import Testbed


@pytest.fixture(scope="module")
def acme():
    """The worker of the integration tests."""
    folder = str(Path(__file__).parent.parent / "integration")
    sys.path.insert(0, folder)
    import acme_worker

    sys.path.remove(folder)
    return acme_worker


@pytest.fixture
def testbed(acme):
    """Offload in memory."""
    with Testbed(acme.worker, resources="Hello") as made:
        yield made


def test_a_task_runs_with_models_or_with_json(testbed, acme):
    assert testbed.run("number.add.v1", {"a": 1, "b": 2}).result == {"total": 3}
    finished = testbed.run("number.add.v1", acme.Numbers(a=1, b=3))
    assert (finished.state, finished.result, finished.attempts) == ("SUCCESS", {"total": 4}, [1])
    assert testbed.run("text.forget.v1", {"text": "x"}).result == {}
    assert testbed.run("text.wait.v1", {"seconds": 0}).result["text"].endswith("Loop")


def test_an_input_that_the_api_would_refuse_is_refused(testbed):
    with pytest.raises(ContractError):
        testbed.run("number.add.v1", {"a": -1})
    with pytest.raises(LookupError, match="name its result with stub"):
        testbed.run("image.thumbnail.v1", {"longest_side": 20})


def test_retries_take_no_time_and_follow_the_policy(testbed):
    assert testbed.run("trouble.make.v1", {"times": 2}).attempts == [3]
    lost = testbed.run("trouble.make.v1", {"times": 3})
    assert (lost.state, lost.error["code"], lost.attempts) == ("FAILURE", "acme.busy", [3])
    assert testbed.run("trouble.make.v1", {"times": 3}, retry={"max_attempts": 4}).state == "SUCCESS"
    assert testbed.run("trouble.make.v1", {"times": 1, "final": True}).attempts == [1]


def test_a_function_that_would_end_its_process_ends_its_step(testbed):
    for name in ("text.leave.v1", "text.cancel.v1"):
        left = testbed.run(name, {"text": "x"})
        assert (left.state, left.error["code"], left.attempts) == ("FAILURE", "task.failed", [1])


def test_a_killed_worker_runs_it_again_and_a_poison_message_is_buried(testbed):
    testbed.kill("number.add.v1", times=2)
    assert testbed.run("number.add.v1", {"a": 1}).record.steps[0].delivery == 3
    testbed.kill("number.add.v1", times=3)
    assert testbed.run("number.add.v1", {"a": 1}).error["code"] == "delivery.limit"


def test_branches_join_and_files_are_handed_on(testbed):
    branches = [("number.add.v1", {"a": number}) for number in range(3)]
    assert testbed.run_workflow([branches, ("number.total.v1", {"a": 10})]).result == {"total": 13}
    seen = testbed.stub("image.thumbnail.v1", {})
    written = testbed.run_workflow([("text.write.v1", {"text": "a,b"}), ("image.thumbnail.v1", {"longest_side": 20})])
    assert seen == [{"longest_side": 20}]
    assert testbed.read_output(written.outputs[0]) == b"a,b"
    assert written.result["outputs"][0]["media_type"] == "text/csv"


def test_a_lifespan_is_opened_and_closed(acme, tmp_path, monkeypatch):
    monkeypatch.setattr(acme, "FOLDER", tmp_path)
    with Testbed(acme.worker, settings={"acme_greeting": "Ahoy"}) as made:
        assert made.run("text.write.v1", {"text": "x"}).result["text"] == "Ahoy, x"
    assert [line.split()[0] for line in (tmp_path / "notes").read_text().splitlines()] == ["opened", "closed"]
