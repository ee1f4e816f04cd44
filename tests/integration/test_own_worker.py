"""Your own task types: a worker of one's own with its queues, on an Offload that knows nothing of it before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_leases import scripts
from devstack.waiting import until
from offload_worker import __main__ as command

from .conftest import PREFIX

if TYPE_CHECKING:
    import httpx

HERE = Path(__file__).parent


@pytest.fixture
def acme(offload, tmp_path):
    """Offload with its gateway and a worker of one's own."""
    offload.environment["ACME_FOLDER"] = str(tmp_path)
    offload.gateway()
    offload.own = lambda settings=None, **options: offload.own_worker("acme_worker:worker", HERE, settings, **options)
    offload.notes = lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []
    return offload


def post(offload, client: httpx.Client, task: str, given: dict, **options) -> str:
    """Post a task; returns its id. The gateway may not have read the catalogue yet."""

    def accepted() -> str | None:
        response = client.post("/v1/tasks", json={"task": task, "input": given, **options})
        if response.status_code == 422 and response.json()["code"] == "task_type.unknown":
            return None
        assert response.status_code == 202, response.text
        return response.json()["task_id"]

    return until(accepted, f"{task} to be accepted", seconds=20)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_functions_run_with_all_that_a_run_gives(acme, pool):
    process = acme.own({"ACME_POOL": pool, "OFFLOAD_ACME_GREETING": "Good day", "OFFLOAD_CONCURRENCY": "2"})
    client = acme.client()
    added = acme.wait(client, post(acme, client, "number.add.v1", {"a": 2, "b": 3}))
    assert (added["state"], added["result"], added["kind"]) == ("SUCCESS", {"total": 5}, "task")
    written = acme.wait(client, post(acme, client, "text.write.v1", {"text": "a,b\n1,2\n"}))
    assert written["result"]["text"] == "Good day, a,b\n1,2\n"
    (output,) = written["links"]["outputs"]
    assert (output["step"], output["media_type"], output["size_bytes"]) == ("table", "text/csv", 8)
    file = client.get(output["href"])
    assert (file.text, file.headers["content-type"].partition(";")[0]) == ("a,b\n1,2\n", "text/csv")
    waited = acme.wait(client, post(acme, client, "text.wait.v1", {"seconds": 0.01}))
    assert waited["result"] == {"text": "_UnixSelectorEventLoop"}
    assert waited["steps"][0]["progress"] == {"done": 1, "total": 2}
    nothing = acme.wait(client, post(acme, client, "text.forget.v1", {"text": "x"}))
    assert (nothing["state"], nothing["result"]) == ("SUCCESS", {})
    process.stop()
    assert len([line for line in acme.notes() if line.startswith("opened")]) == (1 if pool == "threads" else 2)
    if pool == "threads":
        assert len([line for line in acme.notes() if line.startswith("closed")]) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_function_that_would_end_its_process_ends_its_step(acme, pool):
    acme.own({"ACME_POOL": pool, "OFFLOAD_CONCURRENCY": "1"})
    client = acme.client()
    for name, left_by in (("leave", "SystemExit"), ("cancel", "CancelledError")):
        task = acme.wait(client, post(acme, client, f"text.{name}.v1", {"text": name}))
        assert (task["state"], task["error"]["code"]) == ("FAILURE", "task.failed")
        assert left_by in task["error"]["traceback"]
        assert [line for line in acme.notes() if line.startswith("left")].count(f"left {name}") == 1
    assert acme.wait(client, post(acme, client, "number.add.v1", {"a": 1}))["state"] == "SUCCESS"


def test_a_coroutine_is_cancelled_at_its_soft_limit(acme):
    acme.own({"ACME_POOL": "prefork"})
    client = acme.client()
    task = acme.wait(client, post(acme, client, "text.wait.v1", {"seconds": 60}))
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "task.soft_time_limit")


def test_retries_follow_the_task_type_and_the_post_may_ask_for_others(acme):
    acme.own()
    client = acme.client()

    def outcome(given: dict, **options) -> tuple[str, str | None, int]:
        task = acme.wait(client, post(acme, client, "trouble.make.v1", given, **options))
        return task["state"], task["reason"], task["steps"][0]["attempts"]

    assert outcome({"times": 2}) == ("SUCCESS", None, 3)
    assert outcome({"times": 3}) == ("FAILURE", "acme.busy", 3)
    assert outcome({"times": 1, "final": True}) == ("FAILURE", "acme.busy", 1)
    assert outcome({"times": 1, "raise_type": True}) == ("SUCCESS", None, 2)
    assert outcome({"times": 4}, retry={"max_attempts": 5, "schedule": [0.1, 0.05]}) == ("SUCCESS", None, 5)
    assert outcome({"times": 1}, retry={"max_attempts": 1}) == ("FAILURE", "acme.busy", 1)
    assert outcome({"times": 1}, retry={"give_up_on": ["acme.busy"]}) == ("FAILURE", "acme.busy", 1)
    assert outcome({"times": 1, "final": True}, retry={"retry_on": ["acme.busy"]}) == ("SUCCESS", None, 2)
    # What was given up after its last attempt is a dead letter, and can be redriven.
    assert client.get("/v1/queues/numbers").json()["dead"] == 2
    letters = client.get("/v1/dead-letters", params={"queue": "numbers"}).json()["dead_letters"]
    assert {(one["task"], one["reason"]) for one in letters} == {("trouble.make.v1", "acme.busy")}


