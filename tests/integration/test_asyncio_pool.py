"""A pool of coroutines keeps what the other pools keep: time limits, retries, drain, outages, and a slot for each."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from devstack.waiting import until
from offload_worker import Worker

from .test_own_worker import post

HERE = Path(__file__).parent


@pytest.fixture
def slow(offload):
    offload.gateway()
    offload.own = lambda settings=None: offload.own_worker("asyncio_worker:worker", HERE, settings)
    return offload


def test_steps_end_in_every_way(slow, tmp_path):
    worker = slow.own({"OFFLOAD_CONCURRENCY": "20"})
    client, file = slow.client(), tmp_path / "file"

    def task(name: str, **given) -> str:
        return post(slow, client, f"slow.{name}.v1", given)

    waited, over, left = task("wait", seconds=0.1), task("wait", seconds=60), task("leave")
    failing, postponed, blocked = (
        task("fail"),
        task("postpone", seconds=0.3, file=str(file)),
        task("blocked", file=str(file)),
    )
    assert slow.wait(client, waited)["result"] == {"attempt": 0, "delivery": 1}
    assert slow.wait(client, over)["error"]["code"] == "task.soft_time_limit"
    assert slow.wait(client, left)["error"]["code"] == "task.failed"
    failed = slow.wait(client, failing)
    assert failed["result"]["attempt"] == 1
    dead = slow.wait(client, blocked)
    assert (dead["state"], dead["error"]["code"], dead["steps"][0]["attempts"]) == ("FAILURE", "slow.blocked", 1)
    # What is postponed has made no attempt, however often it comes back.
    until(lambda: slow.task(client, postponed)["steps"][0]["deliveries"] >= 3, "it to come back", seconds=20)
    file.touch()
    done = slow.wait(client, postponed)
    assert done["result"]["attempt"] == 0
    assert done["result"]["delivery"] >= 3
    [letter] = until(lambda: client.get("/v1/dead-letters").json()["dead_letters"], "the dead letter")
    assert (letter["task_id"], letter["reason"]) == (blocked, "slow.blocked")
    assert client.post(f"/v1/dead-letters/{letter['id']}/redrive").status_code == 200
    assert slow.wait(client, blocked)["state"] == "SUCCESS"
    assert worker.exit_code is None
    until(slow.is_quiet, "the last acknowledgements")


def test_a_retry_comes_no_sooner_than_it_was_asked_to(slow, tmp_path):
    slow.own()
    client, file = slow.client(), tmp_path / "moments"
    task = slow.wait(client, post(slow, client, "slow.fail.v1", {"file": str(file)}))
    assert task["steps"][0]["attempts"] == 2
    first, second = (float(line) for line in file.read_text().split())
    # From the first attempt itself: its events are written after the message that is due later.
    assert second - first >= 1.5


def test_sigterm_lets_what_runs_end_and_hands_back_what_does_not(slow, tmp_path):
    file = tmp_path / "file"
    worker = slow.own({"OFFLOAD_CONCURRENCY": "3", "OFFLOAD_DRAIN_SECONDS": "4"})
    client = slow.client()
    tasks = [post(slow, client, "slow.wait.v1", {"file": str(file)}) for _ in range(5)]
    until(lambda: [slow.task(client, one)["state"] for one in tasks].count("STARTED") == 3, "three to run")
    worker.terminate()
    time.sleep(0.5)  # not a wait: the worker is asked to stop while they run
    file.touch()
    until(lambda: worker.exit_code is not None, "the worker to end", seconds=20)
    assert worker.exit_code == 0
    assert [slow.task(client, one)["state"] for one in tasks].count("SUCCESS") == 3
    slow.own()
    for one in tasks:
        assert slow.wait(client, one)["state"] == "SUCCESS"


def test_redis_away_fails_nothing_and_stops_no_other_coroutine(slow, tmp_path):
    slow.own({"OFFLOAD_CONCURRENCY": "50"})
    client, file = slow.client(), tmp_path / "file"
    tasks = [post(slow, client, "slow.wait.v1", {"file": str(file)}) for _ in range(10)]
    until(lambda: all(slow.task(client, one)["state"] == "STARTED" for one in tasks), "all to run", seconds=30)
    slow.redis.kill()
    file.touch()
    time.sleep(7)  # not a wait: an outage that is longer than what the tasks may take
    slow.redis.start()
    assert [slow.wait(client, one)["error"] for one in tasks] == [None] * len(tasks)


def test_a_plain_function_is_refused():
    worker = Worker("plain-worker", pool="asyncio")
    with pytest.raises(TypeError, match="must be `async def`"):

        @worker.task("plain.wait.v1", queue="slow")
        def wait() -> None:
            pass
