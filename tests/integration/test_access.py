"""Tenants, API keys and the audit: every gateway obeys a change within seconds, and each change is written down."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from devstack.servers import free_port
from devstack.waiting import until
from gateway import auth
from gateway.auth import WATCH_SECONDS
from offload_core import keys

from .conftest import FAST, JPEG, PREFIX, Offload

ADMIN, ADMIN_LINE = auth.new_key("root", ["admin", "operator"])
SETTINGS = {
    "OFFLOAD_DEVELOPMENT_MODE": "false",
    "OFFLOAD_API_KEYS": ADMIN_LINE,
    "OFFLOAD_BODY_LIMIT_BYTES": "5000",
    # A disk that stalls beside other tests makes no key twice.
    "OFFLOAD_REDIS_TIMEOUT_SECONDS": "20",
}


class Two(Offload):
    """Two gateways of one Redis."""

    def start(self) -> None:
        self.gateway()
        port = free_port()
        other = self.service("gateway", settings={"OFFLOAD_PORT": str(port)})
        other.wait_for_http(f"http://127.0.0.1:{port}/healthz")
        self.urls = (self.url, f"http://127.0.0.1:{port}")

    def as_(self, key: str, url: str = "") -> httpx.Client:
        client = self.client(headers={"Authorization": f"Bearer {key}"})
        client.base_url = url or self.url
        return client

    def statuses(self, key: str) -> list[int]:
        """Return what each gateway answers to a key."""
        return [httpx.get(f"{url}/v1/tasks", headers={"X-API-Key": key}).status_code for url in self.urls]


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with Two(tmp_path_factory.mktemp("access"), FAST | SETTINGS) as stack:
        stack.start()
        yield stack


@pytest.fixture
def admin(offload):
    return offload.as_(ADMIN)


@pytest.fixture
def tenant(admin, request) -> str:
    """Create a tenant of the test's own."""
    name = request.node.name[:60].replace("[", ".").replace("]", "")
    assert admin.post("/v1/tenants", json={"name": name}).status_code == 201
    return name


def new_key(admin, tenant: str, *scopes: str, **more) -> dict:
    body = {"tenant": tenant, "scopes": scopes or ["tasks:read", "tasks:write"], **more}
    answer = admin.post("/v1/keys", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def known(offload, key: str) -> None:
    until(lambda: set(offload.statuses(key)) == {200}, "every gateway to know the key", seconds=5)


def test_a_key_is_made_shown_once_and_revoked_everywhere(offload, admin, tenant):
    made = new_key(admin, tenant, description="of the shop")
    assert made["key"].startswith(made["prefix"])
    assert made["scopes"] == ["tasks:read", "tasks:write"]
    known(offload, made["key"])
    shown = admin.get(f"/v1/keys/{made['id']}").json()
    assert "key" not in shown
    assert (shown["tenant"], shown["description"], shown["expires_at"]) == (tenant, "of the shop", None)
    held = " ".join(str(value) for value in offload.redis.client().hgetall(keys.api_keys(PREFIX)).values())
    assert made["key"] not in held, "only its digest is kept"
    until(lambda: admin.get(f"/v1/keys/{made['id']}").json()["last_used_at"], "its use to be noted", seconds=30)
    assert offload.as_(made["key"]).get("/v1/queues").json()["code"] == "auth.scope"
    revoked_at = time.monotonic()
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert offload.statuses(made["key"])[0] == 401, "the gateway that revoked it refuses it at once"
    until(lambda: set(offload.statuses(made["key"])) == {401}, "the other one too", seconds=5)
    assert time.monotonic() - revoked_at < WATCH_SECONDS + 3
    assert admin.get(f"/v1/keys/{made['id']}").json()["code"] == "key.not_found"
    assert admin.delete(f"/v1/keys/{made['id']}").json()["code"] == "key.not_found"


def test_a_rotated_key_has_a_grace_period(offload, admin, tenant):
    made = new_key(admin, tenant)
    second = admin.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 3}).json()
    assert (second["id"], second["key"] != made["key"]) == (made["id"], True)
    known(offload, second["key"])
    assert 200 in offload.statuses(made["key"]), "the old one is still good"
    until(lambda: set(offload.statuses(made["key"])) == {401}, "its grace period to end", seconds=10)
    third = admin.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 0}).json()
    known(offload, third["key"])
    assert set(offload.statuses(second["key"])) == {401}


