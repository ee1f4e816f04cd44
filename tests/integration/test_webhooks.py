"""Webhooks over HTTP: endpoints, signatures, attempts, and what becomes of an endpoint that does not take them."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import standardwebhooks
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from devstack.http_receiver import Answer, HttpReceiver
from devstack.waiting import until
from offload_core import keys, signing
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .conftest import FAST, PREFIX, WITH_KEYS, Offload

if TYPE_CHECKING:
    import httpx

SETTINGS = (
    FAST
    | WITH_KEYS
    | {
        "OFFLOAD_EGRESS_ALLOW": "127.0.0.0/8",
        "OFFLOAD_WEBHOOK_RETRY_SECONDS": "0.3 0.3 0.3",
        "OFFLOAD_WEBHOOK_TIMEOUT_SECONDS": "1",
        "OFFLOAD_WEBHOOK_DISABLE_AFTER_SECONDS": "3",
    }
)
STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=600_000)


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with Offload(tmp_path_factory.mktemp("webhooks"), SETTINGS) as stack:
        stack.gateway()
        stack.worker("http_worker")
        yield stack


@pytest.fixture
def shop(offload):
    client = offload.client_of("shop")
    yield client
    for one in client.get("/v1/webhooks", params={"limit": 100}).json()["data"]:
        assert client.delete(f"/v1/webhooks/{one['id']}").status_code == 204


@pytest.fixture
def receiver():
    with HttpReceiver() as found:
        yield found


def endpoint(client: httpx.Client, url: str, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/webhooks", json={"url": url, **options})
    assert response.status_code == 201, response.text
    return response.json()


def task(offload, task_id: str, owner: str = "shop", **fields: Any) -> None:
    """Accept a task whose steps this test itself runs."""
    made = Publisher("test").task(task_id, "task", owner, [NewStep("a.b.v1", "nobody", {})], **fields)
    assert STORE.accept(made).run(offload.redis.client())[0] == b"accepted"


def end(offload, task_id: str, state: str = "SUCCESS") -> None:
    redis, step = offload.redis.client(), keys.step_of(task_id)
    STORE.start(step, (0, 1), "w", {}).run(redis)
    outcome = {} if state == "SUCCESS" else {"code": "it.failed", "message": "on purpose"}
    STORE.finish(step, (0, 1), state, outcome).run(redis)


def types(receiver, path: str) -> list[str]:
    return [json.loads(one.body)["type"] for one in receiver.of(path)]


def attempts(client: httpx.Client, webhook_id: str) -> list[dict[str, Any]]:
    return client.get(f"/v1/webhooks/{webhook_id}/attempts", params={"limit": 100}).json()["data"]


def test_an_endpoint_is_told_of_what_it_asks_for(offload, shop, receiver):
    endpoint(shop, f"{receiver.url}/all")
    endpoint(shop, f"{receiver.url}/ends", events=["task.succeeded", "task.failed"])
    endpoint(shop, f"{receiver.url}/tagged", tags=["red", "blue"])
    endpoint(offload.client_of("other"), f"{receiver.url}/others")
    task(offload, "told-1", tags=("green", "red"))
    task(offload, "told-2")
    end(offload, "told-1")
    end(offload, "told-2", "FAILURE")
    until(lambda: len(receiver.of("/all")) == 10, "all events", seconds=30)
    until(lambda: len(receiver.of("/ends")) == 2, "both ends")
    until(lambda: len(receiver.of("/tagged")) == 5, "those of the task with the tag")
    assert sorted(types(receiver, "/ends")) == ["task.failed", "task.succeeded"]
    assert {json.loads(one.body)["data"]["task_id"] for one in receiver.of("/tagged")} == {"told-1"}
    assert receiver.of("/others") == []
    [failed] = [one for one in receiver.of("/ends") if b"task.failed" in one.body]
    body = json.loads(failed.body)
    assert set(body) == {"type", "timestamp", "data"}
    assert (body["data"]["reason"], body["data"]["state"]) == ("it.failed", "FAILURE")
    # The same event has one id, whoever is told of it.
    assert failed.headers["webhook-id"] in {one.headers["webhook-id"] for one in receiver.of("/all")}
    assert len({one.headers["webhook-id"] for one in receiver.of("/all")}) == 10


def test_signatures_verify_with_both_libraries_and_a_rotated_secret_for_its_grace(offload, shop, receiver):
    made = endpoint(shop, f"{receiver.url}/signed")
    task(offload, "signed-1")
    until(lambda: receiver.of("/signed"), "the event")
    rotated = shop.post(f"/v1/webhooks/{made['id']}/rotate", json={"grace_seconds": 600}).json()
    assert rotated["secret"] != made["secret"]
    task(offload, "signed-2")
    until(lambda: len(receiver.of("/signed")) == 2, "the second event")
    assert shop.post(f"/v1/webhooks/{made['id']}/rotate", json={"grace_seconds": 0}).status_code == 200
    task(offload, "signed-3")
    until(lambda: len(receiver.of("/signed")) == 3, "the third event")
    first, second, third = receiver.of("/signed")
    for library in (standardwebhooks.Webhook, svix.webhooks.Webhook):
        library(made["secret"]).verify(first.body, first.headers)
        for secret in (made["secret"], rotated["secret"]):
            library(secret).verify(second.body, second.headers)
            with pytest.raises(Exception, match="signature"):
                library(secret).verify(third.body, third.headers)
    assert len(second.headers["webhook-signature"].split()) == 2
    # It is shown when it is new, and never again.
    assert "secret" not in shop.get(f"/v1/webhooks/{made['id']}").json()


def test_the_standards_own_example():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    found = signing.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [signing.Hmac(secret)])
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_ed25519_needs_no_secret_at_the_receiver(offload, shop, receiver):
    made = endpoint(shop, f"{receiver.url}/public", signature="ed25519")
    assert made["secret"] is None
    task(offload, "public-1")
    until(lambda: receiver.of("/public"), "the event")
    [got] = receiver.of("/public")
    version, _, signature = got.headers["webhook-signature"].partition(",")
    assert version == "v1a"
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    public = base64.b64decode(made["public_key"].removeprefix("whpk_"))
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(signature), signed)


def test_an_attempt_is_repeated_with_the_same_id_until_it_is_taken(offload, shop, receiver):
    answers = iter([Answer(500), Answer(302, {"Location": "/other"}), Answer(reset=True)])
    receiver.answer = lambda _: next(answers, Answer(204))
    made = endpoint(shop, f"{receiver.url}/flaky", events=["task.accepted"])
    task(offload, "flaky-1")
    until(lambda: len(attempts(shop, made["id"])) == 4, "four attempts", seconds=30)
    found = attempts(shop, made["id"])
    assert [(one["number"], one["status"], one["code"]) for one in found] == [
        (4, 204, None),
        (3, None, "http.disconnected"),
        (2, 302, "webhook.failed"),
        (1, 500, "webhook.failed"),
    ]
    assert {one.headers["webhook-id"] for one in receiver.received} == {found[0]["event"]}
    assert {one.body for one in receiver.received} == {receiver.received[0].body}
    assert receiver.of("/other") == []
    moments = [one.at for one in receiver.received]
    assert all(later - earlier >= 0.27 for earlier, later in itertools.pairwise(moments))
    # Pages of one lead through all of them, and back.
    page = shop.get(f"/v1/webhooks/{made['id']}/attempts", params={"limit": 1}).json()
    numbers = [page["data"][0]["number"]]
    while page["next"]:
        page = shop.get(f"/v1/webhooks/{made['id']}/attempts", params={"limit": 1, "after": page["next"]}).json()
        numbers += [one["number"] for one in page["data"]]
    assert numbers == [4, 3, 2, 1]


def test_an_endpoint_of_ones_own_delays(offload, shop, receiver):
    receiver.answer = lambda _: Answer(500 if len(receiver.received) < 2 else 200)
    made = endpoint(shop, f"{receiver.url}/own", events=["task.accepted"], retry_seconds=[2])
    task(offload, "own-1")
    until(lambda: len(receiver.received) == 2, "the second attempt", seconds=20)
    first, second = (one.at for one in receiver.received)
    assert second - first >= 1.8
    assert shop.get(f"/v1/webhooks/{made['id']}").json()["retry_seconds"] == [2]


def test_what_was_given_up_is_recovered(offload, shop, receiver):
    receiver.answer = lambda _: Answer(503)
    made = endpoint(shop, f"{receiver.url}/down", events=["task.accepted"])
    for number in range(3):
        task(offload, f"down-{number}")
    root, mine = offload.client_of("root"), {"tag": made["id"], "state": "FAILURE"}
    until(lambda: len(root.get("/v1/tasks", params=mine).json()["data"]) == 3, "three failures", seconds=40)
    receiver.answer = lambda _: Answer()
    path = f"/v1/webhooks/{made['id']}/recover"
    shop.patch(f"/v1/webhooks/{made['id']}", json={"disabled": False})
    assert shop.post(path, json={"since": "2100-01-01T00:00:00Z"}).json() == {"resent": 0, "is_complete": True}
    resent = 0

    def is_complete() -> bool:
        nonlocal resent
        answer = shop.post(path, json={"since": "2020-01-01T00:00:00Z"}).json()
        resent += answer["resent"]
        return answer["is_complete"]

    until(is_complete, "the recovery")
    assert resent == 3
    until(lambda: sum(one["status"] == 200 for one in attempts(shop, made["id"])) == 3, "all of them", seconds=20)
    assert shop.post(path, json={"since": "2020-01-01T00:00:00Z"}).json()["resent"] == 0


def test_an_event_is_sent_again_on_request_and_a_test_at_any_time(offload, shop, receiver):
    made = endpoint(shop, f"{receiver.url}/again", events=["task.accepted"])
    task(offload, "again-1")
    until(lambda: receiver.of("/again"), "the event")
    event = receiver.of("/again")[0].headers["webhook-id"]
    path = f"/v1/webhooks/{made['id']}"
    assert shop.post(f"{path}/resend", json={"event": event}).status_code == 202
    until(lambda: len(receiver.of("/again")) == 2, "the event again")
    assert receiver.of("/again")[0].body == receiver.of("/again")[1].body
    assert {one.headers["webhook-id"] for one in receiver.of("/again")} == {event}
    other = offload.client_of("other")
    mine = endpoint(other, f"{receiver.url}/mine")
    for wrong, client in ((event[:-1], shop), ("evt_1_0_nobody", shop), ("evt_1_99999999999999999999_x", shop)):
        response = client.post(f"{path}/resend", json={"event": wrong})
        assert (response.status_code, response.json()["code"]) == (404, "event.not_found")
    # Nobody has another tenant's event sent to an endpoint of its own.
    response = other.post(f"/v1/webhooks/{mine['id']}/resend", json={"event": event})
    assert (response.status_code, response.json()["code"]) == (404, "event.not_found")
    assert shop.post(f"{path}/test").status_code == 202
    until(lambda: "webhook.test" in types(receiver, "/again"), "the test")


def test_the_end_of_a_task_is_sent_again_with_its_result(offload, shop, receiver):
    made = endpoint(shop, f"{receiver.url}/end", events=["task.succeeded"])
    with HttpReceiver(lambda _: Answer(body="Grüße \u2028 \U0001f600".encode())) as called:
        shop.post("/v1/calls", json={"url": called.url}).raise_for_status()
        until(lambda: receiver.of("/end"), "the event", seconds=20)
    event = receiver.of("/end")[0].headers["webhook-id"]
    assert shop.post(f"/v1/webhooks/{made['id']}/resend", json={"event": event}).status_code == 202
    until(lambda: len(receiver.of("/end")) == 2, "the event again")
    first, second = receiver.of("/end")
    assert json.loads(first.body) == json.loads(second.body)
    assert json.loads(first.body)["data"]["result"]["status"] == 200


def test_410_disables_an_endpoint_and_its_owner_is_told(offload, shop, receiver):
    gone = endpoint(shop, f"{receiver.url}/gone", events=["task.accepted"])
    endpoint(shop, f"{receiver.url}/watch", events=["webhook.disabled"])
    receiver.answer = lambda got: Answer(410 if got.path == "/gone" else 200)
    task(offload, "gone-1")
    until(lambda: receiver.of("/watch"), "the event of its end")
    assert json.loads(receiver.of("/watch")[0].body)["data"] == {"webhook_id": gone["id"], "reason": "gone"}
    shown = shop.get(f"/v1/webhooks/{gone['id']}").json()
    assert shown["disabled_reason"] == "gone"
    assert shown["disabled_at"] is not None
    task(offload, "gone-2")
    time.sleep(1)  # not a wait: nothing is to come
    assert len(receiver.of("/gone")) == 1
    receiver.answer = lambda _: Answer()
    assert shop.patch(f"/v1/webhooks/{gone['id']}", json={"disabled": False}).json()["disabled_at"] is None
    task(offload, "gone-3")
    until(lambda: len(receiver.of("/gone")) == 2, "the next event")


def test_an_endpoint_that_only_fails_is_disabled_and_its_queued_attempts_end(offload, shop, receiver):
    receiver.answer = lambda _: Answer(500)
    made = endpoint(shop, f"{receiver.url}/fails", events=["task.accepted"], retry_seconds=[1] * 19)
    for number in range(3):
        task(offload, f"fails-{number}")
    until(
        lambda: shop.get(f"/v1/webhooks/{made['id']}").json()["disabled_reason"] == "failing",
        "the endpoint to be disabled",
        seconds=40,
    )
    root = offload.client_of("root")

    def ended() -> bool:
        found = root.get("/v1/tasks", params={"tag": made["id"], "state": "FAILURE"}).json()["data"]
        return len(found) == 3 and {one["reason"] for one in found} == {"webhook.disabled"}

    until(ended, "its deliveries to end", seconds=20)


def test_a_success_in_between_starts_the_clock_again(offload, shop, receiver):
    made = endpoint(shop, f"{receiver.url}/often", events=["task.accepted"])
    receiver.answer = lambda _: Answer(500 if len(receiver.received) % 2 else 200)
    task(offload, "often-1")
    until(lambda: len(attempts(shop, made["id"])) >= 2, "a success after a failure", seconds=20)
    assert shop.get(f"/v1/webhooks/{made['id']}").json()["failing_since"] is None


def test_too_much_halves_the_rate_and_a_later_retry_after_is_honoured(offload, shop, receiver):
    receiver.answer = lambda _: Answer(429, {"Retry-After": "2"}) if len(receiver.received) < 2 else Answer()
    made = endpoint(shop, f"{receiver.url}/busy", events=["task.accepted"])
    task(offload, "busy-1")
    until(lambda: len(receiver.received) == 2, "the second attempt", seconds=20)
    first, second = (one.at for one in receiver.received)
    assert second - first >= 1.9
    share = float(offload.redis.client().hget(keys.webhook(PREFIX, made["id"]), "share"))
    assert 0.5 <= share <= 0.56


def test_an_endpoints_rate_is_kept_and_nobody_else_waits(offload, shop, receiver):
    endpoint(shop, f"{receiver.url}/slow", events=["task.accepted"], rate_per_second=2)
    endpoint(shop, f"{receiver.url}/fast", events=["task.accepted"])
    for number in range(12):
        task(offload, f"rated-{number}")
    until(lambda: len(receiver.of("/fast")) == 12, "the one without a rate", seconds=20)
    until(lambda: len(receiver.of("/slow")) == 12, "the one with a rate", seconds=40)
    moments = sorted(one.at for one in receiver.of("/slow"))
    assert max(one.at for one in receiver.of("/fast")) < moments[-1]
    # Two at once, and then two a second: five seconds, less what the first of them took on its way.
    assert moments[-1] - moments[0] >= 2.5


def test_one_that_hangs_takes_no_slots_of_others(tmp_path, receiver):
    released = threading.Event()

    def answer(got):
        if got.path == "/hangs":
            released.wait(60)
        return Answer()

    receiver.answer = answer
    settings = {"OFFLOAD_WEBHOOK_TIMEOUT_SECONDS": "60", "OFFLOAD_WEBHOOK_CONNECTIONS": "5"}
    with Offload(tmp_path, SETTINGS | settings) as stack:
        stack.gateway()
        stack.worker("http_worker", {"OFFLOAD_CONCURRENCY": "10"})
        shop = stack.client_of("shop")
        endpoint(shop, f"{receiver.url}/hangs", events=["task.accepted"])
        for number in range(30):
            task(stack, f"hanging-{number}")
        until(lambda: len(receiver.of("/hangs")) == 5, "as many as may be under way")
        endpoint(shop, f"{receiver.url}/quick", events=["task.started"])
        end(stack, "hanging-0")
        until(lambda: receiver.of("/quick"), "another endpoint's event")
        assert len(receiver.of("/hangs")) == 5
        released.set()
        until(lambda: len(receiver.of("/hangs")) == 30, "the rest", seconds=60)


def test_a_task_may_have_a_callback_of_its_own(offload, shop, receiver):
    secret = shop.get("/v1/signing-secret").json()["secret"]
    assert secret != offload.client_of("other").get("/v1/signing-secret").json()["secret"]
    with HttpReceiver() as called:
        response = shop.post("/v1/calls", json={"url": called.url, "callback_url": f"{receiver.url}/back"})
        assert response.status_code == 202, response.text
        task_id = response.json()["task_id"]
        until(lambda: receiver.of("/back"), "the callback", seconds=20)
    [got] = receiver.of("/back")
    body = standardwebhooks.Webhook(secret).verify(got.body, got.headers)
    assert (body["type"], body["data"]["task_id"]) == ("task.succeeded", task_id)
    assert body["data"]["result"]["status"] == 200
    delivery = offload.client_of("root").get("/v1/tasks", params={"tag": "callback"}).json()["data"][0]
    assert (delivery["kind"], delivery["parent_task_id"]) == ("webhook", task_id)
    # One trace, from the post to the webhook.
    assert delivery["trace_id"] == shop.get(f"/v1/tasks/{task_id}").json()["trace_id"]


def test_a_long_result_does_not_travel(offload, shop, receiver):
    with HttpReceiver(lambda got: Answer(body=b"x" * int(got.path[1:]))) as called:
        for length in (18_000, 30_000):
            url = f"{called.url}/{length}"
            shop.post("/v1/calls", json={"url": url, "callback_url": f"{receiver.url}/{length}"}).raise_for_status()
            until(lambda length=length: receiver.of(f"/{length}"), "the callback", seconds=20)
    short, long = (json.loads(receiver.of(f"/{length}")[0].body)["data"] for length in (18_000, 30_000))
    assert len(short["result"]["body"]) == 18_000
    assert "result" not in long
    assert all(len(one.body) <= 20_000 for one in receiver.received)


def test_an_endpoint_is_created_once_by_one_idempotency_key(shop):
    body, key = {"url": "https://example.com/hook"}, {"Idempotency-Key": "endpoint-1"}
    first = shop.post("/v1/webhooks", json=body, headers=key)
    again = shop.post("/v1/webhooks", json=body, headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert len(shop.get("/v1/webhooks").json()["data"]) == 1
    other = shop.post("/v1/webhooks", json={"url": "https://example.com/other"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.conflict")
    # A post of a task with the same key is another request, too.
    mixed = shop.post("/v1/reports", json={"rows": 1}, headers=key)
    assert (mixed.status_code, mixed.json()["code"]) == (422, "idempotency.conflict")


def test_endpoints_are_listed_in_pages_changed_and_deleted(offload, shop):
    made = [endpoint(shop, f"https://example.com/{number}")["id"] for number in range(7)]
    page = shop.get("/v1/webhooks", params={"limit": 3}).json()
    assert [one["id"] for one in page["data"]] == made[:3:-1]
    second = shop.get("/v1/webhooks", params={"limit": 3, "after": page["next"]}).json()
    assert [one["id"] for one in second["data"]] == made[3:0:-1]
    back = shop.get("/v1/webhooks", params={"limit": 3, "before": second["previous"]}).json()
    assert back["data"] == page["data"]
    last = shop.get("/v1/webhooks", params={"limit": 3, "after": second["next"]}).json()
    assert ([one["id"] for one in last["data"]], last["next"]) == ([made[0]], None)
    change = {"url": "https://example.com/new", "events": ["task.failed"], "rate_per_second": 5}
    changed = shop.patch(f"/v1/webhooks/{made[0]}", json=change).json()
    assert {name: changed[name] for name in change} == change
    assert shop.patch(f"/v1/webhooks/{made[0]}", json={"rate_per_second": None}).json()["rate_per_second"] is None
    disabled = shop.patch(f"/v1/webhooks/{made[0]}", json={"disabled": True}).json()
    assert disabled["disabled_reason"] == "disabled_by_owner"
    assert shop.delete(f"/v1/webhooks/{made[0]}").status_code == 204
    assert shop.get(f"/v1/webhooks/{made[0]}").json()["code"] == "webhook.not_found"
    assert len(offload.client_of("root").get("/v1/webhooks", params={"limit": 100}).json()["data"]) >= 6


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/rotate", {}), ("POST", "/test", None),
        ("GET", "/attempts", None), ("POST", "/resend", {"event": "evt_1_0_x"}),
        ("POST", "/recover", {"since": "2026-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
def test_nobody_reaches_another_tenants_endpoint(offload, shop, method, path, body):
    made = endpoint(shop, "https://example.com/hook")
    response = offload.client_of("other").request(method, f"/v1/webhooks/{made['id']}{path}", json=body)
    assert (response.status_code, response.json()["code"]) == (404, "webhook.not_found")
    assert shop.get(f"/v1/webhooks/{made['id']}").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"url": "ftp://example.com/"}, {"url": "https://user@example.com/"},
        {"url": "https://example.com/", "events": ["task.exploded"]},
        {"url": "https://example.com/", "tags": ["no spaces"]}, {"url": "https://example.com/", "signature": "none"},
        {"url": "https://example.com/", "rate_per_second": 0}, {"url": "https://example.com/", "retry_seconds": [0]},
        {"url": "https://example.com/", "secret": "mine"},
    ],
)  # fmt: skip
def test_a_wrong_endpoint_is_refused(shop, wrong):
    response = shop.post("/v1/webhooks", json=wrong)
    assert (response.status_code, response.json()["code"]) == (422, "request.invalid")


def test_there_is_a_limit_of_endpoints(offload, shop):
    for number in range(50):
        endpoint(shop, f"https://example.com/{number}")
    response = shop.post("/v1/webhooks", json={"url": "https://example.com/"})
    assert (response.status_code, response.json()["code"]) == (409, "webhook.limit")
