"""Calls over HTTP: what is sent, what its answer means, and that the same call is known as such."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import standardwebhooks

from devstack.certificates import issue
from devstack.http_receiver import Answer, HttpReceiver
from devstack.servers import free_port
from devstack.waiting import until

from .conftest import FAST, Offload

if TYPE_CHECKING:
    import httpx

SETTINGS = FAST | {"OFFLOAD_EGRESS_ALLOW": "127.0.0.0/8 localhost", "OFFLOAD_CALL_RETRY_SECONDS": "0.2 0.2"}


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with Offload(tmp_path_factory.mktemp("calls"), SETTINGS) as stack:
        stack.gateway()
        stack.worker("http_worker")
        yield stack


@pytest.fixture(scope="module")
def client(offload):
    return offload.client()


def call(client: httpx.Client, url: str, **options) -> str:
    response = client.post("/v1/calls", json={"url": url, **options})
    assert response.status_code == 202, response.text
    return response.json()["task_id"]


def test_a_call_is_sent_and_its_answer_kept(offload, client):
    body = json.dumps({"ok": True, "text": "Grüße"}, ensure_ascii=False).encode()
    with HttpReceiver(lambda _: Answer(201, {"X-Own": "yes", "Content-Type": "application/json"}, body)) as receiver:
        task_id = call(client, f"{receiver.url}/orders?x=1", json={"order": 7}, headers={"Authorization": "Bearer x"})
        task = offload.wait(client, task_id)
    assert task["state"] == "SUCCESS"
    result = task["result"]
    assert (result["status"], result["body"], result["headers"]["x-own"]) == (201, body.decode(), "yes")
    assert result["duration_ms"] >= 0
    [got] = receiver.received
    assert (got.method, got.path, json.loads(got.body)) == ("POST", "/orders?x=1", {"order": 7})
    assert got.headers["authorization"] == "Bearer x"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["idempotency-key"] == task_id
    assert got.headers["offload-attempt"] == "1"
    assert got.headers["traceparent"].split("-")[1] == task["trace_id"]
    assert "webhook-id" not in got.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_sent(offload, client, method):
    with HttpReceiver() as receiver:
        assert offload.wait(client, call(client, receiver.url + "/", method=method))["state"] == "SUCCESS"
    assert [one.method for one in receiver.received] == [method]


def test_a_body_of_bytes_and_an_answer_of_bytes(offload, client):
    raw = bytes(range(256))
    with HttpReceiver(lambda got: Answer(body=got.body)) as receiver:
        task = offload.wait(client, call(client, receiver.url, body_base64=base64.b64encode(raw).decode()))
    assert receiver.received[0].body == raw
    assert receiver.received[0].headers["content-type"] == "application/octet-stream"
    assert base64.b64decode(task["result"]["body_base64"]) == raw


def test_of_a_long_answer_the_beginning_is_kept(offload, client):
    headers = {f"X-{number}": "v" * 2000 for number in range(30)}
    with HttpReceiver(lambda _: Answer(200, headers, b"x" * 5_000_000)) as receiver:
        result = offload.wait(client, call(client, receiver.url))["result"]
    assert len(result["body"]) == 65_536
    assert result["is_truncated"] is True
    assert len(result["headers"]) == 20
    assert max(map(len, result["headers"].values())) == 1000


def test_a_signed_call_is_verified_by_a_librarys_own_code(offload, client):
    secret = client.get("/v1/signing-secret").json()["secret"]
    with HttpReceiver() as receiver:
        task_id = call(client, receiver.url, json={"a": 1}, sign=True)
        offload.wait(client, task_id)
    [got] = receiver.received
    assert standardwebhooks.Webhook(secret).verify(got.body, got.headers) == {"a": 1}
    assert got.headers["webhook-id"] == task_id


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_heal_is_called_again_with_the_same_key(offload, client, status):
    with HttpReceiver() as receiver:
        receiver.answer = lambda _: Answer(status if len(receiver.received) < 3 else 200)
        task_id = call(client, receiver.url)
        assert offload.wait(client, task_id)["state"] == "SUCCESS"
    assert [one.headers["offload-attempt"] for one in receiver.received] == ["1", "2", "3"]
    assert {one.headers["idempotency-key"] for one in receiver.received} == {task_id}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(400), "call.refused"),
        (Answer(404), "call.refused"),
        (Answer(501, {"Offload-No-Retry": "true"}), "call.refused"),
        # No redirect is followed: it could lead inside.
        (Answer(302, {"Location": "http://127.0.0.1:9/"}), "call.refused"),
    ],
)
def test_what_will_not_heal_ends_at_once(offload, client, answer, code):
    with HttpReceiver(lambda _: answer) as receiver:
        task = offload.wait(client, call(client, receiver.url))
    assert (task["state"], task["error"]["code"]) == ("FAILURE", code)
    assert task["error"]["details"] == {"status": answer.status}
    assert len(receiver.received) == 1


def test_retry_on_everything_retries_other_refusals_too(offload, client):
    with HttpReceiver() as receiver:
        receiver.answer = lambda _: Answer(404 if len(receiver.received) < 2 else 200)
        task = offload.wait(client, call(client, receiver.url, retry={"retry_on": ["*"]}))
    assert task["state"] == "SUCCESS"


def test_other_statuses_may_be_a_success(offload, client):
    with HttpReceiver(lambda _: Answer(404)) as receiver:
        task = offload.wait(client, call(client, receiver.url, method="DELETE", success=["2xx", "404"]))
    assert (task["state"], task["result"]["status"]) == ("SUCCESS", 404)


@pytest.mark.parametrize("as_date", [False, True])
def test_a_later_retry_after_is_waited_for(offload, client, as_date):
    def answer(_):
        after = formatdate(time.time() + 3, usegmt=True) if as_date else "2"
        return Answer(503, {"Retry-After": after}) if len(receiver.received) < 2 else Answer()

    with HttpReceiver(answer) as receiver:
        offload.wait(client, call(client, receiver.url))
    first, second = (one.at for one in receiver.received)
    # A date has whole seconds.
    assert second - first >= 1.9


def test_a_slow_answer_is_a_timeout_and_a_reset_is_a_lost_connection(offload, client):
    for answer, code in ((Answer(delay_seconds=5), "http.timeout"), (Answer(reset=True), "http.disconnected")):
        with HttpReceiver(lambda _, answer=answer: answer) as receiver:
            task = offload.wait(client, call(client, receiver.url, timeout_seconds=1, retry={"max_attempts": 1}))
        assert (task["state"], task["error"]["code"]) == ("FAILURE", code)


def test_nobody_there_and_no_such_name(offload, client):
    once = {"retry": {"max_attempts": 1}}
    for url, code in (
        (f"http://127.0.0.1:{free_port()}/", "http.unreachable"),
        ("http://no-such-name.invalid/", "http.unresolved"),
        ("http://169.254.169.254/latest/meta-data/", "egress.refused"),
        ("http://10.0.0.1/", "egress.refused"),
    ):
        assert offload.wait(client, call(client, url, **once))["error"]["code"] == code, url


def test_an_exhausted_call_is_a_dead_letter_without_its_headers(offload, client):
    with HttpReceiver(lambda _: Answer(500)) as receiver:
        task_id = call(client, receiver.url, json={"a": 1}, headers={"Authorization": "a secret"})
        assert offload.wait(client, task_id)["error"]["code"] == "call.failed"
        letters = until(
            lambda: [
                one
                for one in client.get("/v1/dead-letters", params={"queue": "calls"}).json()["dead_letters"]
                if one["task_id"] == task_id
            ],
            "the dead letter",
        )
        shown = client.get(f"/v1/dead-letters/{letters[0]['id']}").text
        assert "a secret" not in shown
        receiver.answer = lambda _: Answer()
        assert client.post(f"/v1/dead-letters/{letters[0]['id']}/redrive").status_code == 200
        assert offload.wait(client, task_id)["state"] == "SUCCESS"
    worker = next(process for process in offload.processes if process.name.startswith("http_worker"))
    assert "a secret" not in worker.output()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://example.com/"},
        {"url": "http://user:password@example.com/"},
        {"url": "http://example.com:99999/"},
        {"url": "http://exa mple.com/"},
        {"url": "/relative"},
        {"headers": {"Host": "other"}},
        {"headers": {"content-length": "3"}},
        {"headers": {"Webhook-Id": "x"}},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"A": "1", "a": "2"}},
        {"json": 1, "body_base64": "AA=="},
        {"method": "GET", "json": 1},
        {"body_base64": "not base64!"},
        {"timeout_seconds": 901},
        {"timeout_seconds": 0},
        {"success": []},
        {"success": ["20x"]},
        {"method": "CONNECT"},
        {"unknown": 1},
    ],
)
def test_what_cannot_be_called_is_refused_at_once(client, wrong):
    response = client.post("/v1/calls", json={"url": "https://example.com/", **wrong})
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "request.invalid"


def test_two_hundred_slow_calls_at_once_in_one_process_without_as_many_threads(offload, client):
    worker = next(process for process in offload.processes if process.name.startswith("http_worker"))
    release = time.monotonic() + 600

    def answer(_):
        while time.monotonic() < release:
            time.sleep(0.1)
        return Answer()

    with HttpReceiver(answer) as receiver:
        tasks = [call(client, receiver.url, timeout_seconds=600) for _ in range(200)]
        until(lambda: len(receiver.received) == 200, "all of them to be under way", seconds=90)
        status = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
        release = 0
        for task_id in tasks:
            assert offload.wait(client, task_id)["state"] == "SUCCESS"
    assert threads < 70


def test_a_killed_workers_call_is_made_again_with_the_same_key(tmp_path):
    with Offload(tmp_path, SETTINGS) as stack:
        stack.gateway()
        client = stack.client()
        worker = stack.worker("http_worker")
        hold = True
        with HttpReceiver(lambda _: Answer(delay_seconds=60 if hold else 0)) as receiver:
            task_id = call(client, receiver.url)
            until(lambda: receiver.received, "the call")
            worker.kill()
            hold = False
            stack.worker("http_worker")
            task = stack.wait(client, task_id)
        assert task["state"] == "SUCCESS"
        assert {one.headers["idempotency-key"] for one in receiver.received} == {task_id}
        assert task["steps"][0]["deliveries"] == 2


def test_redis_away_while_a_call_is_under_way_loses_nothing(tmp_path):
    with Offload(tmp_path, SETTINGS) as stack:
        stack.gateway()
        client = stack.client()
        stack.worker("http_worker")
        hold = True

        def answer(_):
            while hold:
                time.sleep(0.05)
            return Answer(body=b"done")

        with HttpReceiver(answer) as receiver:
            task_id = call(client, receiver.url, timeout_seconds=60)
            until(lambda: receiver.received, "the call")
            stack.redis.kill()
            hold = False
            # The answer comes while there is nowhere to put it.
            time.sleep(1)
            stack.redis.start()
            task = stack.wait(client, task_id)
        assert (task["state"], task["result"]["body"]) == ("SUCCESS", "done")
        assert len(receiver.received) == 1


SERVER = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    text = " ".join([scope["http_version"], *(v.decode() for k, v in scope["headers"] if k == b"host")])
    await send({"type": "http.response.body", "body": text.encode()})
"""


