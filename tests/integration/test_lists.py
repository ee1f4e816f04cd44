"""Lists of tasks: by creation, whole and without repetition while tasks change, with filters and signed cursors."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from devstack.waiting import until
from housekeeper.clean_up import clean_up
from housekeeper.settings import HousekeeperSettings
from offload_core import keys
from offload_core.blobs import BlobStore
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.records import STATES
from offload_core.task_store import Found, Place, TaskStore, Wanted

from .conftest import PREFIX

STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=60_000)
ERROR = {"code": "it.failed", "message": "on purpose"}
FIELDS = ("kind", "created_at", "owner")


@pytest.fixture
def redis(offload):
    return offload.redis.client()


def fill(redis, rng: random.Random, count: int) -> list[dict]:
    """Accept tasks, many within one millisecond, and bring them into all states; returns what a model knows of them."""
    known: dict[str, dict] = {}
    with redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            task_id = f"{rng.getrandbits(64):016x}"
            owner, queue = rng.choice(["shop", "bank"]), rng.choice(["left", "right"])
            task, tags = rng.choice(["a.b.v1", "a.c.v1"]), tuple(rng.sample(["x", "y", "z"], rng.randint(0, 3)))
            steps = [NewStep(task, queue, {"n": number})]
            known[task_id] = {"owner": owner, "queue": queue, "task": task, "tags": set(tags), "state": "PENDING"}
            made = Publisher("test").task(task_id, "task", owner, steps, tags=tags)
            pipe.execute_command(*STORE.accept(made).command())
        # The first one teaches Redis the script.
        STORE.accept(Publisher("test").task("0", "task", "other", [NewStep("o.o.v1", "o", {})])).run(redis)
        assert all(answer[0] == b"accepted" for answer in pipe.execute())
    for task_id, one in known.items():
        one["state"] = rng.choice(STATES)
        move(redis, task_id, one["state"])
        one["id"] = task_id
        one["created_at"] = int(redis.hget(keys.record(PREFIX, task_id), "created_at"))
    return sorted(known.values(), key=lambda one: (one["created_at"], one["id"]), reverse=True)


def move(redis, task_id: str, state: str) -> None:
    step, run = keys.step_of(task_id), (0, 1)
    if state == "REVOKED":
        assert STORE.cancel(task_id).run(redis) == b"revoked"
    elif state != "PENDING":
        assert STORE.start(step, run, "w", {}).run(redis).startswith(b"run:")
        if state == "RETRY":
            STORE.retry(step, run, ERROR, 1).run(redis)
        elif state != "STARTED":
            STORE.finish(step, run, state, {} if state == "SUCCESS" else ERROR).run(redis)


def walk(
    redis, wanted: Wanted, limit: int, *, newer: bool = False, place: Place | None = None, between=None
) -> list[str]:
    """Return the ids of all pages, one after the other."""
    found: list[str] = []
    while True:
        call = STORE.find(wanted, FIELDS, limit=limit, examine=20, place=place, newer=newer)
        page = Found.of(call.run(redis))
        assert len(page.rows) <= limit
        assert page.examined <= 20
        found += [task_id for task_id, _ in page.rows]
        if page.is_end:
            return found
        place = page.place
        if between is not None:
            between()


def test_every_filter_finds_what_a_model_finds_page_by_page_and_both_ways(redis):
    rng = random.Random(14)
    known = fill(redis, rng, 400)
    assert sum(a["created_at"] == b["created_at"] for a, b in pairwise(known)) > 50, "too few in one millisecond"
    for _ in range(60):
        owner = rng.choice(["", "shop", "bank", "nobody"])
        states = tuple(rng.sample(STATES, rng.randint(1, 6)))
        bounds = sorted(rng.choice(known)["created_at"] for _ in range(2))
        after, before = rng.choice([(0, 0), (bounds[0], 0), (0, bounds[1]), (bounds[0], bounds[1])])
        task, queue = rng.choice(["", "a.b.v1"]), rng.choice(["", "left"])
        tags = rng.choice([(), (("x",),), (("x", "y"), ("z",))])
        wanted = Wanted(owner, states, after, before, task, queue, tags=tags)
        expected = [
            one["id"]
            for one in known
            if owner in {"", one["owner"]}
            and one["state"] in states
            and one["created_at"] > after
            and (not before or one["created_at"] < before)
            and task in {"", one["task"]}
            and queue in {"", one["queue"]}
            and all(one["tags"] & set(any_of) for any_of in tags)
        ]
        limit = rng.randint(1, 30)
        found = [one for one in walk(redis, wanted, limit) if one != "0"]
        assert found == expected, wanted
        if expected:
            middle = rng.choice(expected)
            place = Place(next(one["created_at"] for one in known if one["id"] == middle), middle)
            position = expected.index(middle)
            older = walk(redis, wanted, limit, place=place)
            newer = walk(redis, wanted, limit, newer=True, place=place)
            assert [one for one in older if one != "0"] == expected[position + 1 :]
            assert [one for one in newer if one != "0"] == expected[:position][::-1]


def test_codes_and_traces(redis):
    known = fill(redis, random.Random(3), 60)
    failed = [one["id"] for one in known if one["state"] in {"FAILURE", "RETRY"}]
    assert walk(redis, Wanted("", error_code="it.failed"), 7) == failed
    cancelled = [one["id"] for one in known if one["state"] == "REVOKED"]
    assert walk(redis, Wanted("", error_code="task.cancelled"), 7) == cancelled
    assert walk(redis, Wanted("", trace_id="0" * 32), 7) == []


def test_nothing_is_missed_or_repeated_while_tasks_move_and_arrive(redis):
    rng = random.Random(5)
    known = fill(redis, rng, 200)
    waiting = [one["id"] for one in known if one["state"] == "PENDING"]

    def between() -> None:
        if waiting:
            move(redis, waiting.pop(rng.randrange(len(waiting))), rng.choice(["STARTED", "REVOKED", "SUCCESS"]))
        new = Publisher("test").task(f"{rng.getrandbits(64):016x}", "task", "shop", [NewStep("a.b.v1", "left", {})])
        STORE.accept(new).run(redis)

    assert [one for one in walk(redis, Wanted(""), 7, between=between) if one != "0"] == [one["id"] for one in known]


def test_an_expired_task_leaves_the_lists_and_a_redriven_one_does_not(redis):
    short = TaskStore(PREFIX, STORE.broker_prefix, keep_ms=1)
    short.accept(Publisher("test").task("t", "task", "shop", [NewStep("a.b.v1", "left", {})])).run(redis)
    assert short.cancel("t").run(redis) == b"revoked"
    until(lambda: not redis.exists(keys.record(PREFIX, "t")), "the record to expire")
    assert walk(redis, Wanted("shop"), 5) == [], "its record is gone"
    assert redis.zcard(keys.tasks(PREFIX, "shop", "REVOKED")) == 1
    assert short.forget().run(redis) == 1
    assert not redis.keys(f"{PREFIX}tasks:*")
    assert not redis.exists(keys.forgetting(PREFIX))


def test_what_a_worker_of_an_older_release_leaves_behind_is_put_right(redis, offload):
    """It moves no task between the lists: one that it has ended is found nowhere until the nightly clean-up."""
    for task_id in ("ended", "gone", "waits"):
        STORE.accept(Publisher("test").task(task_id, "task", "shop", [NewStep("a.b.v1", "left", {})])).run(redis)
    redis.hset(keys.record(PREFIX, "ended"), "state", "SUCCESS")
    redis.delete(keys.record(PREFIX, "gone"))
    assert walk(redis, Wanted("shop"), 5) == ["waits"]
    settings = HousekeeperSettings(redis_url=offload.redis.url, blob_url=(offload.folder / "blobs").as_uri())
    clean_up(settings, redis, BlobStore(settings), thorough=True, now=datetime.now(UTC))
    assert walk(redis, Wanted("shop"), 5) == ["waits", "ended"]
    assert walk(redis, Wanted("", ("SUCCESS",)), 5) == ["ended"]
    assert redis.zcard(keys.tasks(PREFIX, "", "PENDING")) == redis.zcard(keys.tasks(PREFIX, "shop", "PENDING")) == 1


def test_pages_of_the_api(offload):
    offload.gateway()
    with offload.client() as client:
        posted = [
            client.post("/v1/reports", json={"rows": 1, "tags": [f"n:{number % 3}"]}).json()["task_id"]
            for number in range(10)
        ][::-1]
        first = client.get("/v1/tasks", params={"limit": 4})
        page = first.json()
        assert [one["task_id"] for one in page["data"]] == posted[:4]
        assert page["previous"] is None
        assert first.headers["Link"].endswith('rel="next"')
        second = client.get(first.links["next"]["url"]).json()
        assert [one["task_id"] for one in second["data"]] == posted[4:8]
        third = client.get("/v1/tasks", params={"limit": 4, "after": second["next"]}).json()
        assert [one["task_id"] for one in third["data"]] == posted[8:]
        assert third["next"] is None
        back = client.get("/v1/tasks", params={"limit": 4, "before": third["previous"]}).json()
        assert [one["task_id"] for one in back["data"]] == posted[4:8]
        # What has come since the first page.
        newest = client.post("/v1/reports", json={"rows": 1}).json()["task_id"]
        newer = client.get("/v1/tasks", params={"before": back["previous"], "limit": 100}).json()
        assert [one["task_id"] for one in newer["data"]] == [newest, *posted[:4]]
        assert newer["previous"] is None
        tagged = client.get(
            "/v1/tasks", params={"tag": "n:1,n:2", "state": "PENDING,PENDING", "queue": "reports"}
        ).json()
        assert [one["task_id"] for one in tagged["data"]] == [
            one for one, number in zip(posted, range(9, -1, -1), strict=True) if number % 3
        ]
        summary = tagged["data"][0]
        assert (summary["task"], summary["step_count"], summary["state"]) == ("report.render.v1", 1, "PENDING")
        assert summary["tags"] == ["n:2"]
        late = client.get("/v1/tasks", params={"created_after": "2999-01-01T00:00:00Z"}).json()
        assert late == {"data": [], "next": None, "previous": None}


def test_wrong_queries_of_the_api_are_refused(offload):
    offload.gateway()
    with offload.client() as client:
        for number in range(2):
            client.post("/v1/reports", json={"rows": number + 1})
        cursor = client.get("/v1/tasks", params={"limit": 1}).json()["next"]
        for params, status, code in [
            ({"after": cursor, "state": "FAILURE"}, 400, "cursor.mismatch"),
            ({"after": cursor[:-4] + "AAAA"}, 400, "cursor.invalid"),
            ({"after": "?"}, 400, "cursor.invalid"),
            ({"after": cursor, "before": cursor}, 422, "request.invalid"),
            ({"limit": 0}, 422, "request.invalid"),
            ({"limit": 101}, 422, "request.invalid"),
            ({"state": "DONE"}, 422, "request.invalid"),
            ({"stat": "PENDING"}, 422, "request.invalid"),
            ({"created_after": "yesterday"}, 422, "request.invalid"),
            ({"trace_id": "x"}, 422, "request.invalid"),
        ]:
            answer = client.get("/v1/tasks", params=params)
            assert (answer.status_code, answer.json()["code"]) == (status, code), (params, answer.text)
