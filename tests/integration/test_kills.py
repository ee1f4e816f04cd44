"""Processes killed at the worst moments: the work is done once more, its effects are there once."""

from __future__ import annotations

import os
import signal

import pytest

from devstack.waiting import until

from .conftest import JPEG, photo

ONE = {"OFFLOAD_CONCURRENCY": "1"}


def check_done_once(offload, client, task_id: str, recipient: str = "ann@example.com") -> dict:
    task = offload.wait(client, task_id, seconds=40)
    assert task["state"] == "SUCCESS", task
    assert [name.split("-")[0] for name in offload.outputs(task_id)] == ["resize", "thumbnail"]
    until(lambda: offload.smtp.to(recipient), "the mail")
    until(offload.is_quiet, "every message to be settled")
    assert offload.subjects(recipient) == ["Your images are ready"]
    return task


def test_kill_9_in_the_middle_of_a_resize_at_the_real_lease(offload):
    """With the lease of 10 s that users have: how soon the work is back, `make faults` measures."""
    offload.environment |= {"OFFLOAD_LEASE_SECONDS": "10", "OFFLOAD_SWEEP_INTERVAL_SECONDS": "1"}
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", ONE)
    task_id = offload.post_photo(client)
    pause.reached()
    offload.worker("image_worker", ONE)
    pause.process.kill()
    until(lambda: offload.task(client, task_id)["steps"][0]["deliveries"] == 2, "the second delivery", seconds=30)
    check_done_once(offload, client, task_id)


POINTS = ("before STARTED", "in the step", "before storing", "after storing")


def test_kill_9_at_every_point_of_a_step(offload):
    """A worker stands still at each point, with a task of its own, and is killed there."""
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    pauses, tasks = [], {}
    for point in POINTS:
        pauses.append(offload.paused("image_worker", point, ONE))
        tasks[point] = offload.post_photo(client, notify=f"{point.replace(' ', '-')}@example.com")
        pauses[-1].reached()
    for pause in pauses:
        pause.process.kill()
    offload.worker("image_worker", ONE)
    for point, task_id in tasks.items():
        task = check_done_once(offload, client, task_id, f"{point.replace(' ', '-')}@example.com")

        def with_notification(trace_id: str = task["trace_id"]) -> list | None:
            found = offload.otlp.trace(trace_id)
            return found if any("notify" in span.name for span in found) else None

        assert {span.trace_id for span in until(with_notification, "the trace")} == {task["trace_id"]}, point


def test_one_pool_child_killed_is_followed_by_the_next_delivery(offload):
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", ONE)
    task_id = offload.post_photo(client)
    pause.reached()
    (child,) = pause.process.children()
    os.kill(child, signal.SIGKILL)
    task = check_done_once(offload, client, task_id)
    assert task["steps"][0]["deliveries"] == 2
    assert pause.process.exit_code is None, "the worker lives"


@pytest.mark.parametrize("point", ["before FAILURE", "after FAILURE"])
def test_killed_around_storing_a_failure_the_user_is_told_once(offload, point):
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    pause = offload.paused("image_worker", point, ONE)
    query = {"width": 10, "thumbnail": 16, "notify": "ann@example.com"}
    task_id = client.post("/v1/images", params=query, content=b"no image", headers=JPEG).json()["task_id"]
    pause.reached()
    pause.process.kill()
    offload.worker("image_worker", ONE)
    task = offload.wait(client, task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "image.not_an_image")
    assert [step["state"] for step in task["steps"]] == ["FAILURE", "REVOKED", "REVOKED"]
    assert task["steps"][1]["error"]["code"] == "previous_step_failed"
    until(lambda: offload.smtp.to("ann@example.com"), "the mail")
    until(offload.is_quiet, "every message to be settled")
    assert offload.subjects("ann@example.com") == ["Your task could not be done"]
    told = offload.smtp.to("ann@example.com")[0].parsed.get_body(("plain",)).get_content()
    for part in (task_id, "image.resize.v1", "image.not_an_image", "not an image of a format that we read"):
        assert part in told


