"""Two versions at once: a newer gateway with an older worker, and the other way about."""

from __future__ import annotations

import json

from devstack.waiting import until
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core import keys, messages, records
from offload_core.messages import NewStep
from offload_core.task_store import TaskStore

from .conftest import PREFIX

BROKER = f"{PREFIX}queue:"


def publish(offload, task_id: str, step: NewStep, **fields) -> None:
    made = messages.envelopes(task_id, [(step,)], {}, origin="test")
    task = records.NewTask(task_id, "report", "development", ((step,),), made, **fields)
    TaskStore(PREFIX, BROKER).accept(task).run(offload.redis.client())


def test_a_newer_messages_fields_are_ignored(offload):
    offload.gateway()
    offload.worker("image_worker")
    step = NewStep.of(RENDER_REPORT, RenderReport(rows=1))
    publish(offload, "newer", NewStep(step.name, step.queue, step.arguments | {"landscape": True}))
    assert offload.wait(offload.client(), "newer")["state"] == "SUCCESS"


def test_an_unknown_task_waits_for_a_worker_that_knows_it(offload):
    offload.gateway()
    offload.worker("image_worker")
    publish(offload, "unknown", NewStep("report.render.v2", "reports", {"rows": 1}))
    redis = offload.redis.client()
    until(lambda: redis.hget(f"{BROKER}reports:history", "unknown:0:0"), "the message to be handed back")
    client = offload.client()
    assert offload.task(client, "unknown")["state"] == "PENDING"
    other = client.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    assert offload.wait(client, other)["state"] == "SUCCESS", "it holds up nobody"


def test_a_task_that_nobody_ever_knows_fails_and_its_user_is_told(offload):
    offload.environment["OFFLOAD_UNKNOWN_TASK_GRACE_SECONDS"] = "1"
    offload.gateway()
    offload.worker("image_worker")
    offload.worker("mail_worker")
    publish(offload, "unknown", NewStep("report.render.v2", "reports", {"rows": 1}), notify="ann@example.com")
    task = offload.wait(offload.client(), "unknown", seconds=40)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "contract.unknown")
    until(lambda: offload.smtp.to("ann@example.com"), "the mail about it")


def test_a_message_that_cannot_be_decoded_fails_and_its_user_is_told(offload):
    offload.gateway()
    offload.worker("mail_worker")
    redis = offload.redis.client()
    step = NewStep.of(RENDER_REPORT, RenderReport(rows=1))
    publish(offload, "broken", step, notify="ann@example.com")
    message = json.loads(redis.hget(f"{BROKER}reports:live", "broken:0:0"))
    message["body"] = "this is no base64 of any JSON"
    redis.hset(f"{BROKER}reports:live", "broken:0:0", json.dumps(message))
    offload.worker("image_worker")
    task = offload.wait(offload.client(), "broken")
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "message.undecodable")
    until(lambda: offload.smtp.to("ann@example.com"), "the mail about it")
    assert redis.exists(keys.record(PREFIX, "broken-failure"))
