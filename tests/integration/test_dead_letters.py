"""Dead letters: seen, brought back with all that they need, and deleted. Through the API, as an operator does it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

from celery_leases import scripts
from devstack.waiting import until
from gateway import auth
from housekeeper.clean_up import clean_up
from housekeeper.settings import HousekeeperSettings
from offload_core.blobs import BlobStore

from .conftest import JPEG

PREFIX = "offload:queue:"
ONE = {"OFFLOAD_CONCURRENCY": "1"}


def bury(offload, client, deliveries: int) -> str:
    """Post a photo, and kill each worker that takes it, until it is given up and its task knows."""
    task_id = offload.post_photo(client)
    for _ in range(deliveries):
        kill_one(offload)
    offload.wait(client, task_id)
    until(lambda: letters(client)[0]["reported"], "the letter to be reported")
    return task_id


def kill_one(offload) -> None:
    """Kill a worker in its step."""
    pause = offload.paused("image_worker", "in the step", ONE)
    pause.reached()
    pause.process.kill()


def letters(client, **query: object) -> list[dict]:
    response = client.get("/v1/dead-letters", params=query)
    assert response.status_code == 200, response.text
    return response.json()["dead_letters"]


def test_seen_redriven_after_its_results_would_have_expired_and_done(offload, monkeypatch):
    """The record, the upload, the events and the idempotency key outlive result_expires, for the letter's sake."""
    offload.environment |= {"OFFLOAD_RESULT_EXPIRES_SECONDS": "1", "OFFLOAD_OUTPUT_RETENTION_SECONDS": "1"}
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    task_id = bury(offload, client, deliveries=3)
    (letter,) = letters(client, queue="images")
    assert letters(client, queue="mail") == []
    assert (letter["task_id"], letter["step"], letter["task"]) == (task_id, 1, "image.resize.v1")
    assert (letter["reason"], letter["deliveries"], letter["earlier"]) == ("delivery.limit", 3, [])
    assert letter["last_worker"]
    assert letter["trace_id"] == offload.task(client, task_id)["trace_id"]
    whole = client.get(f"/v1/dead-letters/{letter['id']}").json()
    assert whole["message"]["body"][0][0]["source"] == f"uploads/{task_id}/original"
    assert whole["message"]["headers"]["task"] == "image.resize.v1"
    until(lambda: offload.subjects("ann@example.com"), "its user to be told")

    redis = offload.redis.client()
    for key in (f"offload:task:{task_id}", f"offload:events:{task_id}"):
        assert redis.ttl(key) > 13 * 86_400, key
    # The clean-up, long after everything of a task that has ended would have been deleted.
    for name, value in offload.environment.items():
        monkeypatch.setenv(name, value)
    settings = HousekeeperSettings(orphan_grace_seconds=1)
    clean_up(settings, redis, BlobStore(settings), thorough=True, now=datetime.now(UTC).replace(year=2099))

    redriven = client.post(f"/v1/dead-letters/{letter['id']}/redrive")
    assert (redriven.status_code, redriven.json()["outcome"]) == (200, "redriven")
    assert redis.ttl(f"offload:task:{task_id}") == -1, "alive again: nothing of it expires"
    offload.environment["OFFLOAD_RESULT_EXPIRES_SECONDS"] = "3600"
    offload.worker("image_worker", ONE)
    task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS", task
    assert [step["deliveries"] for step in task["steps"]] == [4, 1, 1]
    assert [(one["reason"], one["deliveries"], one["step"]) for one in task["redrives"]] == [("delivery.limit", 3, 1)]
    until(lambda: len(offload.smtp.to("ann@example.com")) == 2, "the mail that it is done")
    assert offload.subjects("ann@example.com") == ["Your images are ready", "Your task could not be done"]
    assert letters(client) == []
    again = client.post(f"/v1/dead-letters/{letter['id']}/redrive")
    assert (again.status_code, again.json()["code"]) == (404, "dead_letter.missing")
    assert 'offload_dead_letters_total{outcome="redriven",queue="images"} 1.0' in client.get("/metrics").text
    until(offload.is_quiet, "every message to be settled")
    assert not redis.exists("offload:queue:images:deaths", "offload:queue:images:history")


def test_a_later_step_is_redriven_with_what_the_steps_before_have_made(offload, monkeypatch):
    offload.environment["OFFLOAD_OUTPUT_RETENTION_SECONDS"] = "1"
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    task_id = offload.post_photo(client)
    pause = offload.paused("image_worker", "after storing", ONE)
    pause.reached()
    redis = offload.redis.client()
    # The thumbnail's message dies at once; the resize that published it is still at work.
    scripts.POP(redis, [f"{PREFIX}images"], [PREFIX, "a dying worker", 60_000, "poller", 1, "lease"])
    scripts.HAND_BACK(redis, [], [PREFIX, "images", f"{task_id}.2:0:0", "a dying worker", 1, "failed", 1])
    pause.go()
    until(lambda: offload.task(client, task_id)["state"] == "FAILURE", "the task to fail")
    until(lambda: letters(client)[0]["reported"], "the letter to be reported")
    for name, value in offload.environment.items():
        monkeypatch.setenv(name, value)
    settings = HousekeeperSettings()
    clean_up(settings, redis, BlobStore(settings), thorough=False, now=datetime.now(UTC).replace(year=2099))
    assert [step["state"] for step in offload.task(client, task_id)["steps"]] == ["SUCCESS", "FAILURE", "REVOKED"]
    assert client.post("/v1/dead-letters/redrive", json={"queue": "images"}).json()["redriven"] == 1
    task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS", task
    assert [name.split("-")[0] for name in offload.outputs(task_id)] == ["resize", "thumbnail"]


