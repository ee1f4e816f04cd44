"""One trace per task, over real processes, received by a real OTLP receiver."""

from __future__ import annotations

import os
import signal

import pytest

from devstack.waiting import until

PRODUCER, CONSUMER = 4, 5


def trace_of(offload, trace_id: str, spans: int):
    return until(
        lambda: len(found := offload.otlp.trace(trace_id)) >= spans and found, f"{spans} spans of one trace", seconds=20
    )


def test_upload_three_steps_and_the_mail_are_one_trace(offload):
    offload.start_all()
    client = offload.client()
    task = offload.wait(client, offload.post_photo(client))
    spans = trace_of(offload, task["trace_id"], 7)
    by_id = {span.span_id: span for span in spans}
    path, span = [], next(span for span in spans if span.name == "run/mail.notify.v1")
    while True:
        path.append((span.service, span.name))
        if not span.parent_id:
            break
        span = by_id[span.parent_id]
    assert path[::-1] == [
        ("gateway", "POST /v1/images"),
        ("gateway", "apply_async/image.resize.v1"),
        ("image-worker", "run/image.resize.v1"),
        ("image-worker", "apply_async/image.thumbnail.v1"),
        ("image-worker", "run/image.thumbnail.v1"),
        ("image-worker", "apply_async/mail.notify.v1"),
        ("mail-worker", "run/mail.notify.v1"),
    ]
    assert len(spans) == 7
    runs = [span for span in spans if span.kind == CONSUMER]
    for run in runs:
        assert run.attributes["messaging.system"] == "celery"
        assert run.attributes["messaging.operation.type"] == "process"
        assert run.attributes["offload.delivery_count"] == 1
        assert run.attributes["offload.queue.wait_seconds"] >= 0
        assert run.attributes["offload.worker"].endswith("@local")
    assert [span.attributes["messaging.destination.name"] for span in spans if span.kind == PRODUCER] == [
        "images", "images", "mail",
    ]  # fmt: skip


def test_runs_are_measured_by_task_type_and_outcome_with_the_trace_of_an_example(offload):
    """In every pool: processes (images), threads (mail), one event loop (calls)."""
    offload.environment |= {"OTEL_METRIC_EXPORT_INTERVAL": "500", "OFFLOAD_EGRESS_ALLOW": "127.0.0.0/8"}
    offload.start_all()
    offload.worker("http_worker")
    client = offload.client()
    photo = offload.wait(client, offload.post_photo(client))
    query = {"notify": "ann@example.com"}
    broken = client.post("/v1/images", params=query, content=b"no image", headers={"Content-Type": "image/png"})
    failed = offload.wait(client, broken.json()["task_id"])
    until(lambda: client.get("/v1/task-types/http.call.v1").status_code == 200, "the task type of calls")
    posted = client.post("/v1/calls", json={"method": "GET", "url": f"{offload.url}/healthz"}).raise_for_status()
    call = offload.wait(client, posted.json()["task_id"])
    assert call["state"] == "SUCCESS", call["error"]

    def examples(task_type: str, outcome: str) -> set[str]:
        wanted = {"celery.task_name": task_type, "offload.outcome": outcome}
        points = [one for one in offload.otlp.histograms if one.name == "offload.task.duration"]
        return {trace for one in points if one.attributes == wanted for trace in one.trace_ids}

    for task_type, outcome, task in (
        ("image.resize.v1", "success", photo),
        ("image.thumbnail.v1", "success", photo),
        ("mail.notify.v1", "success", photo),
        ("image.resize.v1", "failure", failed),
        ("http.call.v1", "success", call),
    ):
        until(
            lambda task_type=task_type, outcome=outcome, task=task: task["trace_id"] in examples(task_type, outcome),
            f"{task_type} {outcome} to be measured",
        )


def test_the_mail_about_a_failure_is_in_the_same_trace(offload):
    offload.start_all()
    client = offload.client()
    query = {"notify": "ann@example.com"}
    response = client.post("/v1/images", params=query, content=b"no image", headers={"Content-Type": "image/png"})
    task = offload.wait(client, response.json()["task_id"])
    spans = trace_of(offload, task["trace_id"], 4)
    run = next(span for span in spans if span.name == "run/image.resize.v1")
    assert run.is_error
    assert run.attributes["error.type"] == "image.not_an_image"
    assert any(span.name == "run/mail.notify_failure.v1" and span.parent_id == run.span_id for span in spans)