def test_a_key_ends_with_its_expiry(offload, admin, tenant):
    ends = datetime.now(UTC) + timedelta(seconds=4)
    made = new_key(admin, tenant, expires_at=ends.isoformat())
    known(offload, made["key"])
    until(lambda: set(offload.statuses(made["key"])) == {401}, "its end", seconds=10)
    assert datetime.now(UTC) >= ends


def test_a_stream_of_events_ends_with_its_key(offload, admin, tenant):
    made = new_key(admin, tenant)
    known(offload, made["key"])
    ended, following = threading.Event(), threading.Event()

    def follow() -> None:
        with offload.as_(made["key"], offload.urls[1]).stream("GET", "/v1/events") as answer:
            for _ in answer.iter_lines():
                following.set()
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    assert following.wait(10)
    admin.delete(f"/v1/keys/{made['id']}")
    assert ended.wait(5), "the stream goes on without a key"


def test_keys_made_at_once_are_all_there(admin, tenant):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_key(admin, tenant)["id"], range(20)))
    found, cursor = [], {}
    while True:
        page = admin.get("/v1/keys", params={"tenant": tenant, "limit": 7} | cursor).json()
        found += [one["id"] for one in page["data"]]
        if page["next"] is None:
            break
        cursor = {"after": page["next"]}
    assert sorted(found) == sorted(made)
    first = admin.get("/v1/keys", params={"tenant": tenant, "limit": 7}).json()
    second = admin.get("/v1/keys", params={"tenant": tenant, "limit": 7, "after": first["next"]}).json()
    back = admin.get("/v1/keys", params={"tenant": tenant, "limit": 7, "before": second["previous"]}).json()
    assert back["data"] == first["data"]


def test_tenants_are_created_changed_and_deleted(admin, tenant):
    assert admin.post("/v1/tenants", json={"name": tenant}).json()["code"] == "tenant.exists"
    changed = admin.patch(f"/v1/tenants/{tenant}", json={"description": "a shop", "limits": {"burst": 3}}).json()
    changed = admin.patch(f"/v1/tenants/{tenant}", json={"limits": {"max_waiting": 5}}).json()
    assert (changed["description"], changed["limits"]["burst"], changed["limits"]["max_waiting"]) == ("a shop", 3, 5)
    assert admin.patch(f"/v1/tenants/{tenant}", json={"limits": {"burst": None}}).json()["limits"]["burst"] is None
    assert tenant in {one["name"] for one in admin.get("/v1/tenants", params={"limit": 100}).json()["data"]}
    made = new_key(admin, tenant)
    assert admin.delete(f"/v1/tenants/{tenant}").json()["code"] == "tenant.in_use"
    admin.delete(f"/v1/keys/{made['id']}")
    assert admin.delete(f"/v1/tenants/{tenant}").status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert admin.request(method, f"/v1/tenants/{tenant}", json={}).json()["code"] == "tenant.not_found"


def test_a_key_whose_tenant_is_lost_can_be_revoked_and_nothing_else(offload, admin, tenant):
    """As after a restore of Redis from half of a backup: the request ends."""
    made = new_key(admin, tenant)
    offload.redis.client().hdel(keys.tenants(PREFIX), tenant)
    rotated = admin.post(f"/v1/keys/{made['id']}/rotate", json={})
    assert (rotated.status_code, rotated.json()["code"]) == (404, "tenant.not_found")
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 204


