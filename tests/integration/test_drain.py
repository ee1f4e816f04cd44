"""SIGTERM: what runs may end until the drain deadline; then it is handed back, and the exit code is 0."""

from __future__ import annotations

import http.client
import json
import time

import pytest

from devstack.waiting import until

from .conftest import JPEG, photo

ONE = {"OFFLOAD_CONCURRENCY": "1"}
DRAIN = ONE | {"OFFLOAD_DRAIN_SECONDS": "1"}


def exit_code(process, seconds: float = 20) -> int:
    until(lambda: process.exit_code is not None, f"{process.name} to end", seconds=seconds)
    return process.exit_code


@pytest.mark.parametrize("module", ["image_worker", "mail_worker"])
def test_what_is_not_finished_at_the_deadline_is_handed_back_at_once(offload, module):
    offload.environment["OFFLOAD_LEASE_SECONDS"] = "60"
    offload.gateway()
    client = offload.client()
    pause = offload.paused(module, "in the step", DRAIN)
    if module == "image_worker":
        task_id = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    else:
        body = {"to": "ann@example.com", "subject": "Hello", "text": "Ann"}
        task_id = client.post("/v1/emails", json=body).json()["task_id"]
    pause.reached()
    pause.process.terminate()
    assert exit_code(pause.process) == 0
    assert "what runs is handed back" in pause.process.output()
    queue = "reports" if module == "image_worker" else "mail"
    # Not handed back, it would be leased for a minute more.
    assert offload.redis.client().zcard(f"offload:queue:{queue}:leases") == 0
    offload.worker(module, ONE)
    task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS"
    assert task["steps"][0]["deliveries"] == 2
    until(offload.is_quiet, "every message to be settled")
    assert offload.redis.client().hgetall("offload:queue:reports:history") == {}
    if module == "mail_worker":
        assert offload.subjects("ann@example.com") == ["Hello"]


def test_what_ends_before_the_deadline_is_not_interrupted(offload):
    offload.gateway()
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", ONE | {"OFFLOAD_DRAIN_SECONDS": "60"})
    task_id = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    later = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    pause.reached()
    pause.process.terminate()
    pause.process.wait_for("stopping: what runs may end within 60 s")
    pause.go()
    assert exit_code(pause.process) == 0
    task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS"
    assert task["steps"][0]["deliveries"] == 1
    # It took nothing more.
    assert offload.task(client, later)["state"] == "PENDING"


def test_the_deadline_holds_while_redis_is_away(offload):
    offload.gateway()
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", DRAIN)
    task_id = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    pause.reached()
    offload.redis.kill()
    pause.process.terminate()
    assert exit_code(pause.process) == 0
    offload.redis.start()
    offload.worker("image_worker", ONE)
    assert offload.wait(client, task_id)["state"] == "SUCCESS"


def test_a_draining_worker_does_not_wait_for_a_redis_that_is_gone(offload):
    """As when a release is removed while a report is made: there is nobody to tell of it."""
    offload.gateway()
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", ONE | {"OFFLOAD_DRAIN_SECONDS": "420"})
    task_id = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    pause.reached()
    pause.process.terminate()
    offload.redis.kill()
    assert exit_code(pause.process, seconds=40) == 0
    assert "it is given up" in pause.process.output()
    offload.redis.start()
    offload.worker("image_worker", ONE)
    assert offload.wait(client, task_id)["state"] == "SUCCESS"


def test_a_gateway_finishes_an_upload_that_has_begun(offload):
    gateway = offload.gateway()
    body = photo(800, 600)
    upload = http.client.HTTPConnection("127.0.0.1", offload.port, timeout=30)
    upload.putrequest("POST", "/v1/images")
    for name, value in {**JPEG, "Content-Length": str(len(body)), "Expect": "100-continue"}.items():
        upload.putheader(name, value)
    upload.endheaders()
    # The gateway has the request in hand from here: one that is still on its way may be refused.
    assert upload.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    gateway.terminate()
    # In pieces, for longer than a server takes that just stops.
    for start in range(0, len(body), 500):
        time.sleep(0.1)
        upload.send(body[start : start + 500])
    answer = upload.getresponse()
    accepted = json.load(answer)
    assert answer.status == 202, accepted
    assert exit_code(gateway) == 0
    assert offload.record(accepted["task_id"]).state == "PENDING"


def test_a_fleet_takes_its_own_queues_only(offload):
    offload.gateway()
    client = offload.client()
    fleet = offload.worker("image_worker", ONE | {"OFFLOAD_QUEUES": "reports"})
    image = offload.post_photo(client)
    report = client.post("/v1/reports", json={"rows": 10}).json()["task_id"]
    assert offload.wait(client, report)["state"] == "SUCCESS"
    assert offload.task(client, image)["state"] == "PENDING"
    assert fleet.stop() == 0


def test_a_queue_of_another_service_is_refused(offload):
    process = offload.service("image_worker", settings={"OFFLOAD_QUEUES": "images mail"})
    assert exit_code(process) != 0
    assert "OFFLOAD_QUEUES: image-worker serves images, reports, not mail" in process.output()
