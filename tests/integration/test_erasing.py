"""Erasing what a task was given and what it gave: nothing of it is left anywhere, and what happened to it is."""

from __future__ import annotations

import json

import pytest

from devstack.waiting import until

from .conftest import FAST, JPEG, WITH_KEYS, Offload, photo

PERSON = "zoe.quill.4711"


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    settings = FAST | WITH_KEYS | {"OFFLOAD_MAIL_RETRY_SECONDS": "0.2"}
    with Offload(tmp_path_factory.mktemp("erasing"), settings) as stack:
        stack.gateway()
        stack.worker("image_worker")
        stack.worker("mail_worker")
        yield stack


@pytest.fixture
def shop(offload):
    return offload.client_of("shop")


def everything(offload) -> str:
    """Return all that Redis holds, as text."""
    redis, found = offload.redis.client(), []
    read = {
        b"string": redis.get, b"hash": redis.hgetall, b"zset": lambda key: redis.zrange(key, 0, -1),
        b"list": lambda key: redis.lrange(key, 0, -1), b"set": redis.smembers, b"stream": redis.xrange,
    }  # fmt: skip
    for key in redis.scan_iter():
        kind = redis.type(key)
        if kind in read:
            found.append(f"{key!r} {read[kind](key)!r}")
    return "\n".join(found)


def test_a_task_that_has_ended_keeps_its_skeleton(offload, shop):
    query = {"width": 80, "thumbnail": 20, "notify": f"{PERSON}@example.com", "user_id": PERSON, "tags": "red"}
    posted = shop.post("/v1/images", params=query, content=photo(), headers=JPEG)
    assert posted.status_code == 202, posted.text
    task_id = posted.json()["task_id"]
    before = offload.wait(shop, task_id)
    assert before["state"] == "SUCCESS"
    assert offload.outputs(task_id)
    assert PERSON in everything(offload)
    erased = shop.delete(f"/v1/tasks/{task_id}/data")
    assert erased.status_code == 200, erased.text
    after = erased.json()
    assert PERSON not in everything(offload)
    assert offload.outputs(task_id) == []
    assert list((offload.blobs / "uploads").glob(f"{task_id}/*")) == []
    kept = ("task_id", "kind", "state", "created_at", "finished_at", "tags", "trace_id")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert [step["ended_at"] for step in after["steps"]] == [step["ended_at"] for step in before["steps"]]
    assert after["erased_at"] is not None
    assert (after["result"], after["user_id"], after["metadata"], after["links"]["outputs"]) == (None, None, None, [])
    output = before["links"]["outputs"][0]["href"]
    assert shop.get(output).json()["code"] == "output.not_found"
    # Asked for again, it is as erased as before.
    assert shop.delete(f"/v1/tasks/{task_id}/data").status_code == 200
    assert [one["task_id"] for one in shop.get("/v1/tasks").json()["data"]] == [task_id]


def test_its_dead_letter_goes_with_it(offload, shop):
    offload.smtp.stop()
    try:
        body = {"to": f"{PERSON}@example.com", "subject": f"Hello {PERSON}", "text": PERSON, "metadata": {"of": PERSON}}
        task_id = shop.post("/v1/emails", json=body).json()["task_id"]
        assert offload.wait(shop, task_id)["state"] == "FAILURE"
    finally:
        offload.smtp.start()
    root = offload.client_of("root")
    until(lambda: root.get("/v1/dead-letters").json()["dead_letters"], "the dead letter")
    erased = shop.delete(f"/v1/tasks/{task_id}/data").json()
    assert (erased["state"], erased["error"]["code"]) == ("FAILURE", "mail.unreachable")
    assert erased["error"]["message"] == "erased"
    assert root.get("/v1/dead-letters").json()["dead_letters"] == []
    assert PERSON not in json.dumps(erased)


def test_a_task_that_has_not_ended_is_not_erased(shop):
    body = {"to": "ann@example.com", "subject": "a", "text": "a", "delay_seconds": 600}
    task_id = shop.post("/v1/emails", json=body).json()["task_id"]
    refused = shop.delete(f"/v1/tasks/{task_id}/data")
    assert (refused.status_code, refused.json()["code"]) == (409, "task.not_finished")
    assert shop.delete(f"/v1/tasks/{task_id}").status_code == 200
    assert shop.delete(f"/v1/tasks/{task_id}/data").status_code == 200


def test_nobody_erases_what_is_another_tenants(offload, shop):
    task_id = shop.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    offload.wait(shop, task_id)
    for client, path in ((offload.client_of("other"), task_id), (shop, "no-such-task")):
        refused = client.delete(f"/v1/tasks/{path}/data")
        assert (refused.status_code, refused.json()["code"]) == (404, "task.not_found")
    assert offload.outputs(task_id)
    assert offload.client_of("root").delete(f"/v1/tasks/{task_id}/data").status_code == 200
