"""The outermost ring: what reaches the gateway's socket, in whatever pieces, and what becomes of it."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from devstack.waiting import until
from gateway import auth
from gateway.protocol import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES

from .conftest import FAST, JPEG, Offload, photo, received_until_closed

SHORT = {
    "OFFLOAD_HEADER_TIMEOUT_SECONDS": "4",
    "OFFLOAD_BODY_IDLE_SECONDS": "4",
    "OFFLOAD_WRITE_IDLE_SECONDS": "2",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A gateway without workers: what is accepted waits."""
    with Offload(tmp_path_factory.mktemp("edge"), FAST) as stack:
        stack.gateway(SHORT)
        yield stack


def send(port: int, *pieces: bytes, pause: float = 0.0, shut: bool = False) -> bytes:
    """Send pieces, each in a segment of its own, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
                if pause:
                    time.sleep(pause)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before all was sent
        return received_until_closed(connection)


def status_of(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


def problem_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer[:400]
    return status_of(answer), json.loads(body)["code"]


# -- multipart, in any pieces


FIELDS = {"width": "20", "height": "16", "user_id": "someone"}


def form(order: list[str], boundary: str = "boundary7") -> bytes:
    parts = []
    for name in order:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if name == "file":
            parts.append(
                f'{head}; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + photo(32, 24) + b"\r\n"
            )
        else:
            parts.append(f"{head}\r\n\r\n{FIELDS[name]}\r\n".encode())
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def upload(body: bytes, boundary: str = "boundary7") -> bytes:
    return (
        f"POST /v1/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("order", [["file", *FIELDS], [*FIELDS, "file"], ["width", "file", "height", "user_id"]])
def test_a_form_means_the_same_however_it_is_cut(served, order):
    """Cut in two at every offset, over a real socket: the same task each time."""
    body = form(order)
    head = upload(body)

    def post(at: int) -> tuple[int, str]:
        answer = send(served.port, head, body[:at], body[at:], pause=0.002)
        assert status_of(answer) == 202, (at, answer)
        task_id = json.loads(answer.partition(b"\r\n\r\n")[2])["task_id"]
        return at, task_id

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(post, range(1, len(body))))
    assert len(made) == len(body) - 1
    client = served.redis.client()
    messages = {
        json.loads(text)["headers"]["id"]: json.loads(text)["body"]
        for text in client.hvals("offload:queue:images:live")
    }
    asked = set()
    for _, task_id in made:
        (arguments,), *_ = json.loads(base64.b64decode(messages[task_id]))
        asked.add((arguments["width"], arguments["height"]))
    assert asked == {(20, 16)}


@pytest.mark.parametrize(("before", "behind"), [(b"a preamble\r\n", b"an epilogue\r\n"), (b"\r\n", b"--boundary7\r\n")])
def test_what_stands_around_a_form_is_passed_over_however_it_is_cut(served, before, behind):
    body = before + form(["width", "file"]) + behind

    def post(at: int) -> int:
        return status_of(send(served.port, upload(body), body[:at], body[at:], pause=0.002))

    cuts = [*range(1, len(before) + 30), *range(len(body) - len(behind) - 30, len(body))]
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(post, cuts)) == {202}


def test_a_form_byte_by_byte_is_the_same_too(served):
    body = form(["width", "file"])
    answer = send(served.port, upload(body), *(body[at : at + 1] for at in range(len(body))))
    assert status_of(answer) == 202, answer


@pytest.mark.parametrize(
    "order", [["file", "file"], ["width", "width", "file"], ["file", "width", "user_id", "user_id"]]
)
def test_what_is_given_twice_in_a_form_is_refused(served, order):
    body = form(order)
    assert problem_of(send(served.port, upload(body), body)) == (422, "request.invalid")


@pytest.mark.parametrize("boundary", ["b" * 71, "b" * 500, ""])
def test_a_boundary_that_is_none_is_refused(served, boundary):
    body = form(["file"], boundary)
    assert problem_of(send(served.port, upload(body, boundary), body)) == (400, "request.malformed")


def test_what_is_given_twice_elsewhere_is_refused(served):
    client = served.client()
    twice = client.post("/v1/images?width=10&width=20", content=photo(), headers=JPEG)
    assert (twice.status_code, twice.json()["code"]) == (422, "request.invalid")
    for body in ('{"rows": 1, "rows": 2}', '{"rows": 1, "title": "a", "title": "b"}'):
        json_twice = client.post("/v1/reports", content=body, headers={"Content-Type": "application/json"})
        assert (json_twice.status_code, json_twice.json()["code"]) == (422, "request.invalid")
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = client.post("/v1/reports", json={"rows": 1}, headers=keys)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency.invalid")
    headers = [("Content-Type", "image/jpeg"), ("Offload-Notify", "a@example.com"), ("Offload-Notify", "b@example.com")]
    address = client.post("/v1/images", content=photo(), headers=headers)
    assert (address.status_code, address.json()["code"]) == (422, "request.invalid")


@pytest.mark.parametrize("place", ["query", "field"])
def test_what_counts_less_must_be_valid_too(served, place):
    client, headers = served.client(), {"Offload-Notify": "ann@example.com"}
    if place == "query":
        answer = client.post("/v1/images?notify=ann", content=photo(), headers=headers | JPEG)
    else:
        files = {"file": ("a.jpg", photo(), "image/jpeg")}
        answer = client.post("/v1/images", data={"notify": "ann"}, files=files, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


# -- headers and time


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (GET + b"X-A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", (431, "request.headers_too_large")),
        (GET + b"X-A: " + b"b" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n", (431, "request.headers_too_large")),
        (GET + b"X-A: " + b"b" * 200_000, (431, "request.headers_too_large")),
        (GET + b"A:b\r\n" * 100_000, (431, "request.headers_too_large")),
        (b"GET /" + b"a" * (MAX_TARGET_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n", (414, "request.target_too_long")),
        (b"GET /?" + b"a" * 300_000, (414, "request.target_too_long")),
        (b"GET /healthz HTTP/1.1\r\n\r\n", (400, "request.malformed")),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "request.malformed")),
        (b"nonsense\r\n\r\n", (400, "request.malformed")),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", (400, "request.malformed")),
    ],
)
def test_a_head_beyond_the_limits_is_refused_and_ends_the_connection(served, request_, expected):
    answer = send(served.port, request_)
    assert problem_of(answer) == expected
    assert b"connection: close" in answer.lower()


def test_a_head_within_the_limits_is_served(served):
    many = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 200) for number in range(MAX_HEADERS - 5))
    answer = send(served.port, GET + b"Connection: close\r\n" + many + b"\r\n")
    assert status_of(answer) == 200


def test_endless_headers_cost_no_memory(served):
    """Ten megabytes of tiny headers from many connections at once."""
    before = memory_of(served)

    def attack(_: int) -> bytes:
        return send(served.port, GET, *([b"A:b\r\n" * 20_000] * 100))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attack, range(40)))
    assert {status_of(answer) for answer in answers} <= {431, 0}
    assert memory_of(served) - before < 30_000_000


def memory_of(stack) -> int:
    gateway = next(process for process in stack.processes if process.name == "gateway")
    status = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
def test_a_refused_request_ends_its_connection_without_its_body(offload, more):
    """And without waiting for it: a client without a key that dribbles is cut off."""
    _, line = auth.new_key("shop", ["tasks"])
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS": line})
    head = (
        b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n"
        + more
        + b"\r\n"
    )
    with socket.create_connection(("127.0.0.1", offload.port), timeout=20) as connection:
        connection.sendall(head + b"x")
        stopped = threading.Event()

        def dribble() -> None:
            try:
                while not stopped.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                stopped.set()

        dribbler = threading.Thread(target=dribble)
        dribbler.start()
        received = received_until_closed(connection)
        until(stopped.is_set, "the client that dribbles to be cut off")
        dribbler.join()
    assert problem_of(received) == (401, "auth.missing")
    assert b"connection: close" in received.lower()
    assert b"100 Continue" not in received


def test_a_large_refused_upload_gets_its_answer_whole(served):
    """The client sends on for a while: it must find the answer, not a reset."""
    body = b"x" * 3_000_000
    head = b"POST /v1/reports HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(10):
        assert problem_of(send(served.port, head, body)) == (415, "request.media_type")


@pytest.mark.parametrize(("pieces", "size", "pause_seconds"), [(80, 12_500, 0.1), (3, 400_000, 3)])
def test_a_slow_client_finds_its_refusal_too(served, pieces, size, pause_seconds):
    """It reads only after it has sent everything, as many clients do; a slow network takes longer for that than an idle
    connection is kept. A busy client sends nothing for a while.
    """
    head = b"POST /v1/reports HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % (
        pieces * size
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(head)
        for _ in range(pieces):
            connection.sendall(b"x" * size)
            time.sleep(pause_seconds)  # not a wait: it is what makes the client slow
        assert problem_of(received_until_closed(connection)) == (415, "request.media_type")


def test_a_client_that_reads_nothing_is_let_go(offload):
    offload.gateway(SHORT)
    task_id, name = "0" * 8, f"resize-{'a' * 64}.jpg"
    file = offload.blobs / "outputs" / task_id / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 30_000_000)
    offload.redis.client().hset(f"offload:ended:{task_id}", mapping={
        "owner": "development", "kind": "image", "state": "SUCCESS", "created_at": 1, "finished_at": 1, "trace_id": "",
    })  # fmt: skip
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", offload.port))
    connection.sendall(f"GET /v1/tasks/{task_id}/outputs/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def is_open() -> bool:
        remote = f"{connection.getsockname()[1]:04X}"
        return f":{remote} 01 " in Path("/proc/net/tcp").read_text()

    until(lambda: not is_open(), "the connection to be ended", seconds=20)
    connection.close()


# -- HTTP as its RFCs have it


def test_methods(served):
    client = served.client()
    for path, allowed in (("/v1/tasks/x", "DELETE, GET, HEAD"), ("/v1/images", "POST"), ("/healthz", "GET, HEAD")):
        answer = client.request("PATCH", path)
        assert (answer.status_code, answer.json()["code"]) == (405, "route.method_not_allowed")
        assert answer.headers["Allow"] == allowed
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/queues"):
        got, asked = client.get(path), client.head(path)
        assert (asked.status_code, asked.content) == (got.status_code, b"")
        assert asked.headers["content-type"] == got.headers["content-type"]
    slash = client.get("/healthz/")
    assert (slash.status_code, slash.json()["code"]) == (404, "route.not_found")


def test_a_request_id_comes_back(served):
    client = served.client()
    assert client.get("/healthz", headers={"X-Request-Id": "mine-7"}).headers["X-Request-Id"] == "mine-7"
    for bad in ("a b", "x" * 200, "<script>"):
        made = client.get("/healthz", headers={"X-Request-Id": bad}).headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_a_compressed_body_is_refused(served):
    client = served.client()
    for path, headers in (("/v1/images", JPEG), ("/v1/reports", {"Content-Type": "application/json"})):
        answer = client.post(path, content=b"{}", headers=headers | {"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["code"]) == (415, "request.content_encoding")


@pytest.mark.parametrize("rows", ["true", '"1"', "1.5", "null", "[1]", "1e400", "NaN", "{}"])
def test_json_types_are_jsons_own(served, rows):
    answer = served.client().post(
        "/v1/reports", content=f'{{"rows": {rows}}}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
    assert not re.search(r"tuple|dict|NoneType|str type|Input should", answer.text)


def test_a_list_of_errors_has_an_end(served):
    body = {f"unknown{number}": 1 for number in range(70_000)}
    answer = served.client().post("/v1/reports", json={"rows": 1} | dict(list(body.items())[:50_000]))
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    assert "more" in answer.json()["detail"]


def test_nested_json_is_no_error_of_ours(served):
    for body in ("[" * 100_000, '{"rows":' + "[" * 50_000 + "]" * 50_000 + "}"):
        answer = served.client().post("/v1/reports", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


@pytest.mark.parametrize(
    "head", [b"BM" + bytes(60), b"II*\0" + bytes(60), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), b"<svg/>"]
)
def test_a_format_that_is_not_taken_is_refused_at_the_upload(served, head):
    client = served.client()
    for answer in (
        client.post("/v1/images", content=head, headers=JPEG),
        client.post("/v1/images", files={"file": head}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (415, "image.format_unsupported")
    assert not list((served.blobs / "uploads").rglob(f"original*{len(head)}"))


def test_jpg_is_a_format(served):
    assert served.client().post("/v1/images?format=jpg", content=photo(), headers=JPEG).status_code == 202


def test_pages_of_chosen_origins_may_call(offload):
    offload.gateway({"OFFLOAD_CORS_ORIGINS": "https://app.example.com"})
    client = offload.client()
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/images", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
    assert (
        "access-control-allow-origin"
        not in client.options("/v1/images", headers=asked | {"Origin": "https://b.example"}).headers
    )


# -- outputs


def test_an_output_is_served_as_files_are(offload):
    offload.gateway()
    offload.worker("image_worker")
    client = offload.client()
    task = offload.wait(client, offload.post_photo(client, notify=None) if False else client.post(
        "/v1/images?width=40", content=photo(), headers=JPEG).json()["task_id"])  # fmt: skip
    href = task["links"]["outputs"][0]["href"]
    whole = client.get(href)
    tag, size = whole.headers["ETag"], len(whole.content)
    assert whole.headers["Accept-Ranges"] == "bytes"
    head = client.head(href)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(size), b"")
    for condition in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        unchanged = client.get(href, headers={"If-None-Match": condition})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
    assert client.get(href, headers={"If-None-Match": '"other"'}).status_code == 200
    for wanted, part in (
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-5", slice(size - 5, None)),
        (f"bytes=5-{size + 100}", slice(5, None)),
    ):
        answer = client.get(href, headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (206, whole.content[part])
        assert answer.headers["Content-Range"].endswith(f"/{size}")
    beyond = client.get(href, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for ignored in ({"Range": "bytes=5-2"}, {"Range": "lines=1-2"}, {"Range": "bytes=0-1", "If-Range": '"old"'}):
        assert (client.get(href, headers=ignored).status_code, client.get(href, headers=ignored).content) == (
            200,
            whole.content,
        )


# -- records that have gone


def test_what_a_replay_points_to_and_whose_outputs_they_are_outlives_the_record(offload):
    made = {name: auth.new_key(name, ["tasks"]) for name in ("shop", "other")}
    settings = {
        "OFFLOAD_DEVELOPMENT_MODE": "false",
        "OFFLOAD_API_KEYS": " ".join(line for _, line in made.values()),
        "OFFLOAD_RESULT_EXPIRES_SECONDS": "1",
    }
    offload.environment.update(settings)
    offload.gateway()
    offload.worker("image_worker")
    shop, other = (offload.client(headers={"Authorization": f"Bearer {key}"}) for key, _ in made.values())
    once = {"Idempotency-Key": "photo-1"} | JPEG
    first = shop.post("/v1/images?width=20", content=photo(), headers=once)
    task_id = first.json()["task_id"]
    name = until(lambda: offload.outputs(task_id), "the output")[0]
    until(lambda: not offload.redis.client().exists(f"offload:task:{task_id}"), "the record to expire")
    again = shop.post("/v1/images?width=20", content=photo(), headers=once)
    assert (again.status_code, again.json(), again.headers["Idempotent-Replayed"]) == (202, first.json(), "true")
    shown = shop.get(again.headers["Location"]).json()
    assert (shown["state"], shown["expired"], shown["task_id"]) == ("SUCCESS", True, task_id)
    assert shop.get(f"/v1/tasks/{task_id}/outputs/{name}").status_code == 200
    assert other.get(f"/v1/tasks/{task_id}").status_code == 404
    assert other.get(f"/v1/tasks/{task_id}/outputs/{name}").status_code == 404
    gone = shop.delete(f"/v1/tasks/{task_id}")
    assert (gone.status_code, gone.json()["code"]) == (409, "task.finished")
    # As long as the outputs are kept: seven days.
    assert offload.redis.client().ttl(f"offload:ended:{task_id}") > 6 * 86_400


def test_a_key_is_taken_and_given_without_a_restart(offload):
    old, old_line = auth.new_key("old", ["tasks"])
    new, new_line = auth.new_key("new", ["tasks"])
    file = offload.folder / "keys"
    file.write_text(f"{old_line}\n")
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS_FILE": str(file)})
    client = offload.client()

    def status(key: str) -> int:
        return client.get("/v1/tasks/none", headers={"Authorization": f"Bearer {key}"}).status_code

    assert (status(old), status(new)) == (404, 401)
    file.write_text(f"{new_line}\n")
    until(lambda: (status(old), status(new)) == (401, 404), "the new keys to be known", seconds=10)
    refused = client.get("/v1/tasks/none", headers={"Authorization": f"Bearer {old}"})
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert client.get("/v1/tasks/none").headers["WWW-Authenticate"] == "Bearer"


def test_delayed_tasks_have_a_limit_of_their_own(offload):
    offload.gateway({"OFFLOAD_QUEUE_LIMIT": "2", "OFFLOAD_DELAYED_LIMIT": "3"})
    client = offload.client()
    later = [client.post("/v1/reports", json={"rows": 1, "delay_seconds": 3600}) for _ in range(4)]
    assert [one.status_code for one in later] == [202, 202, 202, 429]
    assert later[-1].json()["code"] == "queue.full"
    now = [client.post("/v1/reports", json={"rows": 1}).status_code for _ in range(3)]
    assert now == [202, 202, 429]


def test_a_delay_is_by_the_clock_of_redis(offload):
    """A proxy that tells another time stands for a Redis whose clock is ahead."""
    offload.gateway()
    client = offload.client()
    task_id = client.post("/v1/reports", json={"rows": 1, "delay_seconds": 100}).json()["task_id"]
    redis = offload.redis.client()
    seconds, _ = redis.time()
    (score,) = redis.zmscore("offload:queue:reports:delayed", redis.zrange("offload:queue:reports:delayed", 0, -1))
    assert abs(score / 1000 - seconds - 100) < 5
    assert offload.task(client, task_id)["due_at"]


# -- many uploads at once


def test_many_uploads_at_once_share_a_bounded_memory(offload):
    """Each is accepted or told to come again; the process keeps within what it was given."""
    given = 48 * 1024 * 1024
    offload.gateway({"OFFLOAD_UPLOAD_MEMORY_BYTES": str(given), "OFFLOAD_UPLOAD_WAIT_SECONDS": "20"})
    content = photo(64, 64) + bytes(2_400_000)
    before = memory_of(offload)
    peak = 0
    answers: list[httpx.Response] = []
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, memory_of(offload))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(80) as pool:
        answers = list(
            pool.map(
                lambda _: httpx.post(f"{offload.url}/v1/images", content=content, headers=JPEG, timeout=60), range(160)
            )
        )
    done.set()
    watcher.join()
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {202, 503}
    assert sum(answer.status_code == 202 for answer in answers) >= 80
    for answer in answers:
        if answer.status_code == 503:
            assert (answer.json()["code"], answer.headers["Retry-After"]) == ("upload.busy", "5")
    # What waits holds what its connection has received, at most.
    assert peak - before < given + 80 * 512 * 1024
