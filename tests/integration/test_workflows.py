"""Workflows: each stage is published once, by the script that stores the last result of the one before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from devstack.waiting import until
from offload_core import catalogue, keys

from . import acme_worker
from .conftest import PREFIX

HERE = Path(__file__).parent


@pytest.fixture
def acme(offload, tmp_path):
    """Offload with its gateway, whose own task types are known, and no worker."""
    offload.environment["ACME_FOLDER"] = str(tmp_path)
    offload.gateway()
    offload.own = lambda settings=None: offload.own_worker("acme_worker:worker", HERE, settings)
    offload.notes = lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []
    # As its worker has registered them, which is not started here.
    entries = acme_worker.worker.entries(acme_worker.AcmeSettings(redis_url=offload.redis.url))
    catalogue.register(offload.redis.client(), PREFIX, "acme-worker", entries)
    client = offload.client()
    until(lambda: client.get("/v1/task-types/number.add.v1").status_code == 200, "the task types")
    return offload


def step(task: str = "number.add.v1", **given) -> dict:
    return {"task": task, "input": {"a": 0, **given}}


def post(acme, *steps: dict, **options) -> str:
    response = acme.client().post("/v1/tasks", json={"steps": list(steps), **options})
    assert response.status_code == 202, response.text
    return response.json()["task_id"]


def states(task: dict) -> list[str]:
    return [one["state"] for one in task["steps"]]


def test_the_next_step_has_the_results_of_all_branches_in_their_order(acme):
    acme.own({"OFFLOAD_CONCURRENCY": "3"})
    client = acme.client()
    branches = {"parallel": [step(a=number, note="branch") for number in range(1, 6)]}
    task_id = post(acme, step(a=7), branches, step("number.total.v1", a=100, note="join"), step("number.total.v1", a=1))
    task = acme.wait(client, task_id)
    assert (task["state"], task["result"]) == ("SUCCESS", {"total": 116})
    assert [one["stage"] for one in task["steps"]] == [1, 2, 2, 2, 2, 2, 3, 4]
    assert states(task) == ["SUCCESS"] * 8
    assert sum(line.startswith("join") for line in acme.notes()) == 1
    assert {span.trace_id for span in acme.otlp.trace(task["trace_id"])} == {task["trace_id"]}


def test_branches_may_come_first_and_last(acme):
    acme.own()
    client = acme.client()
    task_id = post(
        acme, {"parallel": [step(a=1), step(a=2)]}, {"parallel": [step("number.total.v1", a=n) for n in (1, 2)]}
    )
    task = acme.wait(client, task_id)
    assert (task["state"], task["result"]) == ("SUCCESS", [{"total": 4}, {"total": 5}])
    only = acme.wait(client, post(acme, {"parallel": [step(a=1), step(a=2)]}))
    assert only["result"] == [{"total": 1}, {"total": 2}]


def test_a_failing_branch_fails_the_task_once_and_the_rest_is_cancelled(acme):
    client = acme.client()
    broken = {"task": "trouble.make.v1", "input": {"final": True}}
    task_id = post(acme, {"parallel": [broken, *(step(note="branch") for _ in range(9))]}, step(note="never"))
    acme.own({"OFFLOAD_CONCURRENCY": "1"})
    task = acme.wait(client, task_id)
    assert (task["state"], task["error"]["code"], task["reason"]) == ("FAILURE", "acme.busy", "acme.busy")
    assert states(task)[0] == "FAILURE"
    assert states(task)[-1] == "REVOKED"
    assert "REVOKED" in states(task)[1:-1]
    until(acme.is_quiet, "nothing to be left")
    assert not any(line.startswith("never") for line in acme.notes())
    counted = acme.redis.client().hgetall(next(acme.redis.client().scan_iter(f"{PREFIX}figures:*")))
    assert counted[b"task:FAILURE"] == b"1"


def test_a_cancelled_workflow_ends_with_what_runs(acme, tmp_path):
    client = acme.client()
    task_id = post(acme, {"parallel": [step(note="hold"), step(note="hold"), step(note="hold")]}, step(note="never"))
    acme.own({"OFFLOAD_CONCURRENCY": "1"})
    until(lambda: any(line.startswith("hold") for line in acme.notes()), "a branch to run")
    assert client.delete(f"/v1/tasks/{task_id}").status_code == 202
    (tmp_path / "go").touch()
    task = acme.wait(client, task_id)
    assert (task["state"], task["reason"]) == ("REVOKED", "task.cancelled")
    assert sorted(states(task)) == ["REVOKED", "REVOKED", "REVOKED", "SUCCESS"]
    waiting = post(acme, step(), step(), delay_seconds=60)
    assert client.delete(f"/v1/tasks/{waiting}").status_code == 200
    assert client.delete(f"/v1/tasks/{waiting}").json()["code"] == "task.finished"
    assert states(acme.task(client, waiting)) == ["REVOKED", "REVOKED"]


def test_a_redriven_branch_brings_those_back_that_were_cancelled_with_it(acme, tmp_path):
    """One fails, one runs meanwhile, one waits; each of them counts once in the end."""
    client = acme.client()
    trouble = {"task": "trouble.make.v1", "input": {"until": "healed"}}
    branches = {"parallel": [trouble, step(a=5, note="hold"), step(a=7, note="waits")]}
    task_id = post(acme, step(a=1), branches, step("number.total.v1", note="join"), retry={"max_attempts": 1})
    acme.own({"OFFLOAD_CONCURRENCY": "1"})
    failed = acme.wait(client, task_id)
    assert states(failed) == ["SUCCESS", "FAILURE", "REVOKED", "REVOKED", "REVOKED"]
    for name in ("go", "healed"):
        (tmp_path / name).touch()
    until(acme.is_quiet, "what ran to end")
    assert client.post("/v1/dead-letters/redrive", json={"queue": "numbers"}).json()["redriven"] == 1
    task = acme.wait(client, task_id)
    assert (task["state"], task["result"], states(task)) == ("SUCCESS", {"total": 12}, ["SUCCESS"] * 5)
    assert [line.split()[0] for line in acme.notes() if line.startswith(("waits", "join"))] == ["waits", "join"]


def test_a_worker_killed_at_each_branch_joins_once(acme, tmp_path):
    """Killed with every branch in the midst; the next stage is published once, whoever ends the last branch."""
    client = acme.client()
    joins = 6
    tasks = [
        post(
            acme,
            {"parallel": [step(a=1, note="branch"), step(a=2, note="hold"), step(a=3)]},
            step("number.total.v1", note="join"),
        )
        for _ in range(joins)
    ]
    for _ in range(2):
        own = acme.own({"OFFLOAD_CONCURRENCY": "4"})
        held = len(acme.notes())
        until(lambda held=held: len(acme.notes()) > held, "something to run", seconds=30)
        time.sleep(0.2)  # somewhere in the midst
        own.kill()
    (tmp_path / "go").touch()
    acme.own({"OFFLOAD_CONCURRENCY": "4"})
    for task_id in tasks:
        task = acme.wait(client, task_id)
        assert (task["state"], task["result"]) == ("SUCCESS", {"total": 6})
    joined = [line for line in acme.notes() if line.startswith("join")]
    assert sorted(joined) == sorted(f"join {task_id}.4" for task_id in tasks)


def test_kill_9_before_and_after_the_join_is_stored(offload):
    """A chain of built-in steps in a workflow: its worker stands still around the script that joins, and is killed."""
    offload.gateway()
    client = offload.client()
    first = offload.worker("image_worker")
    until(lambda: client.get("/v1/task-types/report.render.v1").status_code == 200, "the task types")
    first.stop()
    report = {"task": "report.render.v1", "input": {"rows": 1}}
    for point in ("before storing", "after storing"):
        pause = offload.paused("image_worker", point, {"OFFLOAD_CONCURRENCY": "1"})
        body = {
            "steps": [
                {"parallel": [report, report]},
                {"task": "report.render.v1", "input": {"rows": 2, "title": "last"}},
            ]
        }
        task_id = client.post("/v1/tasks", json=body).json()["task_id"]
        pause.reached()
        pause.process.kill()
        worker = offload.worker("image_worker")
        task = offload.wait(client, task_id)
        assert states(task) == ["SUCCESS"] * 3, (point, task)
        assert len(task["links"]["outputs"]) == 2, point
        # The message of the killed one comes back when its lease ends, which may be later: somebody has to settle it.
        until(offload.is_quiet, "every message to be settled")
        worker.stop()


def test_a_task_that_is_not_started_in_time_expires(acme):
    """With no worker beat finds it; what has started runs to its end."""
    acme.service("beat")
    client = acme.client()
    single = client.post("/v1/tasks", json={**step(), "expires_in_seconds": 0.5}).json()["task_id"]
    workflow = post(acme, {"parallel": [step(), step()]}, step(), expires_in_seconds=0.5)
    for task_id, expected in ((single, ["FAILURE"]), (workflow, ["FAILURE", "REVOKED", "REVOKED"])):
        task = acme.wait(client, task_id)
        assert (task["state"], task["reason"], states(task)) == ("FAILURE", "task.expired", expected)
    until(acme.is_quiet, "the messages to be withdrawn")
    in_time = client.post("/v1/tasks", json={**step(a=1), "expires_in_seconds": 600}).json()["task_id"]
    acme.own()
    assert acme.wait(client, in_time)["result"] == {"total": 1}
    assert acme.redis.client().exists(keys.expiring(PREFIX)) == 0


def test_options_are_kept_and_shown(acme):
    client = acme.client()
    options = {"tags": ["customer:7", "eu"], "metadata": {"order": 12, "nested": {"a": []}}}
    task_id = post(acme, step(), **options, run_at="2000-01-01T00:00:00+02:00")
    task = acme.task(client, task_id)
    assert (task["tags"], task["metadata"], task["due_at"]) == (options["tags"], options["metadata"], None)
    key = {"Idempotency-Key": "one"}
    first = client.post("/v1/tasks", json={**step(), **options}, headers=key)
    again = client.post("/v1/tasks", json={**options, **step()}, headers=key)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    other = client.post("/v1/tasks", json=step(), headers=key)
    assert other.json()["code"] == "idempotency.conflict"


def test_a_step_of_ones_own_and_a_built_in_one_share_their_files(acme):
    acme.worker("image_worker")
    acme.own()
    client = acme.client()
    steps = [{"task": "text.write.v1", "input": {"text": "x"}}, {"task": "report.render.v1", "input": {"rows": 1}}]
    until(lambda: client.get("/v1/task-types/report.render.v1").status_code == 200, "the task types")
    task = acme.wait(client, post(acme, *steps))
    assert [one["step"] for one in task["links"]["outputs"]] == ["table", "report"]
    # A file of another task is nobody's to read.
    stolen = {"task": "image.resize.v1", "input": {"source": "uploads/somebody/original", "width": 5}}
    refused = acme.wait(client, client.post("/v1/tasks", json=stolen).json()["task_id"])
    assert refused["error"]["code"] == "blob.forbidden"
