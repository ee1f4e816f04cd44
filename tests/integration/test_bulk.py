"""Bulk operations: what they come to, what they leave alone, and that a worker that dies changes nothing of it."""

from __future__ import annotations

import json
import time

import pytest

from devstack.waiting import until
from gateway import auth
from offload_core import keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .conftest import FAST, PREFIX, Offload

KEYS = {name: auth.new_key(name, scopes) for name, scopes in {
    "shop": ["tasks"], "root": ["operator", "tasks"],
}.items()}  # fmt: skip
STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=600_000)
SETTINGS = FAST | {
    "OFFLOAD_DEVELOPMENT_MODE": "false",
    "OFFLOAD_API_KEYS": " ".join(line for _, line in KEYS.values()),
}


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with Offload(tmp_path_factory.mktemp("bulk"), SETTINGS) as stack:
        stack.gateway()
        stack.worker("housekeeper")
        yield stack


@pytest.fixture
def root(offload):
    offload.redis.client().flushall()
    return offload.client(headers={"Authorization": f"Bearer {KEYS['root'][0]}"})


def accept(offload, count: int, name: str = "task", owner: str = "shop", **fields) -> list[str]:
    redis, ids = offload.redis.client(), [f"{name}-{number:05}" for number in range(count)]
    for begin in range(0, count, 500):
        with redis.pipeline(transaction=False) as pipe:
            for task_id in ids[begin : begin + 500]:
                task = Publisher("test").task(task_id, "task", owner, [NewStep("a.b.v1", "nobody", {})], **fields)
                pipe.execute_command(*full(STORE.accept(task)))
            pipe.execute()
    return ids


def full(call) -> list:
    return call.script.command((), call.arguments, full=True)


def end(offload, task_id: str, state: str) -> None:
    redis, step = offload.redis.client(), keys.step_of(task_id)
    STORE.start(step, (0, 1), "w", {}).run(redis)
    STORE.finish(step, (0, 1), state, {"code": "it.failed", "message": "m"} if state == "FAILURE" else {}).run(redis)


def ended(client, location: str, seconds: float = 60) -> dict:
    return until(
        lambda: (found := client.get(location).json())["finished_at"] and found, "the operation's end", seconds=seconds
    )


def begin(client, **body) -> str:
    response = client.post("/v1/bulk", json=body)
    assert response.status_code == 202, response.text
    return response.headers["Location"]


def state_of(offload, task_id: str) -> str | None:
    found = offload.record(task_id)
    return found.state if found else None


def test_a_filter_cancels_what_it_finds_and_nothing_that_comes_later(offload, root):
    red = accept(offload, 30, "red", tags=("red",))
    blue = accept(offload, 5, "blue", tags=("blue",))
    end(offload, red[0], "SUCCESS")
    rehearsed = ended(root, begin(root, action="cancel", filter={"tag": ["red"]}, dry_run=True))
    assert (rehearsed["matched"], rehearsed["done"], rehearsed["state"]) == (29, 0, "done")
    assert state_of(offload, red[1]) == "PENDING"
    location = begin(root, action="cancel", filter={"tag": ["red"]})
    time.sleep(0.05)  # not a wait: what comes later has a later time
    late = accept(offload, 1, "late", tags=("red",))
    found = ended(root, location)
    assert (found["matched"], found["done"], found["skipped"]) == (29, 29, {})
    assert {state_of(offload, task_id) for task_id in red[1:]} == {"REVOKED"}
    assert {state_of(offload, task_id) for task_id in (*blue, *late)} == {"PENDING"}
    assert state_of(offload, red[0]) == "SUCCESS"


def test_ids_are_done_one_by_one_and_the_rest_is_said_why(offload, root):
    tasks = accept(offload, 3)
    end(offload, tasks[0], "SUCCESS")
    found = ended(root, begin(root, action="cancel", ids=[*tasks, "no-such-task"]))
    assert (found["matched"], found["done"]) == (4, 2)
    assert found["skipped"] == {"finished": 1, "record.missing": 1}


def test_redrive_brings_back_what_is_a_dead_letter(offload, root):
    posted = root.post("/v1/calls", json={"url": "https://example.com/"}).json()["task_id"]
    redis = offload.redis.client()
    # As the broker and the worker leave a message that was given up.
    base, message_key = f"{PREFIX}queue:calls", f"{posted}:0:0"
    message = redis.hget(f"{base}:live", message_key).decode()
    redis.hdel(f"{base}:live", message_key)
    redis.lrem(f"{base}:waiting", 0, message_key)
    # Now: the sweep deletes what has died long ago.
    died_at = round(time.time() * 1000)
    letter = {"message": message, "reason": "delivery.limit", "deliveries": 3, "owner": "w", "died_at_ms": died_at}
    redis.hset(f"{base}:dead", message_key, json.dumps(letter))
    redis.zadd(f"{base}:dead-at", {message_key: died_at})
    error = {"code": "delivery.limit", "message": "m"}
    STORE.finish(keys.step_of(posted), (0, 2**31), "FAILURE", error).run(redis)
    final = accept(offload, 1, "final")[0]
    end(offload, final, "FAILURE")
    found = ended(root, begin(root, action="redrive", filter={}))
    assert (found["matched"], found["done"], found["skipped"]) == (2, 1, {"dead_letter.missing": 1})
    assert (state_of(offload, posted), state_of(offload, final)) == ("PENDING", "FAILURE")


