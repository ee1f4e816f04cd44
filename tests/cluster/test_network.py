"""NetworkPolicies and ACL users: what is needed works, what is not is refused, each tried with a new connection."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from devstack.waiting import until
from offload_contracts.images import RESIZE_IMAGE, ResizeImage
from offload_core import messages
from offload_core.messages import NewStep

from .cluster import OUTSIDE, RESTRICTED, Client, Release, Tally, get, kubectl
from .conftest import SMALL

TRY = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@pytest.fixture(scope="module")
def release(images):
    """With ACL users, and a pod of each fleet."""
    made = Release(
        "offload-network",
        [
            *images, "-f", str(SMALL), "--set", "redis.acl=true,gateway.replicas=1,gateway.rateLimitPerSecond=100",
            "--set", "workers.image.keda.minReplicas=1,workers.housekeeping.enabled=true",
            "--set", "workers.http.enabled=true,workers.http.keda.minReplicas=1",
        ],
    ).install()  # fmt: skip
    kubectl("create", "namespace", "offload-stranger", check=False)
    kubectl("label", "--overwrite", "namespace", "offload-stranger", RESTRICTED)
    yield made
    made.delete()
    kubectl("delete", "namespace", "offload-stranger", "--wait=false")


@pytest.fixture(scope="module")
def outside():
    """A web server that is not in the cluster."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", "lab-outside", sys.executable, "-m", "http.server", "8080", "--bind", OUTSIDE],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: reaches_from_host(OUTSIDE, 8080), "the server outside")
    yield OUTSIDE
    server.terminate()
    server.wait()


def reaches_from_host(host: str, port: int) -> bool:
    return (
        subprocess.run([sys.executable, "-c", TRY, host, str(port)], capture_output=True, check=False).returncode == 0
    )


def reaches(release: Release, component: str, host: str, port: int) -> bool:
    """Try a new connection from a pod."""
    container = "gateway" if component == "gateway" else "beat" if component == "beat" else "worker"
    said = release.kubectl(
        "exec", f"deployment/{release.name}-{component}", "-c", container, "--",
        "python", "-c", TRY, host, str(port), check=False,
    )  # fmt: skip
    if "Traceback" in said:
        assert "timed out" in said or "refused" in said.lower() or "unreachable" in said.lower(), said
        return False
    assert said.strip() == "", said
    return True


def test_what_is_needed_works(release, report):
    ready = until(
        lambda: all(
            {one["type"]: one["status"] for one in item["status"].get("conditions", [])}.get("Ready") == "True"
            for item in get("scaledobject", "-n", release.namespace)["items"]
        ),
        "every ScaledObject to be ready", seconds=60,
    )  # fmt: skip
    assert ready
    for component, host, port in (
        ("gateway", "offload-valkey", 6379), ("gateway", "offload-s3", 8333),
        ("beat", "offload-valkey", 6379),
        ("worker-image", "offload-valkey", 6379), ("worker-image", "offload-s3", 8333),
        ("worker-mail", "offload-valkey", 6379), ("worker-mail", "offload-mailpit", 1025),
        ("worker-housekeeping", "offload-valkey", 6379), ("worker-housekeeping", "offload-s3", 8333),
        ("worker-http", "offload-valkey", 6379),
    ):  # fmt: skip
        assert reaches(release, component, host, port), (component, host)
    with release.client() as client:
        for _ in range(3):
            client.post_photo()
        Tally.of(release, client, seconds=120).check()
    report.add(
        "Network", "policies first, then the ScaledObjects", "all Ready; 10 needed paths open, a chain goes through"
    )


def test_what_is_not_needed_is_refused(release, outside, report):
    beat = release.pods("beat")[0]["status"]["podIP"]
    image = release.pods("worker-image")[0]["status"]["podIP"]
    gateway = release.pods("gateway")[0]["status"]["podIP"]
    denied = (
        ("worker-image", outside, 8080), ("worker-image", "offload-mailpit", 1025), ("worker-mail", "offload-s3", 8333),
        ("worker-mail", outside, 8080), ("gateway", "offload-mailpit", 1025), ("beat", "offload-s3", 8333),
        ("gateway", beat, 8080), ("worker-mail", image, 8080), ("beat", outside, 8080),
        ("worker-housekeeping", "offload-mailpit", 1025), ("worker-housekeeping", outside, 8080),
        # Whatever its guard were to let through: nothing inside.
        ("worker-http", gateway, 8080), ("worker-http", "offload-gateway", 80),
        ("worker-http", "offload-s3", 8333), ("worker-http", "offload-mailpit", 1025),
    )  # fmt: skip
    # The server outside answers: what is refused is refused by the policy.
    assert reaches_from_host(outside, 8080)
    for component, host, port in denied:
        assert not reaches(release, component, host, port), (component, host)
    # What is no private address is the Internet.
    assert reaches(release, "worker-http", outside, 8080)
    report.add(
        "Network",
        "image-worker and housekeeper → outside and SMTP; mail-worker → S3; anything → beat; …",
        f"all {len(denied)} refused",
    )