def test_no_more_run_at_once_than_the_task_type_says(acme):
    acme.own({"OFFLOAD_CONCURRENCY": "4"})
    client = acme.client()
    tasks = [post(acme, client, "text.forget.v1", {"text": str(number)}) for number in range(4)]
    for task_id in tasks:
        assert acme.wait(client, task_id)["state"] == "SUCCESS"
    lines = [line.split()[0] for line in acme.notes() if line.split()[0] in {"begin", "end"}]
    assert lines == ["begin", "end"] * 4


def test_a_killed_workers_own_task_runs_again(acme, tmp_path):
    first = acme.own()
    client = acme.client()
    task_id = post(acme, client, "number.add.v1", {"a": 1, "note": "hold"})
    until(lambda: acme.notes()[-1:] != [] and acme.notes()[-1].startswith("hold"), "the task to begin")
    first.kill()
    (tmp_path / "go").touch()
    acme.own()
    task = acme.wait(client, task_id)
    assert (task["state"], task["result"], task["steps"][0]["deliveries"]) == ("SUCCESS", {"total": 1}, 2)


def test_private_values_are_shown_to_nobody(acme):
    own = acme.own()
    client = acme.client()
    acme.wait(client, post(acme, client, "number.add.v1", {"a": 1}))
    own.stop()
    task_id = post(acme, client, "number.add.v1", {"a": 1, "secret": "4711"}, private=["/secret", "/nothing/there"])
    redis = acme.redis.client()
    # A worker takes it, and dies.
    scripts.POP(redis, [f"{PREFIX}queue:numbers"], [f"{PREFIX}queue:", "a dying worker", 60_000, "poller", 1, "lease"])
    ended = [f"{PREFIX}queue:", "numbers", f"{task_id}:0:0", "a dying worker", 1, "failed", 1]
    assert scripts.HAND_BACK(redis, [], ended) == 2
    letter = client.get(f"/v1/dead-letters/numbers:{task_id}:0:0").json()
    assert letter["message"]["body"][0] == [{"a": 1, "secret": "<private>"}]
    shown = json.dumps([letter, client.get(f"/v1/tasks/{task_id}").json()])
    assert "4711" not in shown + "".join(process.output() for process in acme.processes)


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "offload_worker", *arguments]
    own = {"PATH": "", "PYTHONPATH": str(HERE), **environment}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=own, cwd=HERE)


def test_the_command_checks_a_worker_and_says_what_is_wrong():
    checked = run_module("acme_worker:worker", "--check")
    assert checked.returncode == 0, checked.stderr
    entries = {entry["name"]: entry for entry in json.loads(checked.stdout)}
    assert entries["trouble.make.v1"]["retry"]["schedule"] == [0.2, 0.2]
    assert entries["number.add.v1"]["input_schema"]["properties"]["a"]["minimum"] == 0
    assert "the settings were not checked" in checked.stderr
    help_text = run_module("--help").stdout
    assert "MODULE:NAME" in help_text
    assert "--check" in help_text
    wrong = run_module("acme_worker:worker", "--check", OFFLOAD_REDIS_URL="redis://x", OFFLOAD_QUEUES="images")
    assert wrong.returncode != 0
    assert "acme-worker serves numbers, texts, not images" in wrong.stderr


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("acme_worker", "names no worker: use MODULE:NAME"),
        ("nowhere:worker", "there is no module nowhere"),
        ("integration.acme_worker:nothing", "integration.acme_worker has no nothing"),
        ("integration.acme_worker:add", "is no offload_worker.Worker"),
    ],
)
def test_the_command_refuses_what_is_no_worker(monkeypatch, capsys, argument, said):
    monkeypatch.setattr("offload_worker.__main__.exit_on_sigterm", lambda: None)
    monkeypatch.setattr(sys, "argv", ["offload_worker", argument, "--check"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert (refused.value.code, said in capsys.readouterr().err) == (2, True)
