"""Batches: each item is one task whatever is cut, and what follows comes once."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devstack.waiting import until
from gateway.batches.service import PIECE
from offload_core import keys
from offload_core.batches import OPEN_MS

from .conftest import FAST, PREFIX, WITH_KEYS, Offload

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

HERE = Path(__file__).parent
NDJSON = {"Content-Type": "application/x-ndjson"}


@contextlib.contextmanager
def running(folder: Path, limits: dict[str, str] | None = None) -> Iterator[Offload]:
    """Offload with beat and a worker of `batch_worker`, whose task types its gateway knows."""
    with Offload(folder, FAST | WITH_KEYS) as stack:
        stack.environment["BATCH_FOLDER"] = str(folder)
        stack.gateway(limits)
        stack.service("beat")
        stack.worker_of_batches = stack.own_worker("batch_worker:worker", HERE, {"OFFLOAD_CONCURRENCY": "4"})
        client = stack.client_of("shop")
        until(lambda: len(client.get("/v1/task-types").json()["task_types"]) > 1, "the task types", seconds=20)
        yield stack


@pytest.fixture(scope="module")
def offload(tmp_path_factory):
    with running(tmp_path_factory.mktemp("batches")) as stack:
        yield stack


@pytest.fixture
def shop(offload):
    return offload.client_of("shop")


def item(number: int, **more) -> dict:
    return {"task": "batch.item.v1", "input": {"number": number, **more}}


def follower(name: str, **more) -> dict:
    return {"task": "batch.note.v1", "input": {"name": name, **more}}


def lines(numbers, **more) -> bytes:
    return b"".join(json.dumps({"index": number, **item(number, **more)}).encode() + b"\n" for number in numbers)


def post(client, expected: int, **more) -> str:
    response = client.post("/v1/batches", json={"expected": expected, **more})
    assert response.status_code == 202, response.text
    assert response.json() == {"id": response.json()["id"], "sealed": False, "items": None}
    return response.headers["Location"]


def add(client, url: str, content: bytes) -> dict:
    response = client.post(f"{url}/items", content=content, headers=NDJSON)
    assert response.status_code == 200, response.text
    return response.json()


def ended(client, url: str, seconds: float = 60) -> dict:
    return until(
        lambda: (found := client.get(url).json())["completed_at"] and found, "the batch's end", seconds=seconds
    )


def notes(offload) -> list[list]:
    file = offload.folder / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def noted(offload, name: str) -> list:
    return until(lambda: [one for one in notes(offload) if one[0] == name], f"the note of {name}", seconds=30)


def counts(**given) -> dict:
    return {"succeeded": 0, "failed": 0, "cancelled": 0, "open": 0, "rejected": 0} | given


@pytest.mark.parametrize("size", [3, 80])
def test_a_short_batch_runs_and_what_follows_comes_once(offload, shop, size):
    name = f"short-{size}"
    body = {
        "items": [item(number) for number in range(size)],
        "on_complete": follower(f"{name}-complete", fails_once=True),
        "on_success": follower(f"{name}-success"),
        "on_first_failure": follower(f"{name}-failure"),
    }
    key = {"Idempotency-Key": name}
    first = shop.post("/v1/batches", json=body, headers=key)
    again = shop.post("/v1/batches", json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    answer, url = first.json(), first.headers["Location"]
    assert answer["sealed"] is True
    assert [one["index"] for one in answer["items"]] == list(range(size))
    found = ended(shop, url)
    assert (found["state"], found["counts"]) == ("completed", counts(succeeded=size))
    summary = {"batch_id": answer["id"], "state": "completed", "counts": counts(succeeded=size)}
    for kind in ("complete", "success"):
        [(_, task_id, batch)] = noted(offload, f"{name}-{kind}")
        assert batch == summary
        assert found["follow_ups"][f"on_{kind}"] == task_id
        assert offload.wait(shop, task_id)["state"] == "SUCCESS"
    assert found["follow_ups"]["on_first_failure"] is None
    assert not [one for one in notes(offload) if one[0] == f"{name}-failure"]
    task = shop.get(answer["items"][1]["status_url"]).json()
    assert (task["batch_id"], task["result"], task["kind"]) == (answer["id"], {"number": 1}, "task")
    listed = shop.get("/v1/tasks", params={"batch": answer["id"], "limit": 100}).json()["data"]
    assert {one["batch_id"] for one in listed} == {answer["id"]}
    assert len(listed) == size
    conflict = shop.post("/v1/batches", json={**body, "items": body["items"][1:]}, headers=key)
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency.conflict")


def test_items_that_are_rejected_are_settled_and_the_others_run(offload, shop):
    given = [
        item(0),
        {"task": "no.such.v1", "input": {}},
        item(2, fails=True),
        {"task": "batch.item.v1", "input": {"number": "x"}},
        {**item(4), "priority": 9, "colour": "red"},
        item(5, fails=True),
    ]
    body = {
        "items": given,
        "on_complete": follower("mixed-complete"),
        "on_success": follower("mixed-success"),
        "on_first_failure": follower("mixed-failure"),
    }
    response = shop.post("/v1/batches", json=body)
    rows = response.json()["items"]
    codes = [row["problem"] and row["problem"]["code"] for row in rows]
    assert codes == [None, "task_type.unknown", None, "input.invalid", "request.invalid", None]
    assert [row["task_id"] is None for row in rows] == [False, True, False, True, True, False]
    url = response.headers["Location"]
    found = ended(shop, url)
    assert found["counts"] == counts(succeeded=1, failed=2, rejected=3)
    [(_, _, batch)] = noted(offload, "mixed-failure")
    assert batch["failed_task_id"] in {rows[2]["task_id"], rows[5]["task_id"]}
    assert len(noted(offload, "mixed-complete")) == 1
    assert found["follow_ups"]["on_success"] is None
    failed = shop.get(f"{url}/items", params={"state": "FAILURE"}).json()["data"]
    assert [one["index"] for one in failed] == [2, 5]
    rejected = shop.get(f"{url}/items", params={"state": "REJECTED"}).json()["data"]
    assert [(one["index"], one["problem"]["code"]) for one in rejected] == [
        (1, "task_type.unknown"), (3, "input.invalid"), (4, "request.invalid"),
    ]  # fmt: skip


def test_an_index_is_one_task_however_often_it_is_sent(offload, shop):
    url = post(shop, 60, on_complete=follower("long"))
    assert shop.get(url).json()["state"] == "open"
    first = add(shop, url, lines(range(40)))
    assert first == {
        "accepted": 40, "deduplicated": 0, "rejected": [], "have": 40, "expected": 60, "sealed": False,
    }  # fmt: skip
    mixed = b"\n".join([
        lines(range(30, 45)).strip(), b"", b"no json", b'{"task": "batch.item.v1"}', b'{"index": -1}',
        b'{"index": true}',
        json.dumps({"index": 3, **item(999)}).encode(), json.dumps({"index": 50, "task": "no.such.v1"}).encode(),
        # The order of members changes nothing.
        json.dumps({"input": {"number": 4}, "index": 4, "task": "batch.item.v1"}).encode(),
    ])  # fmt: skip
    second = add(shop, url, mixed)
    assert (second["accepted"], second["deduplicated"], second["have"]) == (5, 11, 46)
    assert sorted((one["index"] or -1, one["problem"]["code"]) for one in second["rejected"]) == [
        (-1, "request.invalid"), (-1, "request.invalid"), (-1, "request.invalid"), (-1, "request.invalid"),
        (3, "item.conflict"), (50, "task_type.unknown"),
    ]  # fmt: skip
    # What was rejected stays so: the same again is told the same, and another one is a conflict.
    third = add(shop, url, json.dumps({"index": 50, "task": "no.such.v1"}).encode() + b"\n" + lines([50]))
    assert [one["problem"]["code"] for one in third["rejected"]] == ["task_type.unknown", "item.conflict"]
    last = add(shop, url, lines(range(45, 50)) + lines(range(51, 60)))
    assert (last["have"], last["sealed"]) == (60, True)
    beyond = shop.post(f"{url}/items", content=lines([60]), headers=NDJSON)
    assert (beyond.status_code, beyond.json()["code"]) == (409, "batch.sealed")
    assert add(shop, url, lines(range(10)))["deduplicated"] == 10, "sealed, and sent again"
    found = ended(shop, url)
    assert found["counts"] == counts(succeeded=59, rejected=1)
    assert len(noted(offload, "long")) == 1


def test_items_are_paged_by_index_both_ways(shop):
    url = post(shop, 70)
    add(shop, url, lines(range(0, 70, 2)))
    seen, page = [], shop.get(f"{url}/items", params={"limit": 10}).json()
    pages = [page]
    assert page["previous"] is None
    while page["next"]:
        page = shop.get(f"{url}/items", params={"limit": 10, "after": page["next"]}).json()
        pages.append(page)
    seen = [one["index"] for page in pages for one in page["data"]]
    assert seen == list(range(0, 70, 2))
    before = shop.get(f"{url}/items", params={"limit": 10, "before": pages[2]["previous"]}).json()
    assert [one["index"] for one in before["data"]] == [one["index"] for one in pages[1]["data"]]
    other = shop.get(f"{url}/items", params={"state": "SUCCESS", "after": pages[0]["next"]})
    assert (other.status_code, other.json()["code"]) == (400, "cursor.mismatch")


def test_a_cut_body_is_sent_again_and_makes_each_task_once(offload, shop):
    total = 400
    url, content = post(shop, total), lines(range(total))
    for cut in range(1, 6):
        part = content[: len(content) * cut // 7]
        taken = part.count(b"\n") // PIECE * PIECE

        def cut_off(part=part, taken=taken):
            yield part
            until(lambda: shop.get(url).json()["have"] >= taken, f"{taken} of its items to be there")
            raise OSError("cut")

        with pytest.raises(OSError, match="cut"):
            offload.client_of("shop").post(f"{url}/items", content=cut_off(), headers=NDJSON)
    whole = add(shop, url, content)
    assert (whole["accepted"], whole["deduplicated"]) == (total - taken, taken)
    assert ended(shop, url)["counts"] == counts(succeeded=total)
    redis = offload.redis.client()
    assert len(redis.keys(f"{PREFIX}task:{url.rpartition('/')[2]}-*")) == total


def test_tasks_of_a_sealed_start_wait_for_the_last_item(offload, shop):
    url = post(shop, 90, start="sealed", on_success=follower("held"))
    add(shop, url, lines(range(60)))
    # Nothing begins: a task that was posted after them is done, and they are not.
    later = shop.post("/v1/tasks", json=item(7)).json()["task_id"]
    assert offload.wait(shop, later)["state"] == "SUCCESS"
    assert shop.get(url).json()["counts"] == counts(open=60)
    add(shop, url, lines(range(60, 90)))
    assert ended(shop, url)["counts"] == counts(succeeded=90)
    assert noted(offload, "held")[0][2]["counts"] == counts(succeeded=90)


def test_a_batch_is_cancelled_and_nothing_comes_to_it_any_more(offload, shop):
    url = post(shop, 200, start="sealed", on_complete=follower("cancelled"), on_success=follower("cancelled-success"))
    add(shop, url, lines(range(120)))
    assert shop.delete(url).status_code == 202
    refused = shop.post(f"{url}/items", content=lines([150]), headers=NDJSON)
    assert (refused.status_code, refused.json()["code"]) == (409, "batch.sealed")
    found = ended(shop, url)
    assert (found["state"], found["counts"]) == ("cancelled", counts(cancelled=120))
    assert noted(offload, "cancelled")[0][2]["state"] == "cancelled"
    assert found["follow_ups"]["on_success"] is None
    again = shop.delete(url)
    assert (again.status_code, again.json()["code"]) == (409, "batch.finished")


def be_a_day_older(offload, url: str) -> None:
    """Have a batch be created a day ago."""
    batch_id = url.rpartition("/")[2]
    assert offload.redis.client().zincrby(f"{PREFIX}batches", -OPEN_MS, batch_id) > 0


@pytest.mark.parametrize(("start", "ends"), [("now", "succeeded"), ("sealed", "cancelled")])
def test_a_batch_that_lacks_items_after_a_day_is_incomplete(offload, shop, start, ends):
    url = post(shop, 20, start=start, on_complete=follower(f"late-{start}"), on_success=follower("late-success"))
    add(shop, url, lines(range(5)))
    be_a_day_older(offload, url)
    found = ended(shop, url)
    assert (found["state"], found["counts"]) == ("incomplete", counts(**{ends: 5}))
    assert noted(offload, f"late-{start}")[0][2]["state"] == "incomplete"
    assert found["follow_ups"]["on_success"] is None


def test_a_short_batch_whose_gateway_died_on_the_way_runs_not_at_all(offload, shop):
    url = post(shop, 50, start="sealed", on_complete=follower("died"))
    batch_id = url.rpartition("/")[2]
    # As a gateway leaves it that dies between two pieces of a short batch.
    offload.redis.client().hset(keys.batch(PREFIX, batch_id), "is_whole", "1")
    add(shop, url, lines(range(25)))
    be_a_day_older(offload, url)
    found = ended(shop, url)
    assert (found["state"], found["counts"]) == ("incomplete", counts(cancelled=25))
    assert found["follow_ups"]["on_complete"] is None


def test_times_of_what_follows_count_from_the_end(offload, shop):
    url = post(
        shop, 1,
        on_complete={**follower("soon"), "delay_seconds": 1.5, "tags": ["later"], "metadata": {"a": 1}},
        on_success={**follower("never"), "delay_seconds": 60, "expires_in_seconds": 5},
    )  # fmt: skip
    add(shop, url, lines([0]))
    found = ended(shop, url)
    soon = shop.get(f"/v1/tasks/{found['follow_ups']['on_complete']}").json()
    assert (soon["tags"], soon["metadata"]) == (["later"], {"a": 1})
    assert soon["due_at"] > found["completed_at"]
    assert offload.wait(shop, soon["task_id"])["steps"][0]["started_at"] >= soon["due_at"]
    never = shop.get(f"/v1/tasks/{found['follow_ups']['on_success']}").json()
    assert never["expires_at"] > never["due_at"] > found["completed_at"]


def test_a_batch_belongs_to_its_key(offload, shop):
    url, other, root = post(shop, 2), offload.client_of("other"), offload.client_of("root")
    for path in (url, f"{url}/items", f"{url}/events"):
        assert other.get(path).json()["code"] == "batch.not_found"
    assert other.delete(url).json()["code"] == "batch.not_found"
    for client in (other, root):
        refused = client.post(f"{url}/items", content=lines([0]), headers=NDJSON)
        assert (refused.status_code, refused.json()["code"]) == (404, "batch.not_found")
    assert root.get(url).json()["tenant"] == "shop"
    assert root.delete(url).status_code == 202


def test_what_is_wrong_about_a_batch_is_said(shop):
    for body, field in [
        ({"items": []}, "items"), ({"items": [item(1)] * 1001}, "items"), ({"expected": 0}, "expected"),
        ({"expected": 1_000_001}, "expected"), ({"expected": 1, "start": "later"}, "start"), ({}, "expected"),
        ({"expected": 1, "on_complete": {"task": "no.such.v1"}}, "/on_complete/task"),
        ({"expected": 1, "on_success": {"task": "batch.note.v1", "input": {}}}, "/on_success/input"),
    ]:  # fmt: skip
        response = shop.post("/v1/batches", json=body)
        assert response.status_code == 422, body
        assert field in {one["field"] for one in response.json()["errors"]}, response.json()
    url = post(shop, 1)
    wrong = shop.post(f"{url}/items", json={})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "request.media_type")
    long = shop.post(f"{url}/items", content=b'{"index": 0, "task": "' + b"x" * 1_100_000, headers=NDJSON)
    assert (long.status_code, long.json()["code"]) == (413, "body.too_large")


def test_its_events_are_the_ends_of_its_tasks_and_its_own(offload, shop):
    url = post(shop, 3)
    seen: list[tuple[str, dict]] = []

    def follow() -> None:
        with offload.client_of("shop").stream("GET", f"{url}/events", timeout=60) as response:
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                kind = value if name == "event" else kind
                if name == "data":
                    seen.append((kind, json.loads(value)))

    thread = threading.Thread(target=follow)
    thread.start()
    add(shop, url, lines([0, 2]) + lines([1], fails=True))
    found = ended(shop, url)
    thread.join(30)
    kinds = [kind for kind, _ in seen]
    assert sorted(kinds[:3]) == ["task.failed", "task.succeeded", "task.succeeded"]
    assert kinds[3:] == ["batch.completed", "end"]
    assert seen[3][1]["data"] == {"batch_id": found["id"], "state": "completed", "counts": found["counts"]}
    assert seen[4][1]["counts"] == found["counts"]
    raw = offload.redis.client().xrevrange(keys.events(PREFIX, found["id"]), count=1)[0][0].decode()
    assert shop.get(f"{url}/events", headers={"Last-Event-ID": raw}).status_code == 204


def test_a_dead_letter_that_is_redriven_moves_the_counts_and_nothing_follows_twice(offload, shop, tmp_path):
    file = tmp_path / "free"
    url = post(shop, 1, on_complete=follower("redriven"), on_success=follower("redriven-success"))
    add(shop, url, lines([0], blocked=str(file)))
    found = ended(shop, url)
    assert found["counts"] == counts(failed=1)
    root = offload.client_of("root")
    [letter] = until(
        lambda: [one for one in root.get("/v1/dead-letters").json()["dead_letters"] if found["id"] in one["task_id"]],
        "the dead letter",
    )
    file.touch()
    assert root.post(f"/v1/dead-letters/{letter['id']}/redrive").status_code == 200
    until(lambda: shop.get(url).json()["counts"] == counts(succeeded=1), "it to succeed", seconds=30)
    assert [one["state"] for one in shop.get(f"{url}/items").json()["data"]] == ["SUCCESS"]
    now = shop.get(url).json()
    assert (now["completed_at"], now["follow_ups"]) == (found["completed_at"], found["follow_ups"])
    assert now["follow_ups"]["on_success"] is None
    assert len(noted(offload, "redriven")) == 1


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A gateway with narrow limits and no worker: what is accepted waits."""
    limits = {"OFFLOAD_QUEUE_LIMIT": "30", "OFFLOAD_RATE_LIMIT_PER_SECOND": "20", "OFFLOAD_RATE_LIMIT_BURST": "100"}
    with running(tmp_path_factory.mktemp("idle"), limits) as stack:
        assert stack.worker_of_batches.stop() == 0
        yield stack