def test_https_by_an_authority_of_ones_own_and_http2(tmp_path):
    certificate = issue(tmp_path / "tls", "localhost")
    (tmp_path / "server.py").write_text(SERVER)
    port = free_port()
    command = [
        sys.executable, "-m", "granian", "--interface", "asgi", "--http", "auto", "--host", "127.0.0.1",
        "--port", str(port), "--ssl-certificate", str(certificate.certificate), "--ssl-keyfile", str(certificate.key),
        "--working-dir", str(tmp_path), "server:app",
    ]  # fmt: skip
    server = subprocess.Popen(command, cwd=tmp_path)
    try:
        with Offload(tmp_path / "offload", SETTINGS) as stack:
            stack.gateway()
            client = stack.client()
            trusting = stack.worker("http_worker", {"OFFLOAD_CA_FILE": str(certificate.authority)})
            url = f"https://localhost:{port}/"
            task = stack.wait(client, call(client, url, retry={"schedule": [0.5] * 19}))
            assert task["result"]["body"] == f"2 localhost:{port}"
            # Under another name the certificate is not the receiver's.
            once = {"retry": {"max_attempts": 1}}
            assert (
                stack.wait(client, call(client, f"https://127.0.0.1:{port}/", **once))["error"]["code"]
                == "http.tls_failed"
            )
            trusting.stop()
            stack.worker("http_worker")
            assert stack.wait(client, call(client, url, **once))["error"]["code"] == "http.tls_failed"
    finally:
        server.terminate()
        server.wait()


def test_calls_go_through_the_proxy_that_the_environment_names(tmp_path):
    with (
        HttpReceiver(lambda got: Answer(body=f"proxied {got.path}".encode())) as proxy,
        Offload(tmp_path, SETTINGS) as stack,
    ):
        stack.gateway()
        client = stack.client()
        stack.worker("http_worker", {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url})
        task = stack.wait(client, call(client, "http://partner.invalid/orders"))
        assert task["result"]["body"] == "proxied http://partner.invalid/orders"
        refused = stack.wait(client, call(client, "http://192.168.0.1/"))
        assert refused["error"]["code"] == "egress.refused"
    # Telemetry goes through it too.
    assert [one.path for one in proxy.received if "/v1/" not in one.path] == ["http://partner.invalid/orders"]
