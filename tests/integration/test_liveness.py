"""The heartbeat file: fresh while the worker does its work or waits for Redis, old when its loop stands still."""

from __future__ import annotations

import signal
import time

import pytest

from devstack.waiting import until


def age(path) -> float:
    return time.time() - path.stat().st_mtime


@pytest.mark.parametrize("module", ["image_worker", "mail_worker", "beat"])
def test_the_stamp_tells_whether_the_loop_lives(offload, module):
    heartbeat = offload.folder / "alive"
    settings = {"OFFLOAD_LIVENESS_FILE": str(heartbeat)}
    worker = (
        offload.service(module, settings=settings) if module == "beat" else offload.worker(module, settings=settings)
    )
    until(heartbeat.exists, "the first heartbeat")
    offload.redis.kill()
    died_at = time.time()
    # Half of what the probe allows: it must stay fresh while Redis is unavailable.
    while time.time() - died_at < 20:
        assert age(heartbeat) < 15
        time.sleep(0.2)
    offload.redis.start()
    until(lambda: age(heartbeat) < 1.5, "heartbeats to go on")
    worker.send_group(signal.SIGSTOP)
    until(lambda: age(heartbeat) > 4, "the heartbeat file to grow old")
    worker.send_group(signal.SIGCONT)
    until(lambda: age(heartbeat) < 1.5, "heartbeats to go on")


def test_a_full_worker_is_alive(offload):
    heartbeat = offload.folder / "alive"
    offload.gateway()
    client = offload.client()
    settings = {"OFFLOAD_LIVENESS_FILE": str(heartbeat), "OFFLOAD_CONCURRENCY": "1"}
    pause = offload.paused("image_worker", "in the step", settings)
    client.post("/v1/reports", json={"rows": 1})
    pause.reached()
    for beat in range(8):
        last = heartbeat.stat().st_mtime
        until(lambda last=last: heartbeat.stat().st_mtime > last, f"heartbeat {beat} of a full worker")
    pause.go()


def test_a_redis_that_hangs_is_like_one_that_is_away(offload):
    """Stopped, not refused: the kernel goes on to accept connections, and nobody answers."""
    alive, ready = offload.folder / "alive", offload.folder / "ready"
    offload.gateway()
    client = offload.client()
    worker = offload.worker(
        "image_worker", settings={"OFFLOAD_LIVENESS_FILE": str(alive), "OFFLOAD_READINESS_FILE": str(ready)}
    )
    until(ready.exists, "the worker to be ready")
    offload.redis.process.send(signal.SIGSTOP)
    try:
        stopped_at, oldest = time.time(), 0.0
        # Past kombu's own limit for a silent poll, and into the reconnects.
        while time.time() - stopped_at < 28:
            oldest = max(oldest, age(alive))
            time.sleep(0.5)
        assert oldest < 20, "a probe allows 30 s"
        assert not ready.exists() or age(ready) > 10
        assert client.get("/readyz").status_code == 503
    finally:
        offload.redis.process.send(signal.SIGCONT)
    until(lambda: ready.exists() and age(ready) < 2, "the worker to be ready again", seconds=60)
    # The gateway looks once a second: until it has, posts get 503, and a client repeats them.
    post = lambda: client.post("/v1/reports", json={"rows": 1}).json().get("task_id")  # noqa: E731 -- a condition
    task_id = until(post, "a post to be taken")
    assert offload.wait(client, task_id)["state"] == "SUCCESS"
    assert worker.exit_code is None
