"""Schedules of tenants: each occurrence is one task, and what overlaps, was missed or fails is done as asked."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from devstack.waiting import until
from offload_core import keys

from .conftest import PREFIX
from .test_batches import running


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with running(tmp_path_factory.mktemp("schedules")) as stack:
        yield stack


@pytest.fixture
def shop(offload):
    client = offload.client_of("shop")
    yield client
    for one in client.get("/v1/schedules", params={"limit": 100}).json()["data"]:
        client.delete(f"/v1/schedules/{one['name']}")


def body(**more) -> dict:
    return {"task": "batch.item.v1", "input": {"number": 1}, **more}


def put(client, name: str, **given) -> dict:
    response = client.put(f"/v1/schedules/{name}", json=body(**given))
    assert response.status_code in {200, 201}, response.text
    return response.json()


def shown(client, name: str) -> dict:
    return client.get(f"/v1/schedules/{name}").json()


def tasks(client, name: str) -> list[dict]:
    return client.get("/v1/tasks", params={"schedule": name, "limit": 100}).json()["data"]


def be_older(offload, name: str, seconds: float) -> None:
    """Have a schedule be looked at last so long ago, as after an outage of beat."""
    redis, at = offload.redis.client(), round((time.time() - seconds) * 1000)
    redis.hset(keys.schedule(PREFIX, "shop", name), "since", at)
    redis.zadd(keys.schedules(PREFIX), {f"shop:{name}": at}, xx=True)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_each_occurrence_is_one_task(shop):
    made = put(shop, "each", every_seconds=1, tags=["night"], metadata={"a": 1})
    assert (made["description"], made["paused"], made["last_run"]) == ("Every second", False, None)
    assert len(made["next_runs"]) == 5
    found = until(lambda: len(done := tasks(shop, "each")) >= 4 and done, "four occurrences", seconds=20)
    assert len({one["task_id"] for one in found}) == len(found)
    assert {(one["schedule"], tuple(one["tags"]), one["kind"]) for one in found} == {("each", ("night",), "task")}
    until(lambda: shop.get(f"/v1/tasks/{found[-1]['task_id']}").json()["state"] == "SUCCESS", "the task")
    moments = sorted(one["task_id"].partition("@")[2] for one in found)
    seconds = [at(one.replace("T", " ")[:8] + "T" + one[9:15] + "+00:00").timestamp() for one in moments]
    assert seconds == [seconds[0] + number for number in range(len(seconds))], "none is missing, none is there twice"
    now = shown(shop, "each")
    assert now["last_run"]["task_id"] >= found[0]["task_id"]
    assert now["runs_total"] >= 4
    # Each has a trace of its own.
    assert len({one["trace_id"] for one in found}) == len(found)


def test_a_schedule_is_changed_by_whom_has_seen_it(shop):
    first = shop.put("/v1/schedules/edit", json=body(cron="0 8 * * MON-FRI", time_zone="Europe/Berlin"))
    assert (first.status_code, first.headers["ETag"]) == (201, '"1"')
    assert first.json()["description"] == "At 08:00 on Monday through Friday (Europe/Berlin)"
    new = shop.put("/v1/schedules/edit", json=body(cron="@daily"), headers={"If-None-Match": "*"})
    assert (new.status_code, new.json()["code"]) == (412, "schedule.changed")
    second = shop.put("/v1/schedules/edit", json=body(cron="@daily"), headers={"If-Match": '"1"'})
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    late = shop.put("/v1/schedules/edit", json=body(cron="@hourly"), headers={"If-Match": '"1"'})
    assert (late.status_code, late.json()["code"]) == (412, "schedule.changed")
    assert shop.put("/v1/schedules/none", json=body(cron="@daily"), headers={"If-Match": "*"}).status_code == 412
    assert shown(shop, "edit")["cron"] == "@daily"
    assert shop.get("/v1/schedules/edit").headers["ETag"] == '"2"'
    assert shop.delete("/v1/schedules/edit").status_code == 204
    assert shop.get("/v1/schedules/edit").json()["code"] == "schedule.not_found"


def test_what_cannot_be_is_refused(shop):
    for given, field in [
        ({"cron": "0 8 * *"}, "cron"), ({"cron": "* * * * * *"}, "cron"), ({"cron": "0 25 * * *"}, "cron"),
        ({"cron": "@never"}, "cron"), ({"cron": "@daily", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"cron": "@daily", "every_seconds": 5}, "body"), ({}, "body"), ({"every_seconds": 0}, "every_seconds"),
        ({"every_seconds": 1, "catch_up_seconds": 9}, "catch_up_seconds"),
        ({"every_seconds": 1, "overlap": "x"}, "overlap"),
        ({"every_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}, "run_at"),
        ({"every_seconds": 1, "input": {"number": "x"}}, "/input/number"),
    ]:  # fmt: skip
        response = shop.put("/v1/schedules/wrong", json=body(**given))
        assert response.status_code == 422, given
        assert field in {one["field"] for one in response.json()["errors"]}, (given, response.json())
    never = [{"cron": "0 0 30 2 *"}, {"every_seconds": 5, "ends_at": "2020-01-01T00:00:00Z"}]
    for given in never:
        response = shop.put("/v1/schedules/wrong", json=body(**given))
        assert response.json()["code"] in {"schedule.never", "request.invalid"}
        assert response.status_code == 422
    for name in ("no name", "preview"):
        assert shop.put(f"/v1/schedules/{name}", json=body(cron="@daily")).status_code == 422


def test_a_preview_and_the_zones(shop):
    found = shop.post("/v1/schedules/preview", json={
        "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "starts_at": "2027-03-27T00:00:00Z", "count": 3,
    }).json()  # fmt: skip
    # The clock goes from 2:00 to 3:00 on the 28th.
    assert found["next_runs"] == ["2027-03-27T01:30:00.000Z", "2027-03-28T01:00:00.000Z", "2027-03-29T00:30:00.000Z"]
    assert {"Europe/Berlin", "UTC", "America/New_York"} <= set(shop.get("/v1/time-zones").json()["time_zones"])


def test_nothing_overlaps_unless_it_may(offload, shop, tmp_path):
    file = tmp_path / "free"
    slow = {"number": 1, "until": str(file)}
    for overlap in ("skip", "buffer_one", "buffer_all", "cancel_running", "allow"):
        put(shop, overlap, every_seconds=1, overlap=overlap, input=slow)
    until(lambda: shown(shop, "skip")["skipped_total"] >= 3, "occurrences to be skipped", seconds=30)
    until(lambda: shown(shop, "buffer_one")["skipped_total"] >= 2, "occurrences to be skipped", seconds=30)
    until(lambda: shown(shop, "buffer_all")["waiting"] >= 3, "occurrences to wait", seconds=30)
    assert [len(tasks(shop, name)) for name in ("skip", "buffer_one", "buffer_all")] == [1, 1, 1]
    assert shown(shop, "buffer_one")["waiting"] == 1
    assert len(tasks(shop, "allow")) >= 3
    until(lambda: len(tasks(shop, "cancel_running")) >= 3, "the others to be cancelled", seconds=30)
    asked = [one["cancel_requested"] or one["state"] == "REVOKED" for one in tasks(shop, "cancel_running")]
    assert asked[1:] == [True] * (len(asked) - 1)
    for name in ("skip", "cancel_running", "allow", "buffer_one"):
        shop.delete(f"/v1/schedules/{name}")
    put_back = shop.post("/v1/schedules/buffer_all/backfill", json={
        "from": iso(-3600), "to": iso(-3598), "overlap": "buffer_all",
    })  # fmt: skip
    assert put_back.status_code == 202
    count = shown(shop, "buffer_all")["waiting"] + 1
    file.touch()
    until(lambda: shown(shop, "buffer_all")["runs_total"] >= count, "what waits to be run", seconds=60)


def iso(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(("catch_up", "runs"), [("latest", 1), ("all", 3)])
def test_what_was_missed_is_caught_up_as_asked(offload, shop, catch_up, runs):
    name = f"missed-{catch_up}"
    # Each hour, half an hour from now on at the earliest.
    starts_at = datetime.now(UTC) - timedelta(hours=10) + timedelta(minutes=30)
    put(
        shop, name, every_seconds=3600, starts_at=starts_at.isoformat(), catch_up=catch_up, catch_up_seconds=10_800,
        overlap="buffer_all",
    )  # fmt: skip
    be_older(offload, name, 6 * 3600)
    found = until(lambda: len(tasks(shop, name)) >= runs and tasks(shop, name), "what is caught up", seconds=20)
    assert len(found) == runs
    now = shown(shop, name)
    assert (now["runs_total"], now["missed_total"]) == (runs, 6 - runs)
    events = offload.redis.client().xrevrange(keys.owner_events(PREFIX, "shop"), count=50)
    missed = [json.loads(fields[b"data"]) for _, fields in events if fields[b"type"] == b"schedule.missed"]
    assert [one["missed"] for one in missed if one["schedule"] == name] == [6 - runs]


def test_a_change_fires_nothing_of_the_past(offload, shop):
    put(shop, "past", every_seconds=3600, starts_at=iso(-7200 - 60), catch_up="all")
    be_older(offload, "past", 3)
    put(shop, "past", every_seconds=3600, starts_at=iso(-7200 - 60), catch_up="all", note="changed")
    shop.post("/v1/schedules/past/pause", json={"note": "a while"})
    assert (shown(shop, "past")["paused"], shown(shop, "past")["note"]) == (True, "a while")
    assert shown(shop, "past")["next_runs"] == []
    offload.redis.client().hset(keys.schedule(PREFIX, "shop", "past"), "since", 1)
    shop.post("/v1/schedules/past/resume")
    put(shop, "probe", every_seconds=1)
    until(lambda: tasks(shop, "probe"), "beat to have looked", seconds=20)
    assert (shown(shop, "past")["paused"], tasks(shop, "past")) == (False, [])


def test_a_paused_one_is_triggered_and_backfilled(offload, shop):
    put(shop, "hand", cron="0 * * * *", paused=True)
    key = {"Idempotency-Key": "by hand"}
    triggered = shop.post("/v1/schedules/hand/trigger", headers=key)
    assert triggered.status_code == 202
    again = shop.post("/v1/schedules/hand/trigger", headers=key)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (triggered.json(), "true")
    assert offload.wait(shop, triggered.json()["task_id"])["schedule"] == "hand"
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T05:00:00Z"}
    first = shop.post("/v1/schedules/hand/backfill", json=span).json()
    assert first["occurrences"] == 6
    assert first["task_ids"][0] == "shop:hand@20260101T000000Z"
    assert shop.post("/v1/schedules/hand/backfill", json=span).json() == first
    assert len(tasks(shop, "hand")) == 7
    for given, field in [
        ({"from": "2020-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": iso(-60), "to": iso(60)}, "to"),
    ]:
        refused = shop.post("/v1/schedules/hand/backfill", json=given)
        assert refused.status_code == 422
        assert field in {one["field"] for one in refused.json()["errors"]}


def test_it_ends_after_its_runs_or_its_time(shop):
    put(shop, "runs", every_seconds=1, max_runs=3, overlap="allow")
    put(shop, "time", every_seconds=1, ends_at=iso(2.5), overlap="allow")
    for name in ("runs", "time"):
        until(lambda name=name: shown(shop, name)["finished_at"], f"{name} to be finished", seconds=30)
    assert (shown(shop, "runs")["runs_total"], len(tasks(shop, "runs"))) == (3, 3)
    assert 1 <= shown(shop, "time")["runs_total"] <= 3
    assert shown(shop, "runs")["next_runs"] == []


def test_a_failure_pauses_it_where_that_is_asked_for(shop):
    put(shop, "failing", every_seconds=1, pause_on_failure=True, input={"number": 1, "fails": True})
    put(shop, "failing-on", every_seconds=1, input={"number": 1, "fails": True})
    until(lambda: shown(shop, "failing")["paused"], "it to be paused", seconds=30)
    assert "failed" in shown(shop, "failing")["note"]
    until(lambda: len(tasks(shop, "failing-on")) >= 3, "the other one to go on", seconds=30)
    shop.post("/v1/schedules/failing/resume")
    assert shown(shop, "failing")["paused"] is False


def test_it_belongs_to_its_key(offload, shop):
    other, root = offload.client_of("other"), offload.client_of("root")
    put(shop, "mine", cron="@daily")
    assert other.get("/v1/schedules/mine").json()["code"] == "schedule.not_found"
    assert other.get("/v1/schedules/mine", params={"tenant": "shop"}).json()["code"] == "auth.scope"
    assert other.put("/v1/schedules/mine", json=body(cron="@hourly")).status_code == 201, "a name is a key's own"
    assert [one["tenant"] for one in other.get("/v1/schedules").json()["data"]] == ["other"]
    assert {one["tenant"] for one in root.get("/v1/schedules").json()["data"]} - {"beat"} == {"shop", "other"}
    assert root.post("/v1/schedules/mine/pause", params={"tenant": "shop"}, json={}).json()["paused"] is True
    assert shown(shop, "mine")["paused"] is True
    assert other.delete("/v1/schedules/mine").status_code == 204


def test_what_is_private_is_not_shown(shop):
    made = put(shop, "private", cron="@daily", input={"number": 7}, private=["/number"])
    assert made["input"] == {"number": "<private>"}
    assert shop.get("/v1/schedules").json()["data"][0]["input"] == {"number": "<private>"}


def test_pages_of_schedules(shop):
    for number in range(7):
        put(shop, f"page-{number}", cron="@daily")
    first = shop.get("/v1/schedules", params={"limit": 3}).json()
    second = shop.get("/v1/schedules", params={"limit": 3, "after": first["next"]}).json()
    third = shop.get("/v1/schedules", params={"limit": 3, "after": second["next"]}).json()
    names = [one["name"] for page in (first, second, third) for one in page["data"]]
    assert names == [f"page-{number}" for number in reversed(range(7))]
    assert third["next"] is None
    assert shop.get("/v1/schedules", params={"limit": 3, "before": second["previous"]}).json()["data"] == first["data"]


def test_two_beats_and_one_that_is_killed_run_each_occurrence_once(offload, shop):
    second = offload.service("beat")
    put(shop, "beats", every_seconds=1, overlap="allow")
    until(lambda: len(tasks(shop, "beats")) >= 3, "occurrences", seconds=20)
    second.kill()
    until(lambda: len(tasks(shop, "beats")) >= 6, "more of them", seconds=20)
    found = [one["task_id"] for one in tasks(shop, "beats")]
    assert len(set(found)) == len(found)
    assert shown(shop, "beats")["runs_total"] >= len(found)
    assert shown(shop, "beats")["missed_total"] == 0
