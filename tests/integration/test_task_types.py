"""The catalogue: what is registered is shown, checked and documented, and outlives its workers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from devstack.waiting import until
from offload_contracts.contract import TaskContract
from offload_core import catalogue, keys
from offload_core.catalogue import TaskType

from .conftest import PREFIX

HERE = Path(__file__).parent


class Line(BaseModel):
    """One line."""

    price: Annotated[int, Field(ge=0)]


class Invoice(BaseModel):
    """An invoice."""

    number: str
    lines: list[Line] = []


class InvoiceWithDate(Invoice):
    """What a later release asks for."""

    date: str


class Rendered(BaseModel):
    """What comes of it."""

    pages: int


def entry(message: type[BaseModel] = Invoice, fleet: str = "acme") -> TaskType:
    contract = TaskContract("invoice.render.v1", "invoices", message, Rendered)
    return TaskType.of(contract, service="acme-worker", fleet=fleet)


@pytest.fixture
def registered(offload):
    """A gateway, and what registers task types as a worker does."""
    offload.gateway()
    redis = offload.redis.client()

    def register(*task_types: TaskType) -> None:
        catalogue.register(redis, PREFIX, task_types[0].fleet, task_types)

    offload.register = register
    return offload


def names(client) -> list[str]:
    return [one["name"] for one in client.get("/v1/task-types").json()["task_types"]]


def test_a_task_type_is_shown_with_all_that_a_client_needs(registered):
    client = registered.client()
    assert names(client) == []
    registered.register(entry())
    until(lambda: names(client) == ["invoice.render.v1"], "the task type")
    shown = client.get("/v1/task-types/invoice.render.v1").json()
    assert (shown["queue"], shown["service"], shown["fleet"]) == ("invoices", "acme-worker", "acme")
    assert shown["input_schema"]["required"] == ["number"]
    assert shown["result_schema"]["properties"]["pages"] == {"title": "Pages", "type": "integer"}
    assert [one["version"] for one in shown["versions"]] == [shown["version"]]
    missing = client.get("/v1/task-types/invoice.send.v1")
    assert (missing.status_code, missing.json()["code"]) == (404, "task_type.not_found")
    # Its queue is one of those that operators see, at once.
    assert client.get("/v1/queues/invoices").json()["waiting"] == 0


def test_what_is_wrong_is_said_with_near_names_and_json_pointers(registered):
    client = registered.client()
    registered.register(entry())
    until(lambda: names(client), "the task type")

    def refused(body: dict) -> dict:
        response = client.post("/v1/tasks", json=body)
        assert response.status_code == 422, response.text
        return response.json()

    unknown = refused({"task": "invoice.rendr.v1", "input": {}})
    assert (unknown["code"], unknown["errors"][0]["field"]) == ("task_type.unknown", "/task")
    assert "did you mean invoice.render.v1?" in unknown["detail"]
    wrong = refused({"task": "invoice.render.v1", "input": {"lines": [{"price": 1}, {"price": -4711}]}})
    assert wrong["code"] == "input.invalid"
    assert {one["field"] for one in wrong["errors"]} == {"/input", "/input/lines/1/price"}
    assert "4711" not in json.dumps(wrong)
    steps = [{"task": "invoice.render.v1", "input": {"number": "1"}}, {"task": "invoice.render.v1", "input": {}}]
    assert refused({"steps": steps})["errors"][0]["field"] == "/steps/1/input"
    branches = {"parallel": [{"task": "invoice.render.v1", "input": {"number": "1"}}, {"task": "nothing.at_all.v1"}]}
    assert refused({"steps": [branches]})["errors"][0]["field"] == "/steps/0/parallel/1/task"
    for body, field in (
        ({"steps": [{"parallel": [{"task": "invoice.render.v1"}]}]}, "steps.0.parallel"),
        ({"task": "invoice.render.v1", "steps": []}, "task"),
        ({"task": "invoice.render.v1", "input": {}, "priority": 1}, "priority"),
        ({"task": "invoice.render.v1", "input": {}, "flow": "a"}, "flow"),
        ({"task": "invoice.render.v1", "tags": ["no spaces"]}, "tags.0"),
        ({"task": "invoice.render.v1", "metadata": {"a": "x" * 5000}}, "metadata"),
        ({"task": "invoice.render.v1", "run_at": "2000-01-01T00:00:00Z", "delay_seconds": 1}, "body"),
        ({"task": "invoice.render.v1", "run_at": "2999-01-01T00:00:00Z", "input": {"number": "1"}}, "run_at"),
        ({"task": "invoice.render.v1", "run_at": "12"}, "run_at"),
        ({"task": "invoice.render.v1", "retry": {"max_attempts": 21}}, "retry.max_attempts"),
        ({"task": "invoice.render.v1", "private": ["secret"]}, "private.0"),
        ([], "body"),
    ):
        assert field in [one["field"] for one in refused(body)["errors"]], body


def test_internal_task_types_can_not_be_posted(registered):
    registered.worker("housekeeper")
    client = registered.client()
    until(lambda: registered.redis.client().hlen(keys.catalogue(PREFIX, "housekeeper")), "its registration")
    assert names(client) == []
    refused = client.post("/v1/tasks", json={"task": "maintenance.clean_up.v1", "input": {"thorough": True}})
    assert refused.json()["code"] == "task_type.unknown"


def test_what_cannot_be_right_is_not_taken_over(registered):
    """A fleet that takes a built-in name, writes a schema that is none, or more than we know, changes nothing else."""
    client, redis = registered.client(), registered.redis.client()
    stolen = replace(entry(), name="mail.send.v1", queue="invoices")
    broken = replace(entry(), name="broken.schema.v1", input_schema={"type": 7})
    registered.register(entry(), stolen, broken)
    redis.hset(keys.catalogue(PREFIX, "later"), "x", json.dumps(asdict(entry(fleet="later")) | {"unknown": 1}))
    redis.hset(keys.catalogue(PREFIX, "garbage"), "x", "{")
    for fleet in ("later", "garbage"):
        redis.hset(keys.catalogue(PREFIX), fleet, 1)
    until(lambda: names(client) == ["invoice.render.v1"], "the task type")
    gateway = registered.processes[0]
    for said in ("cannot register mail.send.v1", "broken.schema.v1", "the fleet garbage cannot be read"):
        gateway.wait_for(said)


def test_during_a_rollout_both_versions_are_taken(registered):
    """An input is checked against the newest version, and against an older one while that has workers."""
    client = registered.client()
    old, new = entry(), entry(InvoiceWithDate)
    registered.register(old, replace(new, registered_at=new.registered_at + 1))
    until(lambda: names(client), "the task type")
    versions = client.get("/v1/task-types/invoice.render.v1").json()["versions"]
    assert [one["version"] for one in versions] == [new.version, old.version]

    def version_of(given: dict) -> str:
        response = client.post("/v1/tasks", json={"task": "invoice.render.v1", "input": given})
        assert response.status_code == 202, response.text
        record = registered.redis.client().hget(keys.record(PREFIX, response.json()["task_id"]), "steps")
        return json.loads(record)[0]["version"]

    assert version_of({"number": "1", "date": "today"}) == new.version
    assert version_of({"number": "1"}) == old.version
    # The old version's last worker has gone.
    redis = registered.redis.client()
    gone = asdict(old) | {"last_seen_at": old.last_seen_at - catalogue.ALIVE_MS - 1000}
    redis.hset(keys.catalogue(PREFIX, "acme"), old.field, json.dumps(gone))
    redis.hset(keys.catalogue(PREFIX), "acme", "changed")

    def refused() -> bool:
        return client.post("/v1/tasks", json={"task": "invoice.render.v1", "input": {"number": "1"}}).status_code == 422

    until(refused, "the old version to go")


def test_a_message_of_another_version_waits_for_a_worker_that_reads_it(offload, tmp_path):
    """The worker of the old version hands it back; that of the new one runs it."""
    for release, field in (("old", "number: str"), ("new", "name: str")):
        (tmp_path / release).mkdir()
        (tmp_path / release / "shop.py").write_text(SHOP.format(field=field, release=release))
    offload.environment["OFFLOAD_UNKNOWN_TASK_GRACE_SECONDS"] = "60"
    offload.gateway()
    client = offload.client()
    new = offload.own_worker("shop:worker", tmp_path / "new")
    until(lambda: names(client), "the task type")
    new.stop()
    old = offload.own_worker("shop:worker", tmp_path / "old")
    until(lambda: len(client.get("/v1/task-types/invoice.print.v1").json()["versions"]) == 2, "both versions")
    body = {"task": "invoice.print.v1", "input": {"name": "x"}}
    task_id = client.post("/v1/tasks", json=body).json()["task_id"]
    until(lambda: client.get("/v1/queues/invoices").json()["delayed"] == 1, "the message to be handed back")
    assert offload.task(client, task_id)["state"] == "PENDING"
    offload.own_worker("shop:worker", tmp_path / "new")
    task = offload.wait(client, task_id)
    assert (task["state"], task["result"]) == ("SUCCESS", {"release": "new"})
    assert old.exit_code is None


SHOP = """
from pydantic import BaseModel
from offload_worker import Worker