def test_a_full_queue_and_a_rate_refuse_for_now_and_what_was_taken_stays(idle, shop):
    client = idle.client_of("shop")
    url = post(client, 60)
    full = client.post(f"{url}/items", content=lines(range(60)), headers=NDJSON)
    assert (full.status_code, full.json()["code"], "Retry-After" in full.headers) == (429, "queue.full", True)
    had = client.get(url).json()["have"]
    assert 30 <= had < 60
    redis = idle.redis.client()
    assert redis.hlen(f"{PREFIX}queue:batch:live") == had
    # A short one is taken, or nothing of it.
    short = client.post("/v1/batches", json={"items": [item(number) for number in range(40)]})
    assert (short.status_code, short.json()["code"]) == (429, "queue.full")
    assert redis.hlen(f"{PREFIX}queue:batch:live") == had
    # Nor of one whose first items wait in another queue.
    mixed = client.post("/v1/batches", json={"items": [follower("mixed"), item(1)]})
    assert (mixed.status_code, mixed.json()["code"]) == (429, "queue.full")
    assert redis.hlen(f"{PREFIX}queue:batch-notes:live") == 0
    redis.flushall()

    def refused() -> httpx.Response | None:
        url = post(client, 200, start="sealed")
        response = client.post(f"{url}/items", content=lines(range(200)), headers=NDJSON)
        return response if response.json().get("code") == "rate.limited" else None

    limited = until(refused, "the rate")
    assert limited.status_code == 429
    assert int(limited.headers["Retry-After"]) >= 1
    assert limited.headers["RateLimit-Policy"].startswith('"tasks"')