def test_a_poisonous_task_is_buried_and_its_user_is_told_once(offload):
    """A task that kills the process that runs it, each time: after three deliveries it goes to the dead letters."""
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    task_id = offload.post_photo(client)
    for _ in range(3):
        pause = offload.paused("image_worker", "in the step", ONE)
        pause.reached()
        pause.process.kill()
    # Whoever sweeps reports it: here the mail worker, which cannot run the task itself.
    task = offload.wait(client, task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "delivery.limit")
    until(lambda: offload.smtp.to("ann@example.com"), "the mail about it")
    offload.worker("image_worker", ONE)
    assert offload.wait(client, offload.post_photo(client, notify="bob@example.com"))["state"] == "SUCCESS"
    assert offload.subjects("ann@example.com") == ["Your task could not be done"]
    client = offload.redis.client()
    assert client.hlen("offload:queue:images:dead") == 1
    assert client.ttl(f"offload:task:{task_id}") > 3600, "a dead letter keeps its record"


def test_a_sweeper_killed_between_burying_and_reporting_loses_no_report(offload):
    """The letter is born unreported; the next sweeper reports it."""
    offload.gateway()
    client = offload.client()
    task_id = offload.post_photo(client)
    redis = offload.redis.client()
    from celery_leases import scripts

    prefix = "offload:queue:"
    scripts.POP(redis, [f"{prefix}images"], [prefix, "a dying worker", 60_000, "poller", 1, "lease"])
    scripts.HAND_BACK(redis, [], [prefix, "images", f"{task_id}:0:0", "a dying worker", 1, "failed", 1])

    (_, letter) = scripts.REPORT(redis, [], [prefix, "images", 1_500])
    assert letter, "taken to be reported, and then the sweeper dies"
    assert offload.task(client, task_id)["state"] == "PENDING"
    offload.worker("mail_worker")
    task = offload.wait(client, task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "delivery.limit")
    until(lambda: offload.smtp.to("ann@example.com"), "the mail about it")
    until(offload.is_quiet, "every message to be settled")
    assert len(offload.smtp.to("ann@example.com")) == 1


def test_a_worker_that_slept_through_its_lease_changes_nothing(offload):
    offload.gateway()
    offload.worker("mail_worker")
    client = offload.client()
    pause = offload.paused("image_worker", "before storing", ONE)
    task_id = offload.post_photo(client)
    pause.reached()
    pause.process.send_group(signal.SIGSTOP)
    offload.worker("image_worker", ONE)
    task = check_done_once(offload, client, task_id)
    pause.go()
    pause.process.send_group(signal.SIGCONT)
    log = pause.process.output
    until(lambda: "fenced" in log() or "ended" in log() or "lost: the lease" in log(), "the sleeper to be told")
    assert offload.task(client, task_id) == task
    assert offload.subjects("ann@example.com") == ["Your images are ready"]


def test_sigterm_finishes_what_runs(offload):
    offload.gateway()
    client = offload.client()
    worker = offload.worker("image_worker", ONE)
    task_id = client.post("/v1/reports", json={"rows": 20_000}).json()["task_id"]
    until(lambda: offload.task(client, task_id)["state"] == "STARTED", "the report to start", pause_seconds=0.01)
    assert worker.stop() == 0
    assert offload.task(client, task_id)["state"] == "SUCCESS"
    assert offload.task(client, task_id)["steps"][0]["deliveries"] == 1


def test_a_message_without_a_record_is_buried_and_never_run(offload):
    offload.gateway()
    client = offload.client()
    task_id = client.post("/v1/images", content=photo(), headers=JPEG).json()["task_id"]
    redis = offload.redis.client()
    redis.delete(f"offload:task:{task_id}")
    offload.worker("image_worker", ONE)
    letter = until(lambda: redis.hget("offload:queue:images:dead", f"{task_id}:0:0"), "the dead letter")
    assert b"record.missing" in letter
    assert offload.outputs(task_id) == []