worker = Worker("shop", pool="threads")

class Invoice(BaseModel):
    {field}

class Printed(BaseModel):
    release: str

@worker.task("invoice.print.v1", queue="invoices")
def render(invoice: Invoice) -> Printed:
    return Printed(release="{release}")
"""


def test_a_catalogue_that_vanishes_refuses_nobody_and_comes_back(registered):
    """What is gone from Redis stays known to the gateway until its workers have registered it again."""
    client, redis = registered.client(), registered.redis.client()
    registered.own_worker("acme_worker:worker", HERE)
    until(lambda: "number.add.v1" in names(client), "the task types")
    redis.delete(keys.catalogue(PREFIX), keys.catalogue(PREFIX, "acme-worker"))
    posted = 0

    def is_back() -> bool:
        nonlocal posted
        response = client.post("/v1/tasks", json={"task": "number.add.v1", "input": {"a": 1}})
        assert response.status_code == 202, response.text
        posted += 1
        return redis.hlen(keys.catalogue(PREFIX, "acme-worker")) > 0

    until(is_back, "the registration", seconds=40)
    assert posted > 5


def test_a_fleet_at_zero_stays_addressable(registered):
    client = registered.client()
    own = registered.own_worker("acme_worker:worker", HERE)
    until(lambda: "number.add.v1" in names(client), "the task types")
    own.stop()
    task_id = client.post("/v1/tasks", json={"task": "number.add.v1", "input": {"a": 1}}).json()["task_id"]
    assert client.get("/v1/queues/numbers").json()["waiting"] == 1
    registered.own_worker("acme_worker:worker", HERE)
    assert registered.wait(client, task_id)["result"] == {"total": 1}


def test_what_nobody_has_registered_for_thirty_days_is_gone(registered):
    client, redis = registered.client(), registered.redis.client()
    old = entry()
    forgotten = asdict(old) | {"last_seen_at": old.last_seen_at - catalogue.KEEP_MS - 1000}
    redis.hset(keys.catalogue(PREFIX, "acme"), old.field, json.dumps(forgotten))
    registered.register(entry(InvoiceWithDate))
    until(lambda: names(client), "the task type")
    assert len(client.get("/v1/task-types/invoice.render.v1").json()["versions"]) == 1
    assert redis.hlen(keys.catalogue(PREFIX, "acme")) == 1
    assert 0 < redis.pttl(keys.catalogue(PREFIX, "acme")) <= catalogue.KEEP_MS


def test_the_document_has_each_task_type_and_a_tag_that_changes_with_them(registered):
    client = registered.client()
    before = client.get("/openapi.json")
    assert client.get("/openapi.json", headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    registered.register(entry())
    until(lambda: names(client), "the task type")
    after = client.get("/openapi.json")
    assert after.headers["etag"] != before.headers["etag"]
    schemas = after.json()["components"]["schemas"]
    assert schemas["SingleTask"]["discriminator"]["mapping"] == {
        "invoice.render.v1": "#/components/schemas/InvoiceRenderV1SingleTask"
    }
    own = schemas["InvoiceRenderV1SingleTask"]["properties"]
    assert own["input"] == {"$ref": "#/components/schemas/InvoiceRenderV1Input"}
    line = schemas["InvoiceRenderV1Input"]["properties"]["lines"]["items"]
    assert line == {"$ref": "#/components/schemas/InvoiceRenderV1InputLine"}
    assert schemas["InvoiceRenderV1InputLine"]["properties"]["price"]["minimum"] == 0
    assert "retry" in own
    assert "/docs" in str(client.get("/docs").url)