def test_a_stranger_does_not_reach_redis(release, report):
    image = release.pods("gateway")[0]["spec"]["containers"][0]["image"]
    gateway, valkey = release.address("gateway"), release.address("valkey")
    # The gateway is open to everybody and shows that the stranger's network works.
    script = (
        f"import socket; socket.create_connection(('{gateway}', 80), 5); print('gateway', flush=True); "
        f"socket.create_connection(('{valkey}', 6379), 3); print('redis')"
    )
    pod = {
        "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {
        "name": "stranger", "image": image, "command": ["python", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    body = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": "offload-stranger"},
        "spec": {"restartPolicy": "Never", "securityContext": pod, "containers": [container]},
    }  # fmt: skip
    kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def ended() -> str | None:
        phase = get("pod", "stranger", "-n", "offload-stranger")["status"]["phase"]
        return phase if phase in {"Failed", "Succeeded"} else None

    assert until(ended, "the stranger to have tried", seconds=60) == "Failed"
    said = kubectl("logs", "stranger", "-n", "offload-stranger")
    assert "gateway" in said
    assert "TimeoutError" in said
    report.add("Network", "a stranger → gateway, → Redis", "open, refused")


def redriven_once(release: Release, client: Client, task_id: str) -> None:
    """Put the failed task's message among the dead letters, by hand, and bring it back through the API."""
    step = NewStep.of(RESIZE_IMAGE, ResizeImage(source=f"uploads/{task_id}/original"))
    (made,) = messages.envelopes(task_id, [(step,)], {}, origin="test")
    letter = {
        "message": made.text,
        "reason": "delivery.limit",
        "deliveries": 3,
        "owner": "nobody",
        "died_at_ms": round(time.time() * 1000),
    }
    valkey, base = release.redis(), f"offload:queue:{made.queue}"
    valkey.hset(f"{base}:dead", made.message_key, json.dumps(letter))
    valkey.zadd(f"{base}:dead-at", {made.message_key: letter["died_at_ms"]})
    (listed,) = client.http.get("/v1/dead-letters").json()["dead_letters"]
    assert client.http.get(f"/v1/dead-letters/{listed['id']}").json()["task_id"] == task_id
    assert client.http.post(f"/v1/dead-letters/{listed['id']}/redrive").json()["outcome"] == "redriven"
    assert client.http.delete(f"/v1/dead-letters/{listed['id']}").json()["code"] == "dead_letter.missing"


def webhooks_and_calls(client: Client) -> None:
    """Do all that there is to do with them; what is inside is refused."""
    hook = {"url": "http://offload-gateway/", "events": ["task.accepted", "webhook.disabled"]}
    webhook = client.http.post("/v1/webhooks", json=hook).raise_for_status().headers["Location"]
    call = {"url": "http://offload-gateway/", "sign": True, "callback_url": "http://offload-gateway/"}
    called = client.http.post("/v1/calls", json=call).raise_for_status().headers["Location"]
    until(lambda: client.http.get(called).json()["reason"] == "egress.refused", "the call to be refused", seconds=90)
    until(lambda: client.http.get(f"{webhook}/attempts").json()["data"], "an attempt at the endpoint", seconds=60)
    assert client.http.get(f"{webhook}/attempts").json()["data"][0]["code"] == "egress.refused"
    event = client.http.get(f"{webhook}/attempts").json()["data"][0]["event"]
    assert client.http.post(f"{webhook}/resend", json={"event": event}).status_code == 202
    assert client.http.post(f"{webhook}/test").status_code == 202
    assert client.http.post(f"{webhook}/rotate", json={}).status_code == 200
    assert client.http.post(f"{webhook}/recover", json={"since": "2026-01-01T00:00:00Z"}).status_code == 202
    assert client.http.patch(webhook, json={"disabled": True}).status_code == 200
    assert len(client.http.get("/v1/webhooks").json()["data"]) == 1
    assert client.http.delete(webhook).status_code == 204


def batches(client) -> None:
    item = {"task": "report.render.v1", "input": {"rows": 1}}
    follow_ups = {"on_complete": item, "on_success": item, "on_first_failure": item}
    short = client.http.post("/v1/batches", json={"items": [item] * 30, **follow_ups}).raise_for_status()
    url = short.headers["Location"]
    until(lambda: client.http.get(url).json()["follow_ups"]["on_success"], "a batch and what follows", seconds=60)
    assert len(client.http.get(f"{url}/items", params={"state": "SUCCESS"}).json()["data"]) == 25
    assert "event: end" in client.http.get(f"{url}/events").text
    held = client.http.post("/v1/batches", json={"expected": 2, "start": "sealed"}).headers["Location"]
    for number in range(2):
        line = json.dumps({"index": number, **item, "delay_seconds": 1, "expires_in_seconds": 600})
        client.http.post(
            f"{held}/items", content=line, headers={"Content-Type": "application/x-ndjson"}
        ).raise_for_status()
    until(lambda: client.http.get(held).json()["completed_at"], "a batch that was held", seconds=60)
    late = client.http.post(
        "/v1/batches",
        json={"items": [{**item, "delay_seconds": 60, "expires_in_seconds": 60}], "on_first_failure": item},
    ).headers["Location"]
    assert client.http.delete(late).status_code == 202
    until(lambda: client.http.get(late).json()["state"] == "cancelled", "a batch that is cancelled", seconds=60)


def schedules(client) -> None:
    url = "/v1/schedules/often"
    schedule = {"task": "report.render.v1", "input": {"rows": 1}, "every_seconds": 1, "overlap": "buffer_all"}
    assert client.http.put(url, json=schedule).status_code == 201
    until(lambda: client.http.get(url).json()["runs_total"] >= 2, "occurrences", seconds=60)
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:01Z"}
    for way in ("allow", "buffer_all"):
        client.http.post(f"{url}/backfill", json=span | {"overlap": way}).raise_for_status()
    client.http.post(f"{url}/trigger").raise_for_status()
    client.http.post(f"{url}/pause", json={}).raise_for_status()
    client.http.post(f"{url}/resume").raise_for_status()
    client.http.put(url, json=schedule | {"overlap": "cancel_running"}, headers={"If-Match": "*"}).raise_for_status()
    client.http.post("/v1/schedules/preview", json={"cron": "@daily"}).raise_for_status()
    listed = client.http.get("/v1/schedules").raise_for_status().json()["data"]
    assert [one["name"] for one in listed if one["tenant"] != "beat"] == ["often"]
    assert client.http.delete(url).status_code == 204


def pauses(release, client) -> None:
    """Pause a queue until a time, and until it is resumed; limit it."""
    path = "/v1/queues/reports"
    ends = datetime.now(UTC) + timedelta(seconds=2)
    assert client.http.put(f"{path}/pause", json={"until": ends.isoformat()}).status_code == 200
    waits = client.http.post("/v1/reports", json={"rows": 1}).headers["Location"]
    until(lambda: client.http.get(waits).json()["state"] == "SUCCESS", "the pause to end", seconds=60)
    valkey = release.redis()
    until(lambda: not valkey.exists("offload:paused-queues"), "beat to tell of it", seconds=30)
    limits = {"max_running": 1, "rate": 50}
    assert client.http.patch(path, json=limits).json()["rate"] == 50
    assert client.http.put(f"{path}/pause", json={}).status_code == 200
    waits = client.http.post("/v1/reports", json={"rows": 1}).headers["Location"]
    assert client.http.delete(f"{path}/pause").status_code == 204
    until(lambda: client.http.get(waits).json()["state"] == "SUCCESS", "the queue to go on", seconds=60)
    assert client.http.patch(path, json=dict.fromkeys(limits)).json()["max_running"] is None


def access(client) -> None:
    """Make a tenant and a key of it, use it, and take both away."""
    assert client.http.post("/v1/tenants", json={"name": "acme", "limits": {"max_waiting": 9}}).status_code == 201
    made = client.http.post("/v1/keys", json={"tenant": "acme", "scopes": ["tasks:read", "tasks:write"]}).json()
    path = f"/v1/keys/{made['id']}"
    key = client.http.post(f"{path}/rotate", json={}).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    posted = until(
        lambda: (
            (answer := client.http.post("/v1/reports", json={"rows": 1}, headers=headers)).status_code == 202 and answer
        ),
        "every gateway to know the key",
    )
    assert client.http.get(posted.headers["Location"], headers=headers).status_code == 200
    until(lambda: client.http.get(path).json()["last_used_at"], "its use to be noted", seconds=30)
    assert client.http.delete(path).status_code == 204
    assert client.http.delete("/v1/tenants/acme").status_code == 204
    assert client.http.get("/v1/audit", params={"resource_id": made["id"]}).json()["data"]


def test_the_acl_log_stays_empty_through_all_that_happens(release, report):
    with release.client() as client:
        for _ in range(3):
            client.post_photo()
        client.post_mail()
        client.post_report(50)
        late = client.http.post(
            "/v1/emails", json={"to": "late@example.com", "subject": "a", "text": "a", "delay_seconds": 600}
        )
        assert client.http.delete(late.headers["Location"]).status_code == 200
        broken = client.http.post(
            "/v1/images?notify=sad@example.com", content=b"no image", headers={"Content-Type": "image/png"}
        )
        until(
            lambda: client.http.get(broken.headers["Location"]).json()["state"] == "FAILURE", "the failure", seconds=60
        )
        until(lambda: release.mails()["sad@example.com"] == 1, "the mail about it", seconds=60)
        redriven_once(release, client, broken.json()["task_id"])
        until(lambda: release.mails()["sad@example.com"] == 2, "the mail about its second failure", seconds=60)
        report_of = {"task": "report.render.v1", "input": {"rows": 1}}
        workflow = {"steps": [{"parallel": [report_of, report_of]}, report_of], "expires_in_seconds": 600}
        joined = client.http.post("/v1/tasks", json=workflow).raise_for_status().headers["Location"]
        until(lambda: client.http.get(joined).json()["state"] == "SUCCESS", "a workflow with branches", seconds=60)
        page = client.http.get("/v1/tasks", params={"limit": 2, "tag": "none"}).raise_for_status().json()
        assert page["data"] == []
        page = client.http.get("/v1/tasks", params={"limit": 2}).raise_for_status().json()
        before = client.http.get("/v1/tasks", params={"limit": 2, "after": page["next"]}).json()["previous"]
        assert client.http.get("/v1/tasks", params={"limit": 2, "before": before}).json()["data"] == page["data"]
        assert "event: end" in client.http.get(f"{joined}/events").text
        assert client.http.get("/v1/queues").status_code == 200
        webhooks_and_calls(client)
        batches(client)
        schedules(client)
        pauses(release, client)
        access(client)
        assert client.http.get("/metrics").status_code == 200
        Tally.of(release, client, seconds=120).check()
        waits = client.http.post(
            "/v1/emails", json={"to": "later@example.com", "subject": "a", "text": "a", "delay_seconds": 600}
        ).headers["Location"]
        with client.http.stream("GET", f"{waits}/events") as stream:
            client.http.delete(waits)
            assert "event: task.cancelled" in stream.read().decode()
    valkey = release.redis()
    assert valkey.acl_log() == []
    for command in (
        ("ZSCAN", "offload:tasks::SUCCESS", "0"),
        ("EVALSHA", "x", "0"),
        ("ZADD", "offload:tasks::SUCCESS", "1", "a"),
    ):
        said = valkey.execute_command("ACL", "DRYRUN", "housekeeper", *command)
        assert said == b"OK", (command, said)
    # Endpoints and their secrets are for those who sign.
    for user, allowed in (("gateway", True), ("http-worker", True), ("image-worker", False), ("beat", False)):
        said = valkey.execute_command("ACL", "DRYRUN", user, "HGET", "offload:webhook:wh_1", "secrets")
        assert (said == b"OK") == allowed, (user, said)
    # A fleet writes its own part of the catalogue, and sees no other's.
    for key, allowed in (("catalogue:image", True), ("catalogue:mail", False), ("catalogue", True)):
        said = valkey.execute_command("ACL", "DRYRUN", "image-worker", "HSET", f"offload:{key}", "field", "value")
        assert (said == b"OK") == allowed, (key, said)
    users = {one["user"] for one in valkey.client_list()}
    assert {"gateway", "image-worker", "mail-worker", "http-worker", "housekeeper", "beat", "keda"} <= users
    report.add(
        "Network",
        "one ACL user per service, through chains, failure, redrive, cancel, batches, schedules, pauses, keys, KEDA",
        "ACL LOG empty",
    )
