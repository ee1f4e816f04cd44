"""Redis unavailable, the mail server away, the store gone, the collector silent: nobody's task fails for it."""

from __future__ import annotations

import shutil
import time
from datetime import datetime

import pytest

from devstack.waiting import until

from .conftest import JPEG, photo

POINTS = ("before STARTED", "in the step", "before storing")


@pytest.mark.parametrize("seconds", [1, 15])
def test_redis_away_at_every_point_of_a_step(offload, seconds):
    """Workers wait where they are, go on by themselves, and each user gets one mail."""
    offload.gateway()
    client = offload.client()
    # The longer outage is also longer than the time limits, which are the step's own.
    limits = {"OFFLOAD_SOFT_TIME_LIMIT_SECONDS": "9", "OFFLOAD_HARD_TIME_LIMIT_SECONDS": "11"}
    one = limits | {"OFFLOAD_CONCURRENCY": "1"}
    pauses = [offload.paused("image_worker", point, one) for point in POINTS]
    mail = offload.worker("mail_worker")
    tasks = [offload.post_photo(client, notify=f"user{number}@example.com") for number in range(len(POINTS))]
    for pause in pauses:
        pause.reached()
    offload.redis.kill()
    for pause in pauses:
        pause.go()
    time.sleep(seconds)  # the outage itself
    offload.redis.start()
    for number, task_id in enumerate(tasks):
        task = offload.wait(client, task_id, seconds=60)
        assert (task["state"], [step["state"] for step in task["steps"]]) == ("SUCCESS", ["SUCCESS"] * 3), task
        assert [step["attempts"] for step in task["steps"]] == [1, 1, 1]
        assert len(offload.outputs(task_id)) == 2
        until(lambda number=number: offload.smtp.to(f"user{number}@example.com"), "the mail")
    until(offload.is_quiet, "every message to be settled", seconds=60)
    for number in range(len(tasks)):
        assert offload.subjects(f"user{number}@example.com") == ["Your images are ready"]
    assert [pause.process.exit_code for pause in pauses] == [None] * len(POINTS)
    assert mail.exit_code is None


def test_redis_down_at_accept_is_said_within_two_seconds(offload):
    gateway = offload.gateway()
    client = offload.client()
    offload.redis.kill()
    for _ in range(3):
        started = time.monotonic()
        response = client.post("/v1/images", content=photo(), headers=JPEG)
        assert time.monotonic() - started < 2
        assert response.status_code == 503
        assert response.json()["code"] in {"accept.unknown", "redis.unavailable"}
        assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/v1/tasks/x").json()["code"] == "redis.unavailable"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/metrics").status_code == 200
    until(
        lambda: client.post("/v1/reports", json={"rows": 1}).json()["code"] == "redis.unavailable",
        "the gateway to know it before it reads a body",
    )
    offload.redis.start()
    until(lambda: client.post("/v1/reports", json={"rows": 1}).status_code == 202, "posts to be accepted again")
    assert gateway.exit_code is None


def test_the_mail_server_down_is_tried_again_and_then_said(offload):
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    offload.smtp.stop()
    post = {"to": "ann@example.com", "subject": "Hello", "text": "Hello."}
    short, long = (client.post("/v1/emails", json=post).json()["task_id"] for _ in range(2))
    until(lambda: offload.task(client, short)["state"] == "RETRY", "the first retry")
    shown = offload.task(client, short)
    assert "mail server cannot be reached" in shown["message"]
    assert shown["steps"][0]["retry_at"]
    task = offload.wait(client, short, seconds=60)
    assert (task["state"], task["error"]["code"], task["steps"][0]["attempts"]) == ("FAILURE", "mail.unreachable", 4)
    offload.wait(client, long)
    offload.smtp.start()
    again = client.post("/v1/emails", json=post).json()["task_id"]
    assert offload.wait(client, again)["state"] == "SUCCESS"


