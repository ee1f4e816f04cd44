"""The API over the whole of Offload, as its users see it."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib

import httpx
import pytest
from PIL import Image

from devstack.waiting import until
from gateway import auth
from offload_core import keys, links

from .conftest import JPEG, PREFIX, photo

KEYS = {name: auth.new_key(name, scopes) for name, scopes in {
    "shop": ["tasks"], "other": ["tasks"], "root": ["operator", "tasks"],
}.items()}  # fmt: skip
SECRET = "a secret of thirty-two characters!!"


@pytest.fixture(scope="module")
def offload(whole):
    return whole(
        {
            "OFFLOAD_DEVELOPMENT_MODE": "false",
            "OFFLOAD_API_KEYS": " ".join(line for _, line in KEYS.values()),
            "OFFLOAD_LINK_SECRET": SECRET,
        }
    )


def client_of(offload, name: str) -> httpx.Client:
    return offload.client(headers={"Authorization": f"Bearer {KEYS[name][0]}"})


@pytest.fixture(scope="module")
def shop(offload):
    return client_of(offload, "shop")


@pytest.fixture(scope="module")
def root(offload):
    return client_of(offload, "root")


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:offload:problem:{body['code']}"
    assert body["title"]
    assert body["detail"]
    return response.status_code, body["code"]


# -- what it is for


@pytest.mark.parametrize("way", ["raw", "form"])
def test_a_photo_is_resized_and_its_user_told(offload, shop, way):
    address = f"{way}@example.com"
    options = {"width": 80, "height": 80, "thumbnail": 20, "notify": address, "user_id": "7", "format": "webp"}
    if way == "raw":
        response = shop.post("/v1/images", params=options, content=photo(), headers=JPEG)
    else:
        form = {name: str(value) for name, value in options.items()}
        response = shop.post("/v1/images", files={"file": ("a.jpg", photo())}, data=form)
    assert response.status_code == 202
    assert response.json() == {
        "task_id": response.json()["task_id"],
        "status_url": f"/v1/tasks/{response.json()['task_id']}",
    }
    assert response.headers["Location"] == response.json()["status_url"]
    task = offload.wait(shop, response.json()["task_id"])
    assert (task["state"], task["message"], task["user_id"]) == ("SUCCESS", "Done: all 3 steps.", "7")
    sizes = {}
    for output in task["links"]["outputs"]:
        file = shop.get(output["href"])
        assert file.headers["Content-Type"] == "image/webp" == output["media_type"]
        assert file.headers["X-Content-Type-Options"] == "nosniff"
        assert len(file.content) == output["size_bytes"]
        sizes[output["step"]] = Image.open(io.BytesIO(file.content)).size
    assert sizes == {"resize": (80, 60), "thumbnail": (20, 15)}
    mail = until(lambda: offload.smtp.to(address), "the mail")[0].parsed
    text = mail.get_body(("plain",)).get_content()
    found = [word for word in text.split() if word.startswith("http")]
    assert len(found) == 2
    for url in found:
        assert httpx.get(url).status_code == 200, "a mail's link opens without a key"


def test_a_thumbnail_is_made_of_the_upload_itself(offload, shop):
    """Neither the size nor the cut of the result is the thumbnail's, and no limit of the result's is."""
    for query, size in (
        ({"width": 40, "thumbnail": 400}, (400, 200)),
        ({"width": 40, "height": 40, "fit": "cover", "thumbnail": 100}, (100, 50)),
        ({"width": 10, "height": 300, "fit": "fill", "thumbnail": 100, "format": "webp"}, (100, 50)),
        ({"thumbnail": 1024}, (800, 400)),
    ):
        posted = shop.post("/v1/images", params=query, content=photo(800, 400), headers=JPEG)
        task = offload.wait(shop, posted.json()["task_id"])
        assert task["state"] == "SUCCESS", task
        made = next(one for one in task["result"]["outputs"] if one["step"] == "thumbnail")
        assert (made["width"], made["height"]) == size
        assert made["media_type"] == f"image/{query.get('format', 'jpeg')}"


def test_steps_are_made_only_when_they_are_asked_for(offload, shop):
    def steps(**options) -> list[str]:
        response = shop.post("/v1/images", params=options, content=photo(), headers=JPEG)
        return [step["name"] for step in offload.wait(shop, response.json()["task_id"])["steps"]]

    assert steps() == ["image.resize.v1"]
    assert steps(thumbnail=20) == ["image.resize.v1", "image.thumbnail.v1"]
    assert steps(notify="x@example.com") == ["image.resize.v1", "mail.notify.v1"]


def test_a_mail_is_sent_from_a_template_or_a_text(offload, shop):
    posts = [
        {"to": "one@example.com", "template": "welcome", "context": {"name": "Ann"}},
        {"to": ["two@example.com", "three@example.com"], "subject": "Größe", "text": "Text."},
    ]
    for post in posts:
        response = shop.post("/v1/emails", json=post)
        task = offload.wait(shop, response.json()["task_id"])
        assert task["state"] == "SUCCESS"
        assert task["result"]["message_id"] == f"<{task['task_id']}@example.com>"
    assert offload.subjects("one@example.com") == ["Welcome, Ann"]
    assert offload.subjects("two@example.com") == offload.subjects("three@example.com") == ["Größe"]


def test_a_report_tells_of_its_progress(offload, shop):
    task_id = shop.post("/v1/reports", json={"rows": 20_000, "title": "Sales"}).json()["task_id"]
    seen = until(
        lambda: (task := offload.task(shop, task_id))["steps"][0]["progress"] and task, "progress", pause_seconds=0.01
    )
    assert seen["steps"][0]["progress"]["total"] == 20_000
    assert seen["state"] == "SUCCESS" or "of 20,000" in seen["message"]
    task = offload.wait(shop, task_id)
    (output,) = task["links"]["outputs"]
    file = shop.get(output["href"])
    assert file.content.startswith(b"%PDF-")
    assert file.headers["Content-Type"] == "application/pdf"
    again = shop.post("/v1/reports", json={"rows": 20_000, "title": "Sales"}).json()["task_id"]
    (same,) = offload.wait(shop, again)["links"]["outputs"]
    assert same["name"] == output["name"], "byte-stable"


def test_a_delay_is_kept_in_redis(offload, shop):
    started = time.time()
    task_id = shop.post("/v1/reports", json={"rows": 1, "delay_seconds": 1.5}).json()["task_id"]
    task = offload.task(shop, task_id)
    assert (task["state"], task["message"][:13]) == ("PENDING", "Delayed until")
    assert task["due_at"]
    assert offload.wait(shop, task_id)["state"] == "SUCCESS"
    assert time.time() - started >= 1.5


# -- idempotency


def test_the_same_key_and_request_give_the_same_task(offload, shop):
    headers = {"Idempotency-Key": "photo-1"}
    form = {"data": {"width": "50"}, "files": {"file": ("a.jpg", photo())}, "headers": headers}
    first = shop.post("/v1/images", **form)
    assert "Idempotent-Replayed" not in first.headers
    # httpx makes another boundary each time: the file counts, not the bytes around it.
    second = shop.post("/v1/images", **form)
    raw = shop.post("/v1/images", params={"width": "50"}, content=photo(), headers=JPEG | headers)
    for response in (second, raw):
        assert (response.status_code, response.json()) == (202, first.json())
        assert response.headers["Idempotent-Replayed"] == "true"
    uploads = [file.parent.name for file in (offload.blobs / "uploads").rglob("original")]
    assert first.json()["task_id"] in uploads
    known = {key.decode().removeprefix("offload:task:") for key in offload.redis.client().keys("offload:task:*")}
    assert set(uploads) <= known, "a replay's upload is deleted"


def test_the_same_key_with_another_request_is_refused(offload, shop):
    headers = {"Idempotency-Key": "report-1"}
    assert shop.post("/v1/reports", json={"rows": 1}, headers=headers).status_code == 202
    assert problem(shop.post("/v1/reports", json={"rows": 2}, headers=headers)) == (422, "idempotency.conflict")
    assert problem(shop.post("/v1/emails", json=MAIL, headers=headers)) == (422, "idempotency.conflict")
    other = client_of(offload, "other").post("/v1/reports", json={"rows": 2}, headers=headers)
    assert other.status_code == 202, "its scope is the API key"
    photo_headers = JPEG | {"Idempotency-Key": "photo-2"}
    assert shop.post("/v1/images", content=photo(), headers=photo_headers).status_code == 202
    changed = shop.post("/v1/images", content=photo(colour="red"), headers=photo_headers)
    assert problem(changed) == (422, "idempotency.conflict")
    assert problem(shop.post("/v1/reports", json={"rows": 1}, headers={"Idempotency-Key": ""})) == (
        400,
        "idempotency.invalid",
    )


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
MAIL = {"to": "ann@example.com", "subject": "Hello", "text": "Hello."}


# -- cancelling


def test_what_waits_is_cancelled_at_once(offload, shop):
    task_id = shop.post("/v1/emails", json=MAIL | {"to": "cancelled@example.com", "delay_seconds": 60}).json()[
        "task_id"
    ]
    response = shop.delete(f"/v1/tasks/{task_id}")
    assert (response.status_code, response.json()["state"], response.json()["message"]) == (
        200,
        "REVOKED",
        "Cancelled.",
    )
    assert problem(shop.delete(f"/v1/tasks/{task_id}")) == (409, "task.finished")
    assert offload.redis.client().zcard("offload:queue:mail:delayed") == 0


def test_what_runs_is_cancelled_at_the_end_of_its_step(offload, shop):
    query = {"width": 2000, "height": 2000, "fit": "cover", "thumbnail": 20, "notify": "revoked@example.com"}
    task_id = shop.post("/v1/images", params=query | {"format": "png"}, content=photo(4000, 4000), headers=JPEG).json()[
        "task_id"
    ]
    until(lambda: offload.task(shop, task_id)["state"] == "STARTED", "the resize to start", pause_seconds=0.005)
    response = shop.delete(f"/v1/tasks/{task_id}")
    if response.status_code == 202:
        assert "Will be cancelled at the end of step" in response.json()["message"]
    task = offload.wait(shop, task_id)
    assert task["state"] == "REVOKED"
    assert task["steps"][-1]["error"]["code"] == "task.cancelled"
    until(offload.is_quiet, "every message to be settled")
    assert offload.smtp.to("revoked@example.com") == [], "no mail is sent of what was cancelled"


def test_what_has_ended_cannot_be_cancelled(offload, shop):
    task_id = shop.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    offload.wait(shop, task_id)
    assert problem(shop.delete(f"/v1/tasks/{task_id}")) == (409, "task.finished")


# -- bad input


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 4) + b"IDAT0000" + struct.pack(">I", 0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"This is no image.", "image.not_an_image"),
        (photo(800, 800)[:2000], "image.truncated"),
        (png_header(50_000, 50_000), "image.too_large"),
    ],
    ids=["no image", "truncated", "50,000 x 50,000"],
)
def test_a_bad_image_fails_with_its_code_and_its_user_is_told(offload, shop, data, code):
    address = f"{code.replace('_', '-')}@example.com"
    query = {"width": 10, "thumbnail": 16, "notify": address}
    task_id = shop.post("/v1/images", params=query, content=data, headers=JPEG).json()["task_id"]
    task = offload.wait(shop, task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", code)
    assert "traceback" not in task["error"]
    mail = until(lambda: offload.smtp.to(address), "the mail about it")[0]
    assert str(mail.parsed["Subject"]) == "Your task could not be done"
    assert code in mail.parsed.get_body(("plain",)).get_content()
    notification = offload.wait(client_of(offload, "root"), f"{task_id}-failure")
    assert (notification["state"], notification["parent_task_id"]) == ("SUCCESS", task_id)
    assert notification["trace_id"] == task["trace_id"]


def test_one_byte_too_many_is_refused(shop):
    limit = 20_000_000
    assert problem(shop.post("/v1/images", content=b"x" * (limit + 1), headers=JPEG)) == (413, "upload.too_large")

    def chunks():
        for _ in range(limit // 100_000):
            yield b"x" * 100_000
        yield b"x"

    assert problem(shop.post("/v1/images", content=chunks(), headers=JPEG)) == (413, "upload.too_large")
    form = shop.post("/v1/images", files={"file": ("a.jpg", b"x" * (limit + 1))})
    assert problem(form) == (413, "upload.too_large")
    body = {"to": "a@example.com", "subject": "x", "text": "x" * 1_000_001}
    assert problem(shop.post("/v1/emails", json=body)) == (413, "body.too_large")


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        ("/v1/images", {"content": b"x", "headers": {"Content-Type": "application/pdf"}}, (415, "request.media_type")),
        ("/v1/images", {"content": b"", "headers": JPEG}, (422, "upload.empty")),
        ("/v1/images", {"data": {"width": "10"}, "files": {"other": b"x"}}, (422, "upload.empty")),
        ("/v1/images", {"content": b"no form", "headers": FORM}, (400, "request.malformed")),
        ("/v1/images?widht=10", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images?width=0", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images?width=ten", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images?format=tiff", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images?notify=ann%0ABcc%3Ax@example.com", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images?user_id=a%0Ab", {"content": b"x", "headers": JPEG}, (422, "request.invalid")),
        ("/v1/images", {"data": {"colour": "red"}, "files": {"file": b"x"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": MAIL | {"cc": "x"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": MAIL | {"subject": "a\r\nBcc: x@example.com"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": MAIL | {"to": "a@example.com\r\nBcc: x@example.com"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": MAIL | {"to": []}}, (422, "request.invalid")),
        ("/v1/emails", {"json": {"to": "a@example.com", "template": "unknown"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": {"to": "a@example.com"}}, (422, "request.invalid")),
        ("/v1/emails", {"json": MAIL | {"template": "welcome"}}, (422, "request.invalid")),
        ("/v1/emails", {"content": b"{", "headers": {"Content-Type": "application/json"}}, (422, "request.invalid")),
        ("/v1/emails", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, (415, "request.media_type")),
        ("/v1/reports", {"json": {"rows": 0}}, (422, "request.invalid")),
        ("/v1/reports", {"json": {"rows": 1, "delay_seconds": 2_592_001}}, (422, "request.invalid")),
        ("/v1/reports", {"json": {"rows": 1, "title": "a\nb"}}, (422, "request.invalid")),
        ("/v1/nothing", {"json": {}}, (404, "route.not_found")),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_its_code(shop, offload, path, request_, expected):
    assert problem(shop.post(path, **request_)) == expected


WELCOME = {"to": "ann@example.com", "template": "welcome"}
RECEIPT = {"name": "Ann", "number": "7", "items": [{"title": "A", "price": 1}], "total": 1}


@pytest.mark.parametrize(
    ("template", "context"),
    [
        ("welcome", {}),
        ("welcome", {"name": None}),
        ("welcome", {"name": ""}),
        ("welcome", {"name": "Ann\r\nBcc: eve@example.com"}),
        ("welcome", {"name": "Ann", "url": "javascript:alert(1)"}),
        ("welcome", {"name": "Ann", "url": "data:text/html,x"}),
        ("welcome", {"name": "Ann", "url": 'https://example.com/"onclick='}),
        ("receipt", {key: value for key, value in RECEIPT.items() if key != "total"}),
        ("receipt", RECEIPT | {"items": [{"title": "A"}]}),
        ("receipt", RECEIPT | {"items": None}),
        ("daily_report", {"day": "2026-01-01"}),
    ],
)
def test_a_context_that_its_template_cannot_show_is_refused_at_once(shop, template, context):
    post = {"to": "ann@example.com", "template": template, "context": context}
    refused = shop.post("/v1/emails", json=post)
    assert problem(refused) == (422, "request.invalid")
    assert all(one["field"].startswith("context") for one in refused.json()["errors"])


def test_a_number_that_json_does_not_have_is_refused(shop):
    body = '{"to": "ann@example.com", "template": "welcome", "context": {"name": "Ann", "x": NaN}}'
    answer = shop.post("/v1/emails", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "request.invalid")


# -- who may what


def test_without_a_known_key_nothing_is_served(offload):
    anonymous = offload.client()
    assert problem(anonymous.post("/v1/reports", json={"rows": 1})) == (401, "auth.missing")
    assert anonymous.get("/v1/tasks/x").headers["WWW-Authenticate"] == "Bearer"
    wrong = {"Authorization": "Bearer offload_wrong"}
    assert problem(anonymous.get("/v1/tasks/x", headers=wrong)) == (401, "auth.refused")
    assert problem(anonymous.get("/v1/tasks/x/outputs/y")) == (401, "auth.missing")


def test_another_keys_task_is_not_there(offload, shop, root):
    task_id = shop.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    (output,) = offload.wait(shop, task_id)["links"]["outputs"]
    other = client_of(offload, "other")
    for response in (
        other.get(f"/v1/tasks/{task_id}"),
        other.delete(f"/v1/tasks/{task_id}"),
        other.get(output["href"]),
        shop.get("/v1/tasks/unknown"),
        shop.delete("/v1/tasks/unknown"),
    ):
        assert problem(response) == (404, "task.not_found")
    assert root.get(output["href"]).status_code == 200


def test_tracebacks_are_for_operators(offload, shop, root):
    post = {"to": "ann@example.com", "subject": "x", "text": "x"}
    task_id = shop.post("/v1/emails", json=post).json()["task_id"]
    offload.wait(shop, task_id)
    # A message that is not what its contract asks for: put there as a broken producer would.
    redis = offload.redis.client()
    broken = shop.post("/v1/reports", json={"rows": 1, "delay_seconds": 3600}).json()["task_id"]
    raw = redis.hget("offload:queue:reports:delayed-messages", f"{broken}:0:0").decode()
    message = json.loads(raw)
    body = json.loads(base64.b64decode(message["body"]))
    body[0] = [{"rows": "many"}]
    message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    redis.hset("offload:queue:reports:delayed-messages", f"{broken}:0:0", json.dumps(message))
    redis.zadd("offload:queue:reports:delayed", {f"{broken}:0:0": 1})
    assert offload.wait(shop, broken)["error"]["code"] == "contract.invalid"
    assert "traceback" not in offload.task(shop, broken)["error"]
    assert "traceback" in offload.task(root, broken)["error"]


def test_links_are_for_one_output_and_for_a_time(offload, shop):
    task_id = shop.post("/v1/reports", json={"rows": 1}).json()["task_id"]
    (output,) = offload.wait(shop, task_id)["links"]["outputs"]
    anonymous = offload.client()

    def get(token: str, name: str = output["name"]) -> httpx.Response:
        return anonymous.get(f"/v1/tasks/{task_id}/outputs/{name}", params={"token": token})

    later, before = round(time.time()) + 60, round(time.time()) - 60
    assert get(links.sign(SECRET, task_id, output["name"], later)).status_code == 200
    assert problem(get(links.sign(SECRET, task_id, output["name"], before))) == (410, "output.expired")
    assert problem(get(links.sign("x" * 32, task_id, output["name"], later))) == (403, "link.invalid")
    gone = output["name"].replace(output["name"][10], "0" if output["name"][10] != "0" else "1", 1)
    assert problem(get(links.sign(SECRET, task_id, gone, later), gone)) == (410, "output.expired")
    assert problem(shop.get(f"/v1/tasks/{task_id}/outputs/{gone}")) == (404, "output.not_found")
    assert problem(shop.get(f"/v1/tasks/{task_id}/outputs/..%2f..%2fsecret")) == (404, "route.not_found")
    assert problem(shop.get(f"/v1/tasks/{task_id}/outputs/original")) == (404, "output.not_found")


# -- operations


def test_an_idempotency_key_lives_for_a_day_from_when_the_task_may_start_or_as_asked_for(offload, shop):
    redis = offload.redis.client()

    def life(name: str, *, ttl: str | None = None, delay: int = 0) -> tuple[int, int]:
        """How many hours the key lives while the task waits, and once it was cancelled; -1: without an end."""
        headers = {"Idempotency-Key": name} | ({"Idempotency-TTL": ttl} if ttl else {})
        posted = shop.post("/v1/reports", json={"rows": 1, "delay_seconds": delay}, headers=headers)
        key = keys.idempotency(PREFIX, "shop", name)
        before = redis.ttl(key)
        assert shop.delete(posted.headers["Location"]).status_code == 200
        return tuple(round(seconds / 3600) if seconds > 0 else seconds for seconds in (before, redis.ttl(key)))

    day = 24 * 3600
    assert life("day", delay=3600) == (-1, 25)
    assert life("three days", delay=3 * day) == (-1, 4 * 24)
    assert life("longer", delay=3600, ttl=str(2 * day)) == (49, 49)
    assert life("shorter", delay=3600, ttl="3600") == (2, 2)
    answer = shop.post("/v1/reports", json={"rows": 1}, headers={"Idempotency-Key": "x", "Idempotency-TTL": "59"})
    assert problem(answer) == (400, "idempotency.invalid")


def test_a_list_has_the_callers_own_tasks_and_an_operators_those_of_all(offload, shop, root):
    other = client_of(offload, "other")
    tag = "of:lists"
    ids = {name: client.post("/v1/reports", json={"rows": 1, "tags": [tag]}).json()["task_id"]
           for name, client in (("shop", shop), ("other", other))}  # fmt: skip

    def listed(client: httpx.Client, **params: str) -> list[tuple[str, str]]:
        answer = client.get("/v1/tasks", params={"tag": tag, **params})
        return [(one["tenant"], one["task_id"]) for one in answer.raise_for_status().json()["data"]]

    assert listed(shop) == [("shop", ids["shop"])]
    assert listed(other) == [("other", ids["other"])]
    assert listed(root) == [("other", ids["other"]), ("shop", ids["shop"])]
    assert listed(root, tenant="shop") == [("shop", ids["shop"])]
    assert problem(shop.get("/v1/tasks", params={"tenant": "other"})) == (403, "auth.scope")
    cursor = root.get("/v1/tasks", params={"limit": 1}).json()["next"]
    assert problem(shop.get("/v1/tasks", params={"after": cursor})) == (400, "cursor.mismatch")


def test_the_operators_routes(offload, shop):
    anonymous = offload.client()
    assert shop.post("/v1/images", content=photo(), headers=JPEG).status_code == 202
    assert anonymous.get("/healthz").json() == {"status": "alive"}
    ready = anonymous.get("/readyz").json()
    assert (ready["status"], ready["warnings"], ready["development_mode"]) == ("ready", [], False)
    metrics = anonymous.get("/metrics").text
    assert 'offload_queue_messages{place="waiting",queue="images"}' in metrics
    assert 'offload_tasks_accepted_total{kind="image"}' in metrics
    assert anonymous.get("/docs").status_code == 200
    paths = anonymous.get("/openapi.json").json()["paths"]
    assert set(paths) >= {"/v1/images", "/v1/emails", "/v1/reports", "/v1/tasks/{task_id}"}
    assert {one["name"] for one in paths["/v1/images"]["post"]["parameters"]} >= {"width", "notify", "Idempotency-Key"}