@pytest.mark.parametrize("children", ["SIGTERM", "one task each"])
def test_spans_of_pool_children_survive(offload, children):
    """Children leave by os._exit: without a flush of their own they would take their spans along."""
    offload.environment["OTEL_BSP_SCHEDULE_DELAY"] = "60000"
    offload.gateway()
    client = offload.client()
    settings = {"OFFLOAD_MAX_TASKS_PER_CHILD": "1"} if children == "one task each" else {}
    worker = offload.worker("image_worker", settings)
    tasks = [client.post("/v1/reports", json={"rows": 1}).json()["task_id"] for _ in range(10)]
    traces = [offload.wait(client, task_id)["trace_id"] for task_id in tasks]
    assert worker.stop() == 0
    runs = [span for span in offload.otlp.spans if span.name == "run/report.render.v1"]
    assert sorted(span.trace_id for span in runs) == sorted(traces)


def report_whose_child_is_ended(offload, how: signal.Signals):
    """End the pool child that runs a report; returns the report's task, done by its second run."""
    offload.gateway()
    client = offload.client()
    pause = offload.paused("image_worker", "in the step", {"OFFLOAD_CONCURRENCY": "1"})
    task_id = client.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    pause.reached()
    (child,) = pause.process.children()
    os.kill(child, how)
    return offload.wait(client, task_id)


def test_a_run_whose_process_died_is_told_of_by_the_parent(offload):
    task = report_whose_child_is_ended(offload, signal.SIGKILL)
    spans = trace_of(offload, task["trace_id"], 3)
    runs = until(
        lambda: len(found := [s for s in offload.otlp.trace(task["trace_id"]) if s.kind == CONSUMER]) == 2 and found,
        "both runs",
    )
    lost, done = sorted(runs, key=lambda span: span.start_ns)
    assert (lost.is_error, lost.attributes["error.type"]) == (True, "task.worker_lost")
    assert done.attributes["offload.delivery_count"] == 2
    assert lost.parent_id == done.parent_id == next(span.span_id for span in spans if span.kind == PRODUCER)


def test_a_step_past_its_hard_limit_is_an_error_in_the_trace(offload):
    offload.gateway()
    client = offload.client()
    limits = {"OFFLOAD_SOFT_TIME_LIMIT_SECONDS": "1", "OFFLOAD_HARD_TIME_LIMIT_SECONDS": "2"}
    pause = offload.paused("image_worker", "in the step", limits | {"OFFLOAD_CONCURRENCY": "1"})
    # Standing still before the step's own code, where the soft limit's exception has nobody to stop.
    task_id = client.post("/v1/reports", json={"rows": 1, "notify": "ann@example.com"}).json()["task_id"]
    pause.reached()
    task = offload.wait(client, task_id)
    assert task["state"] == "FAILURE"
    assert task["error"]["code"] in {"task.time_limit", "task.soft_time_limit"}
    runs = until(
        lambda: [s for s in offload.otlp.trace(task["trace_id"]) if s.name == "run/report.render.v1"], "the run's span"
    )
    assert all(run.is_error for run in runs), (task, offload.otlp.trace(task["trace_id"]))


def test_a_run_that_its_process_could_still_send_is_an_error_too(offload):
    """A child that is told to end unwinds, and sends the span of the run that it left open."""
    task = report_whose_child_is_ended(offload, signal.SIGTERM)

    def runs(delivery: int):
        found = [span for span in offload.otlp.trace(task["trace_id"]) if span.kind == CONSUMER]
        return [span for span in found if span.attributes["offload.delivery_count"] == delivery]

    until(lambda: len(runs(1)) == 2 and runs(2), "what both processes tell of the first run, and the second run")
    assert [span.is_error for span in runs(1)] == [True, True]
    assert {span.attributes["error.type"] for span in runs(1)} == {"task.worker_lost", "task.interrupted"}
    assert not runs(2)[0].is_error


def test_beats_slot_is_the_root_of_its_own_trace(offload):
    offload.worker("housekeeper")
    offload.service("beat", settings={"OFFLOAD_HEALTH_INTERVAL_SECONDS": "1"})
    run = until(lambda: [s for s in offload.otlp.spans if s.name == "run/maintenance.health.v1"], "a health check")[0]
    (sent,) = until(lambda: [s for s in offload.otlp.trace(run.trace_id) if s.service == "beat"], "its sender")
    assert (sent.name, sent.parent_id, run.parent_id) == ("apply_async/maintenance.health.v1", "", sent.span_id)