def test_what_is_wrong_is_refused(admin, tenant):
    unknown = admin.post("/v1/keys", json={"tenant": "nobody", "scopes": ["tasks:read"]})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "tenant.not_found")
    key = {"tenant": tenant, "scopes": ["tasks:read"]}
    for url, body, field in (
        ("/v1/keys", key | {"scopes": []}, "scopes"),
        ("/v1/keys", key | {"scopes": ["tasks:read", "root"]}, "scopes.1"),
        ("/v1/keys", key | {"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ("/v1/tenants", {"name": "beat"}, "name"),
        ("/v1/tenants", {"name": "a b"}, "name"),
        ("/v1/tenants", {"name": "new", "limits": {"weight": 3}}, "limits.weight"),
    ):
        answer = admin.post(url, json=body)
        assert (answer.status_code, [one["field"] for one in answer.json()["errors"]]) == (422, [field]), answer.text


def test_the_limits_of_a_tenant_hold_for_it_alone(offload, admin, tenant):
    other = f"{tenant}-2"
    admin.post("/v1/tenants", json={"name": other})
    mine, theirs = (new_key(admin, name)["key"] for name in (tenant, other))
    known(offload, mine)
    known(offload, theirs)
    client, neighbour = offload.as_(mine), offload.as_(theirs)
    report = {"rows": 1, "delay_seconds": 3600}
    offload.worker("image_worker")
    until(lambda: client.get("/v1/task-types/report.render.v1").status_code == 200, "its task type")

    def limit(**limits) -> None:
        admin.patch(f"/v1/tenants/{tenant}", json={"limits": limits})

    limit(max_waiting=2)
    posted = [client.post("/v1/reports", json=report) for _ in range(3)]
    assert [one.status_code for one in posted] == [202, 202, 429]
    assert (posted[2].json()["code"], posted[2].headers["Retry-After"]) == ("tenant.full", "10")
    assert neighbour.post("/v1/reports", json=report).status_code == 202
    item = {"task": "report.render.v1", "input": {"rows": 1}, "delay_seconds": 3600}
    batch = client.post("/v1/batches", json={"items": [item]})
    assert (batch.status_code, batch.json()["code"]) == (429, "tenant.full")
    limit(max_waiting=None, rate_per_second=0.01, burst=1)
    posted = [client.post("/v1/reports", json=report) for _ in range(2)]
    assert [one.status_code for one in posted] == [202, 429]
    assert (posted[1].json()["code"], posted[1].headers["RateLimit-Policy"]) == ("rate.limited", '"tasks";q=1;w=100')
    assert neighbour.post("/v1/reports", json=report).status_code == 202
    limit(rate_per_second=None, burst=None, max_payload_bytes=100)
    mail = {"to": "ann@example.com", "subject": "A test", "text": "x" * 200}
    assert client.post("/v1/emails", json=mail).json()["code"] == "body.too_large"
    image = client.post("/v1/images?width=20", content=b"\xff\xd8\xff" + bytes(200), headers=JPEG)
    assert image.status_code == 413, image.text
    assert (image.json()["code"], image.json()["limit_bytes"]) == ("upload.too_large", 100)
    assert neighbour.post("/v1/emails", json=mail | {"delay_seconds": 3600}).status_code == 202


def test_while_redis_is_away_the_keys_that_were_known_go_on_to_be(offload, admin, tenant):
    made = new_key(admin, tenant)
    known(offload, made["key"])
    offload.redis.kill()
    try:
        for url in offload.urls:
            client = offload.as_(made["key"], url)
            until(
                lambda client=client: (
                    client.post("/v1/reports", json={"rows": 1}).json()["code"] == "redis.unavailable"
                ),
                "the gateway to know of the outage",
            )
            assert offload.as_("offload_unknown", url).get("/v1/tasks").status_code == 401
    finally:
        offload.redis.start()
    until(lambda: set(offload.statuses(made["key"])) == {200}, "the key to be good again", seconds=15)


# -- the audit


def rows(admin, **query) -> list[dict]:
    return admin.get("/v1/audit", params={"limit": 100} | query).json()["data"]


def test_the_audit_says_who_did_what(offload, admin, tenant):
    made = new_key(admin, tenant)
    assert admin.patch("/v1/tenants/a b", json={}).status_code == 422
    assert [row["result"] for row in rows(admin, resource_id="a b")] == [422]
    admin.headers["User-Agent"] = "a browser"
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 404
    refused, revoked, created = rows(admin, resource_id=made["id"])
    assert (created["action"], created["result"], created["actor"]) == ("create_key", 201, "root")
    assert (revoked["action"], revoked["resource_type"], revoked["result"]) == ("revoke_key", "API key", 204)
    assert (revoked["key_prefix"], revoked["user_agent"], revoked["ip"]) == (ADMIN[:14], "a browser", "127.0.0.1")
    assert refused["result"] == 404
    assert datetime.fromisoformat(revoked["at"]) <= datetime.now(UTC)
    assert made["key"] not in json.dumps(rows(admin))
    # What a tenant's key was refused is there as well, and what a stranger tries is not.
    shop = new_key(admin, tenant)["key"]
    known(offload, shop)
    count = len(rows(admin))
    assert offload.as_(shop).put("/v1/queues/mail/pause", json={}).status_code == 403
    assert httpx.put(f"{offload.url}/v1/queues/mail/pause", json={}).status_code == 401
    newest, *_ = found = rows(admin)
    assert len(found) == count + 1
    assert (newest["actor"], newest["action"], newest["resource_id"], newest["result"]) == (
        tenant, "pause_queue", "mail", 403,
    )  # fmt: skip


def test_the_audit_is_listed_in_pages_and_exported_whole(offload, admin, tenant):
    for number in range(12):
        admin.patch(f"/v1/tenants/{tenant}", json={"description": str(number)})
    query = {"resource_id": tenant, "action": "change_tenant", "limit": 5}
    pages, cursor = [], {}
    while True:
        page = admin.get("/v1/audit", params=query | cursor).json()
        pages.append(page["data"])
        if page["next"] is None:
            break
        cursor = {"after": page["next"]}
    assert [len(page) for page in pages] == [5, 5, 2]
    lines = admin.get("/v1/audit", params={"resource_id": tenant}, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["Content-Type"].startswith("application/x-ndjson")
    exported = [json.loads(line) for line in lines.text.splitlines()]
    assert [row["action"] for row in exported] == ["create_tenant"] + ["change_tenant"] * 12
    assert [row for page in pages for row in page] == exported[:0:-1]
    since = exported[5]["at"]
    newest = exported[::-1]
    assert rows(admin, resource_id=tenant, created_after=since) == [row for row in newest if row["at"] >= since]
    assert rows(admin, resource_id=tenant, created_before=since) == [row for row in newest if row["at"] < since]
    assert rows(admin, actor="nobody") == []
    assert rows(admin, created_before="0202-10-12T09:15:18Z") == []
    assert rows(admin, resource_id=tenant, created_after="0202-10-12T09:15:18Z") == newest


def test_what_is_older_than_ninety_days_goes(offload, admin, tenant):
    redis = offload.redis.client()
    redis.delete(keys.audit(PREFIX))
    old = round((time.time() - 91 * 86_400) * 1000)
    for number in range(1000):
        redis.xadd(keys.audit(PREFIX), {"row": "{}"}, id=f"{old}-{number + 1}")
    admin.patch(f"/v1/tenants/{tenant}", json={})
    # Whole nodes of the stream go at a time.
    assert redis.xlen(keys.audit(PREFIX)) < 200


def test_every_route_that_changes_what_is_an_operators_is_audited(offload, admin):
    document = admin.get("/openapi.json").json()
    changing = [
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "get"
        and operation.get("security")
        and operation["security"][0]["bearer"][0] in {"operator", "admin"}
    ]
    assert len(changing) > 12
    for method, path in changing:
        url = path.replace("{", "").replace("}", "")
        before = offload.redis.client().xlen(keys.audit(PREFIX))
        admin.request(method, url, json={})
        assert offload.redis.client().xlen(keys.audit(PREFIX)) == before + 1, (method, path)
