"""Who may do what: every route, held against every kind of key."""

from __future__ import annotations

import httpx
import pytest

from devstack.waiting import until
from gateway import auth
from gateway.scopes import SCOPES, TENANT_SCOPES

from .conftest import WITH_KEYS, Offload
from .test_batches import running

# Every scope of a tenant but the one that is asked for.
LACKING = {
    scope: auth.new_key(f"lacks-{scope.replace(':', '.')}", sorted(TENANT_SCOPES - {scope} or {"admin"}))
    for scope in TENANT_SCOPES
}
OTHERS = {
    "operator": auth.new_key("operator-alone", ["operator"]),
    "admin": auth.new_key("admin-alone", ["admin"]),
    "expired": auth.new_key("shop", ["tasks"], "2020-01-01"),
}
# What comes before a request's own fields is looked at: whether there is such a thing, and whose.
NO_ENTRY = {401, 403, 404}


class Routes:
    """Every route of the API, with the paths of what a tenant has."""

    def __init__(self, document: dict, own: dict[str, str]) -> None:
        self.all = [
            (method.upper(), path, self.scope(operation), {} in operation["security"])
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if path.startswith("/v1/")
        ]
        self._own = own

    @staticmethod
    def scope(operation: dict) -> str:
        return operation["security"][0]["bearer"][0]

    def url(self, path: str) -> str:
        feature = path.split("/")[2]
        for name in ("task_id", "batch_id", "webhook_id", "bulk_id", "letter_id", "key_id", "name"):
            # A name says nothing by itself: of an output, a queue, a schedule, a tenant.
            found = self._own.get(f"{feature}.{name}") or self._own.get(name, "none")
            path = path.replace(f"{{{name}}}", found)
        return path


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    lines = [line for _, line in (*LACKING.values(), *OTHERS.values())]
    settings = {"OFFLOAD_API_KEYS": " ".join([WITH_KEYS["OFFLOAD_API_KEYS"], *lines])}
    with running(tmp_path_factory.mktemp("isolation"), settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def routes(offload: Offload) -> Routes:
    shop, root = offload.client_of("shop"), offload.client_of("root")
    item = {"task": "batch.item.v1", "input": {"number": 1}}
    task_id = shop.post("/v1/tasks", json=item).json()["task_id"]
    offload.wait(shop, task_id)
    own = {
        "task_id": task_id,
        "batch_id": shop.post("/v1/batches", json={"expected": 2}).json()["id"],
        "webhook_id": shop.post("/v1/webhooks", json={"url": "https://example.com/hook"}).json()["id"],
        "schedules.name": "mine",
        "queues.name": "batch",
        "task-types.name": "batch.item.v1",
        "bulk_id": root.post("/v1/bulk", json={"action": "cancel", "ids": [task_id], "dry_run": True}).json()["id"],
    }
    assert shop.put("/v1/schedules/mine", json=item | {"every_seconds": 86_400}).status_code == 201
    return Routes(httpx.get(f"{offload.url}/openapi.json").json(), own)


def status(offload: Offload, key: str | None, method: str, url: str) -> int:
    """Return what a request with nothing in it is answered; of a stream the first of it."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {} if method == "GET" else {"json": {}}
    with httpx.stream(method, f"{offload.url}{url}", headers=headers, timeout=30, **body) as answer:
        return answer.status_code


def test_the_matrix_is_of_every_route_and_scope(routes):
    assert len(routes.all) > 60
    assert {scope for _, _, scope, _ in routes.all} == SCOPES


def test_without_a_good_key_there_is_no_entry(offload, routes):
    for method, path, _, is_open in routes.all:
        url = routes.url(path)
        for key in (None, "offload_unknown", OTHERS["expired"][0]):
            if not (key is None and is_open):
                assert status(offload, key, method, url) == 401, (method, path, key)
            else:
                # A link with a token of its own opens it, and nothing else does.
                assert status(offload, key, method, url) in NO_ENTRY, (method, path)
                assert status(offload, key, method, f"{url}?token=none") in NO_ENTRY, (method, path)


def test_without_the_scope_there_is_no_entry(offload, routes):
    for method, path, scope, _ in routes.all:
        url = routes.url(path)
        lacking = LACKING[scope][0] if scope in LACKING else OTHERS["operator" if scope == "admin" else "admin"][0]
        assert status(offload, lacking, method, url) == 403, (method, path)
        if scope in TENANT_SCOPES:
            assert status(offload, OTHERS["admin"][0], method, url) == 403, (method, path)
        else:
            assert status(offload, LACKING["tasks:read"][0], method, url) == 403, (method, path)


def test_what_is_another_tenants_is_not_there(offload, routes):
    other = offload.client_of("other").headers["Authorization"].partition(" ")[2]
    shared = {"/v1/task-types/{name}"}
    for method, path, scope, _ in routes.all:
        if "{" not in path or scope not in TENANT_SCOPES or path in shared:
            continue
        found = status(offload, other, method, routes.url(path))
        # A schedule's name is one of the tenant's own: there an empty schedule is refused, and nothing is shown.
        expected = {422} if (method, path) == ("PUT", "/v1/schedules/{name}") else {404, 415, 422}
        assert found in expected, (method, path, found)
        assert method != "GET" or found == 404, (method, path, found)


def test_lists_show_nothing_of_another_tenant(offload, routes):
    other = offload.client_of("other")
    own = [value for name, value in routes._own.items() if name in {"task_id", "batch_id", "webhook_id"}]
    for method, path, scope, _ in routes.all:
        if method == "GET" and "{" not in path and scope in TENANT_SCOPES and path != "/v1/events":
            answer = other.get(path)
            assert answer.status_code == 200, path
            assert not [one for one in (*own, '"mine"') if one in answer.text], path
    for path in ("/v1/tasks", "/v1/schedules"):
        assert other.get(path, params={"tenant": "shop"}).json()["code"] == "auth.scope"


def test_the_owner_and_operators_have_entry(offload, routes):
    """What there is not is looked for by nobody here: the routes of one's own things come to their own answers."""
    shop = offload.client_of("shop").headers["Authorization"].partition(" ")[2]
    # What deletes comes last.
    for method, path, scope, _ in sorted(routes.all, key=lambda route: (route[0] == "DELETE", route)):
        url = routes.url(path)
        if scope in TENANT_SCOPES:
            assert status(offload, shop, method, url) not in {401, 403}, (method, path)
        if scope != "admin":
            assert status(offload, OTHERS["operator"][0], method, url) not in {401, 403}, (method, path)
        else:
            assert status(offload, OTHERS["admin"][0], method, url) not in {401, 403}, (method, path)


def test_an_operator_reads_every_tenants(offload):
    shop = offload.client_of("shop")
    task_id = shop.post("/v1/tasks", json={"task": "batch.item.v1", "input": {"number": 2}}).json()["task_id"]
    operator = offload.client(headers={"Authorization": f"Bearer {OTHERS['operator'][0]}"})
    assert operator.get(f"/v1/tasks/{task_id}").status_code == 200
    until(lambda: task_id in operator.get("/v1/tasks", params={"tenant": "shop", "limit": 100}).text, "it in the list")