def test_a_mail_server_that_comes_back_gets_the_mail(offload):
    offload.environment["OFFLOAD_RETRY_BACKOFF_SECONDS"] = "1"
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    offload.smtp.stop()
    post = {"to": "ann@example.com", "subject": "Hello", "text": "Hello."}
    task_id = client.post("/v1/emails", json=post).json()["task_id"]
    until(lambda: offload.task(client, task_id)["state"] == "RETRY", "the first retry")
    offload.smtp.start()
    task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS"
    assert task["error"] is None
    assert len(offload.smtp.to("ann@example.com")) == 1


def test_a_store_that_takes_nothing_is_tried_again_and_then_said(offload):
    offload.gateway()
    offload.worker("image_worker")
    offload.worker("mail_worker")
    client = offload.client()
    outputs = offload.blobs / "outputs"
    outputs.parent.mkdir(exist_ok=True)
    outputs.write_text("a file where a folder belongs: nothing can be written below it")
    task_id = offload.post_photo(client)
    until(lambda: offload.task(client, task_id)["state"] == "RETRY", "the first retry")
    assert offload.task(client, task_id)["steps"][0]["error"]["code"] == "blob.unavailable"
    task = offload.wait(client, task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "blob.unavailable")
    until(lambda: offload.smtp.to("ann@example.com"), "the mail about it")
    outputs.unlink()
    assert offload.wait(client, offload.post_photo(client))["state"] == "SUCCESS"
    assert offload.subjects("ann@example.com") == ["Your images are ready", "Your task could not be done"]


def test_an_upload_that_is_gone_is_said(offload):
    offload.gateway()
    client = offload.client()
    task_id = offload.post_photo(client)
    shutil.rmtree(offload.blobs / "uploads")
    offload.worker("image_worker")
    assert offload.wait(client, task_id)["error"]["code"] == "blob.missing"


def test_a_store_that_is_gone_at_accept_is_said(offload):
    offload.gateway()
    client = offload.client()
    (offload.blobs / "uploads").write_text("a file where a folder belongs")
    response = client.post("/v1/images", content=photo(), headers=JPEG)
    assert (response.status_code, response.json()["code"]) == (503, "blob.unavailable")
    assert response.headers["Retry-After"]
    assert not offload.redis.client().keys("offload:task:*")


@pytest.mark.parametrize("collector", ["away", "silent"])
def test_a_collector_that_does_not_answer_slows_nothing(offload, collector):
    """On average less than 50 ms a task: two workers share a queue, one of them without any telemetry."""
    if collector == "away":
        offload.otlp.stop()
    else:
        offload.otlp.silent.set()
    offload.gateway()
    client = offload.client()
    tasks = [client.post("/v1/reports", json={"rows": 1}).json()["task_id"] for _ in range(90)]
    one = {"OFFLOAD_CONCURRENCY": "1"}
    watched = offload.worker("image_worker", one)
    plain = offload.worker("image_worker", one | {"OTEL_SDK_DISABLED": "true"})
    more = [client.post("/v1/reports", json={"rows": 1}).json()["task_id"] for _ in range(90)]
    records = [offload.wait(client, task_id) for task_id in tasks + more]
    assert {record["state"] for record in records} == {"SUCCESS"}
    # Only what was done while both were there is compared.
    spans: dict[str, list[str]] = {"image_worker-1@local": [], "image_worker-2@local": []}
    for record in records:
        spans[record["steps"][0]["worker"]].append(record["steps"][0]["started_at"])
    both_from = min(spans["image_worker-2@local"])
    seconds = {name: _seconds_a_task([one for one in starts if one >= both_from]) for name, starts in spans.items()}
    slower = seconds["image_worker-1@local"] - seconds["image_worker-2@local"]
    assert slower < 0.05, f"{slower:.3f} s slower with a collector that is {collector}"
    assert (watched.stop(), plain.stop()) == (0, 0)


def _seconds_a_task(starts: list[str]) -> float:
    times = sorted(datetime.fromisoformat(one) for one in starts)
    return (times[-1] - times[0]).total_seconds() / (len(times) - 1)
