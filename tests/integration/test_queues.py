"""Queues are paused and limited by operators: for every worker, and nothing that waits is lost."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from devstack.waiting import until

from .test_batches import running

QUEUE = "/v1/queues/batch"


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with running(tmp_path_factory.mktemp("queues")) as stack:
        yield stack


@pytest.fixture
def root(offload):
    client = offload.client_of("root")
    yield client
    client.delete(f"{QUEUE}/pause")
    client.patch(QUEUE, json={"max_running": None, "rate": None})


@pytest.fixture
def shop(offload):
    return offload.client_of("shop")


def post(client, **given) -> str:
    answer = client.post("/v1/tasks", json={"task": "batch.item.v1", "input": {"number": 1, **given}})
    assert answer.status_code == 202, answer.text
    return answer.json()["task_id"]


def looked(offload) -> None:
    """Wait until idle workers have taken each wake-up of the queue: with each they look at it."""
    until(lambda: not offload.redis.client().exists("offload:queue:batch:bell"), "the worker to look")


def told(offload, owner: str) -> list[tuple[str, dict]]:
    """Return what a stream of events says of the queue."""
    entries = offload.redis.client().xrange(f"offload:events-of:{owner}")
    found = [(fields[b"type"].decode(), json.loads(fields[b"data"])) for _, fields in entries]
    return [(kind, data) for kind, data in found if kind.startswith("queue.")]


def test_a_paused_queue_accepts_and_runs_nothing_until_it_is_resumed(offload, root, shop):
    go_on = offload.folder / "go-on"
    running_task = post(shop, until=str(go_on))
    until(lambda: shop.get(f"/v1/tasks/{running_task}").json()["state"] == "STARTED", "a task to run")
    paused = root.put(f"{QUEUE}/pause", json={"note": "the database is being moved"}).json()
    assert paused["paused"] == {
        "note": "the database is being moved", "since": paused["paused"]["since"], "until": None,
    }  # fmt: skip
    # As it is asked a second time, nothing changes but the note.
    again = root.put(f"{QUEUE}/pause", json={"note": "still"}).json()["paused"]
    assert again == paused["paused"] | {"note": "still"}
    go_on.touch()
    assert offload.wait(shop, running_task)["state"] == "SUCCESS", "what runs ends"
    waiting = []
    for _ in range(3):
        waiting.append(post(shop))
        looked(offload)
    assert {shop.get(f"/v1/tasks/{task_id}").json()["state"] for task_id in waiting} == {"PENDING"}
    shown = root.get(QUEUE).json()
    assert (shown["waiting"], shown["running"]) == (3, 0)
    assert 'offload_queue_paused{queue="batch"} 1.0' in root.get("/metrics").text
    assert root.delete(f"{QUEUE}/pause").status_code == 204
    assert {offload.wait(shop, task_id)["state"] for task_id in waiting} == {"SUCCESS"}
    assert root.delete(f"{QUEUE}/pause").status_code == 204, "it may be asked twice"
    assert root.get(QUEUE).json()["paused"] is None
    expected = [
        ("queue.paused", {"queue": "batch", "note": "the database is being moved"}),
        ("queue.resumed", {"queue": "batch"}),
    ]
    assert told(offload, "root") == told(offload, "") == expected
    assert told(offload, "shop") == []


def test_a_pause_with_an_end_ends_by_itself_and_says_so(offload, root, shop):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    before = len(told(offload, "root"))
    shown = root.put(f"{QUEUE}/pause", json={"until": ends.isoformat()}).json()
    assert shown["paused"]["until"] == ends.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    task = offload.wait(shop, post(shop))
    assert datetime.fromisoformat(task["steps"][0]["started_at"]) >= ends - timedelta(milliseconds=1)
    both = ["queue.paused", "queue.resumed"]
    until(lambda: [kind for kind, _ in told(offload, "root")[before:]] == both, "the event of its end")


def test_a_queue_runs_and_begins_no_more_than_it_may(offload, root, shop):
    go_on = offload.folder / "go-on-limited"
    assert root.patch(QUEUE, json={"max_running": 2}).json()["max_running"] == 2
    tasks = [post(shop, until=str(go_on)) for _ in range(5)]
    until(lambda: root.get(QUEUE).json()["running"] == 2, "as many to run as may")
    looked(offload)
    shown = root.get(QUEUE).json()
    assert (shown["running"], shown["waiting"]) == (2, 3), "of four slots two stay free"
    go_on.touch()
    assert {offload.wait(shop, task_id)["state"] for task_id in tasks} == {"SUCCESS"}
    assert root.patch(QUEUE, json={"rate": 2}).json()["max_running"] == 2, "what is not named stays"
    assert root.patch(QUEUE, json={"max_running": None}).json()["max_running"] is None
    started = time.time()
    tasks = [offload.wait(shop, task_id) for task_id in [post(shop) for _ in range(6)]]
    begun = sorted(datetime.fromisoformat(task["steps"][0]["started_at"]).timestamp() for task in tasks)
    # Two may have been saved; the other four come at two a second.
    assert begun[-1] - started >= 4 / 2 - 0.1


def test_what_is_wrong_is_refused(root, shop):
    path = f"{QUEUE}/pause"
    for method, url, body in (("PUT", path, {}), ("DELETE", path, None), ("PATCH", QUEUE, {"rate": 1})):
        assert shop.request(method, url, json=body).json()["code"] == "auth.scope"
    unknown = "/v1/queues/none"
    for method, url in (("PUT", f"{unknown}/pause"), ("DELETE", f"{unknown}/pause"), ("PATCH", unknown)):
        answer = root.request(method, url, json={})
        assert (answer.status_code, answer.json()["code"]) == (404, "queue.not_found")
    for method, url, body, field in (
        ("PUT", path, {"until": "2020-01-01T00:00:00Z"}, "until"),
        ("PUT", path, {"note": "x" * 501}, "note"),
        ("PATCH", QUEUE, {"max_running": 0}, "max_running"),
        ("PATCH", QUEUE, {"rate": 0}, "rate"),
        ("PATCH", QUEUE, {"max_runing": 1}, "max_runing"),
    ):
        answer = root.request(method, url, json=body).json()
        assert (answer["code"], [one["field"] for one in answer["errors"]]) == ("request.invalid", [field]), answer
    assert root.get(QUEUE).json()["paused"] is None