def test_one_that_dies_again_tells_its_user_again_and_keeps_its_history(offload):
    offload.environment["OFFLOAD_DELIVERY_LIMIT"] = "1"
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    task_id = bury(offload, client, deliveries=1)
    assert client.post(f"/v1/dead-letters/images:{task_id}:0:0/redrive").status_code == 200
    kill_one(offload)
    assert offload.wait(client, task_id)["error"]["code"] == "delivery.limit"
    until(lambda: len(offload.smtp.to("ann@example.com")) == 2, "the second notification")
    (letter,) = letters(client)
    assert [(one["reason"], one["deliveries"]) for one in letter["earlier"]] == [("delivery.limit", 1)]
    assert letter["deliveries"] == 2


def test_deleted_listed_in_pages_and_in_bulk(offload):
    """Eleven letters of which ten died in the same millisecond: no page leaves one out, or shows one twice."""
    key, line = auth.new_key("op", ["operator"])
    other, other_line = auth.new_key("app", ["tasks"])
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS": f"{line} {other_line}"})
    client = offload.client(headers={"Authorization": f"Bearer {key}"})
    app = offload.client(headers={"Authorization": f"Bearer {other}"})
    ids = [app.post("/v1/reports", json={"rows": 1}).json()["task_id"] for _ in range(11)]
    redis = offload.redis.client()
    for _ in ids:
        _, message_key, *_ = scripts.POP(
            redis, [f"{PREFIX}reports"], [PREFIX, "a dying worker", 60_000, "poller", 1, "lease"]
        )
        scripts.HAND_BACK(redis, [], [PREFIX, "reports", message_key, "a dying worker", 1, "failed", 1])
    moment = round(time.time() * 1000) - 60_000
    redis.zadd(f"{PREFIX}reports:dead-at", {f"{one}:0:0": moment for one in ids[:10]})
    unreported = client.post(f"/v1/dead-letters/reports:{ids[0]}:0:0/redrive")
    assert (unreported.status_code, unreported.json()["code"]) == (409, "dead_letter.unreported")
    for one in ids:
        letter = json.loads(redis.hget(f"{PREFIX}reports:dead", f"{one}:0:0"))
        if one in ids[:10]:
            redis.hset(f"{PREFIX}reports:dead", f"{one}:0:0", json.dumps(letter | {"died_at_ms": moment}))
    offload.worker("mail_worker")
    until(lambda: all(one["reported"] for one in letters(client)), "all of them to be reported")

    seen, cursor = [], None
    while True:
        page = client.get("/v1/dead-letters", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [one["task_id"] for one in page["dead_letters"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert seen[0] == ids[10], "the newest first"

    assert client.delete(f"/v1/dead-letters/reports:{ids[0]}:0:0").status_code == 204
    assert client.delete(f"/v1/dead-letters/reports:{ids[0]}:0:0").json()["code"] == "dead_letter.missing"
    assert 0 < redis.ttl(f"offload:task:{ids[0]}") <= 3600, "kept as long as any other that has ended"
    redis.delete(f"offload:task:{ids[1]}")
    some = [f"reports:{ids[1]}:0:0", f"reports:{ids[2]}:0:0", "nonsense"]
    answer = client.post("/v1/dead-letters/redrive", json={"ids": some}).json()
    assert [one["outcome"] for one in answer["results"]] == ["record.missing", "redriven", "dead_letter.missing"]
    assert client.post("/v1/dead-letters/redrive", json={"queue": "reports", "reason": "other"}).json()["redriven"] == 0
    assert client.post("/v1/dead-letters/redrive", json={"queue": "reports", "limit": 9}).json()["redriven"] == 8
    offload.worker("image_worker", ONE)
    assert offload.wait(client, ids[2])["state"] == "SUCCESS"

    for method, path in (
        ("GET", "/v1/dead-letters"), ("GET", "/v1/dead-letters/reports:x"), ("DELETE", "/v1/dead-letters/reports:x"),
        ("POST", "/v1/dead-letters/reports:x/redrive"), ("POST", "/v1/dead-letters/redrive"),
    ):  # fmt: skip
        assert app.request(method, path, json={"ids": ["x"]}).json()["code"] == "auth.scope", path
    assert client.get("/v1/dead-letters", params={"cursor": "x"}).json()["code"] == "request.invalid"
    assert client.get("/v1/dead-letters", params={"limit": 0}).json()["code"] == "request.invalid"
    assert client.post("/v1/dead-letters/redrive", json={}).json()["code"] == "request.invalid"
    assert client.get("/v1/dead-letters/nonsense").json()["code"] == "dead_letter.missing"


def test_a_task_that_was_cancelled_is_not_brought_back(offload):
    offload.gateway()
    client = offload.client()
    task_id = client.post("/v1/images", content=b"x", headers=JPEG).json()["task_id"]
    redis = offload.redis.client()
    scripts.POP(redis, [f"{PREFIX}images"], [PREFIX, "a dying worker", 60_000, "poller", 1, "lease"])
    assert client.delete(f"/v1/tasks/{task_id}").status_code == 202
    scripts.HAND_BACK(redis, [], [PREFIX, "images", f"{task_id}:0:0", "a dying worker", 1, "failed", 1])
    redis.hset(f"offload:task:{task_id}", "state", "REVOKED")
    redis.delete(f"{PREFIX}images:unreported")
    answer = client.post(f"/v1/dead-letters/images:{task_id}:0:0/redrive")
    assert (answer.status_code, answer.json()["code"]) == (409, "task.ended")
