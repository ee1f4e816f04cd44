"""What is refused when too much waits, and what is warned of."""

from __future__ import annotations

import pytest

from devstack.servers import RedisServer
from devstack.waiting import until

from .conftest import JPEG, photo

MAIL = {"to": "ann@example.com", "subject": "Hello", "text": "Hello."}


def test_a_full_queue_refuses_what_is_new_and_answers_what_is_not(offload):
    offload.environment["OFFLOAD_QUEUE_LIMIT"] = "3"
    offload.gateway()
    client = offload.client()
    key = {"Idempotency-Key": "first"}
    first = client.post("/v1/reports", json={"rows": 1}, headers=key)
    for _ in range(2):
        assert client.post("/v1/reports", json={"rows": 1}).status_code == 202
    refused = client.post("/v1/reports", json={"rows": 1})
    assert (refused.status_code, refused.json()["code"]) == (429, "queue.full")
    assert int(refused.headers["Retry-After"]) > 0
    again = client.post("/v1/reports", json={"rows": 1}, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert client.post("/v1/images", content=photo(), headers=JPEG).status_code == 202, "another queue has room"
    for _ in range(2):
        client.post("/v1/images", content=photo(), headers=JPEG)
    assert client.post("/v1/images", content=photo(), headers=JPEG).status_code == 429
    waiting = [client.post("/v1/emails", json=MAIL).json()["task_id"] for _ in range(3)]
    assert client.post("/v1/emails", json=MAIL).status_code == 429
    assert client.delete(f"/v1/tasks/{waiting[0]}").status_code == 200
    assert client.post("/v1/emails", json=MAIL).status_code == 202, "a cancelled task does not wait"
    uploads = list((offload.blobs / "uploads").rglob("original"))
    assert len(uploads) == 3, "a refused upload is deleted"
    worker = offload.worker("image_worker")
    offload.worker("mail_worker")
    until(offload.is_quiet, "the queues to be empty")
    assert client.post("/v1/reports", json={"rows": 1}).status_code == 202
    assert worker.exit_code is None


def test_a_redis_that_is_nearly_full_refuses_what_is_new(offload):
    offload.redis.stop()
    offload.redis = RedisServer(offload.folder / "small", options=["--maxmemory", "16mb"]).start()
    offload.environment["OFFLOAD_REDIS_URL"] = offload.redis.url
    offload.gateway()
    client = offload.client()
    key = {"Idempotency-Key": "first"}
    first = client.post("/v1/reports", json={"rows": 1}, headers=key)
    assert first.status_code == 202
    redis = offload.redis.client()
    while redis.info("memory")["used_memory"] < 0.85 * 16 * 2**20:
        redis.rpush("ballast", b"x" * 100_000)
    refused = until(
        lambda: (response := client.post("/v1/reports", json={"rows": 1})).status_code == 503 and response,
        "the refusal",
    )
    assert refused.json()["code"] == "redis.memory"
    assert refused.headers["Retry-After"]
    assert client.post("/v1/images", content=photo(), headers=JPEG | {"Idempotency-Key": "new"}).status_code == 503
    assert not list((offload.blobs / "uploads").rglob("original"))
    assert client.post("/v1/reports", json={"rows": 1}, headers=key).json() == first.json()
    redis.delete("ballast")
    until(lambda: client.post("/v1/reports", json={"rows": 1}).status_code == 202, "posts to be accepted again")


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--appendfsync", "everysec"], "appendfsync is everysec, not always"),
        (["--appendonly", "no"], "appendonly is no, not yes"),
        (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy is allkeys-lru, not noeviction"),
    ],
)
def test_settings_of_redis_that_weaken_a_promise_are_named(offload, options, warning):
    offload.redis.stop()
    offload.redis = RedisServer(offload.folder / "other", options=options).start()
    offload.environment["OFFLOAD_REDIS_URL"] = offload.redis.url
    gateway = offload.gateway()
    assert offload.client().get("/readyz").json()["warnings"] == [warning]
    assert warning in gateway.output()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"OFFLOAD_REDIS_URL": "redis+cluster://localhost"}, "redis_url"),
        ({"OFFLOAD_REDIS_URL": "http://localhost"}, "redis_url"),
        ({"OFFLOAD_BLOB_URL": "ftp://x"}, "blob_url"),
        ({"OFFLOAD_LINK_SECRET": "short"}, "link_secret"),
        ({"OFFLOAD_DEVELOPMENT_MODE": "false"}, "OFFLOAD_API_KEYS"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name(offload, settings, named):
    gateway = offload.service("gateway", settings=settings)
    until(lambda: gateway.exit_code is not None, "the gateway to refuse")
    assert gateway.exit_code != 0
    assert named in gateway.output()
