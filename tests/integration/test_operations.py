"""What operators and their machines ask: is it let in, how do the queues stand, does the whole of it work."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx

from devstack.servers import free_port
from devstack.waiting import until
from gateway import auth

ONE = {"OFFLOAD_CONCURRENCY": "1"}


def test_a_gateway_is_let_in_once_redis_has_answered_and_then_stays(offload):
    offload.redis.kill()
    offload.gateway()
    client = offload.client()
    starting = client.get("/startupz")
    assert starting.status_code == 503
    assert starting.json() == {"status": "starting", "checks": {"redis": "unavailable", "blob": "ok"}}
    offload.redis.start()
    until(lambda: client.get("/startupz").status_code == 200, "the gateway to have started")
    offload.redis.kill()
    until(lambda: client.get("/readyz").status_code == 503, "the gateway to know of the outage")
    assert client.get("/startupz").status_code == 200
    refused = client.post("/v1/reports", json={"rows": 1})
    assert (refused.status_code, refused.json()["code"]) == (503, "redis.unavailable")
    assert refused.headers["Retry-After"]


def test_queues_are_shown_to_operators_alone(offload):
    keys = {scope: auth.new_key(scope, [scope]) for scope in ("operator", "tasks")}
    lines = " ".join(line for _, line in keys.values())
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS": lines})
    operator, other = (
        offload.client(headers={"Authorization": f"Bearer {keys[scope][0]}"}) for scope in ("operator", "tasks")
    )
    for path in ("/v1/queues", "/v1/queues/reports"):
        assert other.get(path).json()["code"] == "auth.scope"
        assert httpx.get(f"{offload.url}{path}").status_code == 401
    assert operator.get("/v1/queues/nonsense").json()["code"] == "queue.not_found"

    def reports() -> dict:
        return operator.get("/v1/queues/reports").json()

    nothing = {"waiting": 0, "running": 0, "delayed": 0, "dead": 0, "oldest_age_seconds": 0.0}
    assert reports() == {"name": "reports", "paused": None, "max_running": None, "rate": None} | nothing
    pause = offload.paused("image_worker", "in the step", ONE)
    for _ in range(3):
        other.post("/v1/reports", json={"rows": 1})
    other.post("/v1/reports", json={"rows": 1, "delay_seconds": 600})
    pause.reached()
    shown = reports()
    assert (shown["waiting"], shown["running"], shown["delayed"]) == (2, 1, 1)
    until(lambda: reports()["oldest_age_seconds"] > shown["oldest_age_seconds"], "the age to grow")
    metrics = operator.get("/metrics").text
    assert 'offload_queue_messages{place="running",queue="reports"} 1.0' in metrics
    assert 'offload_queue_oldest_age_seconds{queue="images"} 0.0' in metrics
    assert [queue["name"] for queue in operator.get("/v1/queues").json()["queues"]] == [
        "images", "reports", "mail", "callbacks", "calls", "webhooks", "maintenance",
    ]  # fmt: skip
    pause.go()
    until(lambda: reports()["running"] + reports()["waiting"] == 0, "the reports to be done")
    offload.redis.kill()
    assert operator.get("/v1/queues").json()["code"] == "redis.unavailable"


def smoke(url: str, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "smoke", "--url", url, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | {"OFFLOAD_API_KEY": key}
    )


def test_the_smoke_trial_sees_a_whole_chain_and_fails_without_one(offload):
    offload.gateway()
    failed = smoke(offload.url, "--timeout-seconds", "2")
    assert failed.returncode == 1
    assert "FAILED: waited in vain for the task to end" in failed.stderr
    for module in ("image_worker", "mail_worker"):
        offload.worker(module)
    done = smoke(offload.url, "--recipient", "ann@example.com")
    assert done.returncode == 0, done.stderr
    assert "SUCCESS    mail.notify.v1" in done.stdout
    assert done.stdout.count("fetched") == 2
    until(lambda: offload.smtp.to("ann@example.com"), "the mail")


def test_the_smoke_trial_says_why_a_key_is_refused(offload):
    _, line = auth.new_key("shop", ["tasks"])
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS": line})
    refused = smoke(offload.url, "--timeout-seconds", "2", key="offload_wrong")
    assert refused.returncode == 1
    assert "answered 401" in refused.stderr
    assert "auth.refused" in refused.stderr


def test_only_one_gateway_exports_what_all_share(offload):
    """So that a sum over the gateways counts a message once; when that one is gone, another one does."""
    offload.gateway()
    port = free_port()
    other = offload.service("gateway", settings={"OFFLOAD_PORT": str(port)})
    other.wait_for_http(f"http://127.0.0.1:{port}/healthz")

    def exporters() -> list[str]:
        urls = (offload.url, f"http://127.0.0.1:{port}")
        return [url for url in urls if "offload_queue_messages{" in httpx.get(f"{url}/metrics").text]

    assert exporters() == [offload.url]
    assert exporters() == [offload.url], "and goes on to"
    # As when it has not been scraped for two minutes.
    offload.redis.client().delete("offload:exporter")
    assert httpx.get(f"http://127.0.0.1:{port}/metrics").text.count("offload_queue_messages{") == 28
    assert exporters() == [f"http://127.0.0.1:{port}"]
    for url in (offload.url, f"http://127.0.0.1:{port}"):
        assert 'offload_dependency_up{dependency="redis"} 1.0' in httpx.get(f"{url}/metrics").text