def test_delete_takes_records_events_and_files(offload, root):
    tasks = accept(offload, 3)
    end(offload, tasks[0], "SUCCESS")
    end(offload, tasks[1], "FAILURE")
    folder = offload.blobs / "outputs" / tasks[0]
    folder.mkdir(parents=True)
    (folder / "resize-abc.jpg").write_bytes(b"x")
    found = ended(root, begin(root, action="delete", filter={"tenant": "shop"}))
    assert (found["matched"], found["done"]) == (2, 2)
    assert [state_of(offload, task_id) for task_id in tasks] == [None, None, "PENDING"]
    assert not list(folder.glob("*"))
    redis = offload.redis.client()
    assert redis.exists(keys.events(PREFIX, tasks[0])) == 0
    assert redis.zcard(keys.forgetting(PREFIX)) <= 1  # of the operation's own task
    assert [one["task_id"] for one in root.get("/v1/tasks", params={"tenant": "shop"}).json()["data"]] == [tasks[2]]


def test_an_operation_is_aborted_and_what_is_done_stays_done(offload, root):
    accept(offload, 2000)
    location = begin(root, action="cancel", filter={"tenant": "shop"})
    until(lambda: root.get(location).json()["done"] > 0, "the beginning")
    assert root.post(f"{location}/abort").status_code == 202
    found = ended(root, location)
    assert (found["state"], found["abort_requested"]) == ("aborted", True)
    assert 0 < found["done"] < 2000
    revoked = offload.redis.client().zcard(keys.tasks(PREFIX, "shop", "REVOKED"))
    assert revoked == found["done"]


def test_three_at_once(offload, root):
    for process in offload.processes:
        if process.name.startswith("housekeeper"):
            process.stop()
    try:
        accept(offload, 1)
        for _ in range(3):
            begin(root, action="cancel", filter={})
        refused = root.post("/v1/bulk", json={"action": "cancel", "filter": {}})
        assert (refused.status_code, refused.json()["code"]) == (409, "bulk.limit")
    finally:
        offload.worker("housekeeper")


def test_it_is_for_operators(offload, root):
    shop = offload.client(headers={"Authorization": f"Bearer {KEYS['shop'][0]}"})
    for method, path in (("POST", "/v1/bulk"), ("GET", "/v1/bulk/x"), ("POST", "/v1/bulk/x/abort")):
        refused = shop.request(method, path, json={"action": "cancel", "ids": ["a"]} if path == "/v1/bulk" else None)
        assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope")
    assert root.get("/v1/bulk/x").json()["code"] == "bulk.not_found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "cancel"}, {"action": "cancel", "ids": []}, {"action": "cancel", "ids": ["a"], "filter": {}},
        {"action": "explode", "ids": ["a"]}, {"action": "cancel", "ids": ["a"] * 501},
        {"action": "cancel", "filter": {"state": "WAITING"}}, {"action": "cancel", "filter": {"limit": 3}},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(root, wrong):
    refused = root.post("/v1/bulk", json=wrong)
    assert (refused.status_code, refused.json()["code"]) == (422, "request.invalid")


def test_one_idempotency_key_begins_one_operation(root):
    body, key = {"action": "cancel", "ids": ["a"]}, {"Idempotency-Key": "bulk-1"}
    first, again = (root.post("/v1/bulk", json=body, headers=key) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = root.post("/v1/bulk", json=body | {"dry_run": True}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.conflict")


def test_a_housekeeper_killed_again_and_again_counts_each_task_once(offload, root):
    accept(offload, 1500)
    worker = next(process for process in reversed(offload.processes) if process.name.startswith("housekeeper"))
    location = begin(root, action="cancel", filter={"tenant": "shop"})
    # A third time would be one too often for any message.
    for _ in range(2):
        done = root.get(location).json()["done"]
        until(lambda done=done: root.get(location).json()["done"] > done, "it to go on", seconds=30)
        worker.kill()
        worker = offload.worker("housekeeper")
    found = ended(root, location)
    assert (found["matched"], found["done"], found["skipped"]) == (1500, 1500, {})
    assert offload.redis.client().zcard(keys.tasks(PREFIX, "shop", "REVOKED")) == 1500
