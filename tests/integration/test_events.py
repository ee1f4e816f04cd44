"""Events of tasks over HTTP: whole, in order, from where a client left off, and for whom they are."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import httpx
import pytest

from devstack.waiting import until
from gateway import auth
from offload_core import keys
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .conftest import PREFIX

KEYS = {name: auth.new_key(name, scopes) for name, scopes in {
    "shop": ["tasks"], "other": ["tasks"], "root": ["operator", "tasks"],
}.items()}  # fmt: skip
STORE = TaskStore(PREFIX, f"{PREFIX}queue:", keep_ms=60_000)
ERROR = {"code": "it.failed", "message": "on purpose"}
CHAIN = [
    "task.accepted", "task.started", *["step.started", "step.succeeded"] * 3, "task.succeeded",
]  # fmt: skip


@pytest.fixture(scope="module")
def offload(whole):
    return whole(
        {
            "OFFLOAD_DEVELOPMENT_MODE": "false",
            "OFFLOAD_API_KEYS": " ".join(line for _, line in KEYS.values()),
            "OFFLOAD_LINK_SECRET": "a secret of thirty-two characters!!",
        }
    )


@pytest.fixture(scope="module")
def redis(offload):
    return offload.redis.client()


def client_of(offload, name: str) -> httpx.Client:
    return offload.client(headers={"Authorization": f"Bearer {KEYS[name][0]}"})


@pytest.fixture(scope="module")
def shop(offload):
    return client_of(offload, "shop")


@dataclass
class Sent:
    """One event as it came."""

    id: str | None
    type: str
    data: dict


def follow(client: httpx.Client, url: str, *, stop=None, **options) -> list[Sent]:
    """Read a stream to its end, or until `stop` says so."""
    found: list[Sent] = []
    with client.stream("GET", url, **options) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "event" in fields:
                found.append(Sent(fields.get("id"), fields["event"], json.loads(fields["data"])))
                fields = {}
                if stop is not None and stop(found):
                    break
            else:
                fields = {}
    return found


def accept(redis, task_id: str, owner: str = "shop") -> None:
    task = Publisher("test").task(task_id, "task", owner, [NewStep("a.b.v1", "nobody", {"n": 1})])
    assert STORE.accept(task).run(redis)[0] == b"accepted"


def test_a_task_is_followed_to_its_end(offload, shop):
    task_id = offload.post_photo(shop)
    found = follow(shop, f"/v1/tasks/{task_id}/events")
    assert [one.type for one in found] == [*CHAIN, "end"]
    for one in found[:-1]:
        assert one.data["type"] == one.type
        assert one.data["timestamp"].endswith("Z")
        assert (one.data["data"]["task_id"], one.data["data"]["kind"]) == (task_id, "image")
    assert found[2].data["data"]["step"] == {"number": 1, "name": "image.resize.v1", "attempts": 1}
    assert found[-1].data["state"] == "SUCCESS"
    assert found[-1].data["links"]["outputs"]
    ids = [one.id for one in found[:-1]]
    # From any of them on comes exactly what comes after it; behind the last one there is nothing to wait for.
    for number, last_id in enumerate(ids[:-1]):
        rest = follow(shop, f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": last_id})
        assert [one.id for one in rest[:-1]] == ids[number + 1 :]
    by_query = follow(shop, f"/v1/tasks/{task_id}/events", params={"last_event_id": ids[3]})
    assert [one.id for one in by_query[:-1]] == ids[4:]
    assert shop.get(f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": ids[-1]}).status_code == 204


def test_every_type_has_its_moment(redis, shop):
    """A failing, a retried, a buried, a redriven and a cancelled task, and one that tells its progress too often."""
    step, task_id = keys.step_of("events-1"), "events-1"
    accept(redis, task_id)
    STORE.start(step, (0, 1), "w", {}).run(redis)
    for done in range(5):
        STORE.progress(step, (0, 1), done, 5).run(redis)
    STORE.retry(step, (0, 1), ERROR, 1_700_000_000_000).run(redis)
    STORE.start(step, (1, 1), "w", {}).run(redis)
    STORE.finish(step, (1, 1), "FAILURE", ERROR).run(redis)
    found = follow(shop, f"/v1/tasks/{task_id}/events")
    assert [one.type for one in found] == [
        "task.accepted", "task.started", "step.started", "task.progressed", "task.retrying", "step.started",
        "step.failed", "task.failed", "end",
    ]  # fmt: skip
    retrying, failed = found[4].data["data"], found[7].data["data"]
    assert retrying["retry_at"] == "2023-11-14T22:13:20.000Z"
    assert (retrying["reason"], retrying["state"]) == ("it.failed", "RETRY")
    assert (failed["reason"], failed["state"], failed["step"]["attempts"]) == ("it.failed", "FAILURE", 2)
    accept(redis, "events-2")
    STORE.cancel("events-2").run(redis)
    cancelled = follow(shop, "/v1/tasks/events-2/events")
    assert [one.type for one in cancelled] == ["task.accepted", "task.cancelled", "end"]
    assert cancelled[1].data["data"]["reason"] == "task.cancelled"
    accept(redis, "events-3")
    STORE.finish(keys.step_of("events-3"), (0, 2**31), "FAILURE", ERROR).run(redis)
    buried = follow(shop, "/v1/tasks/events-3/events")
    assert [one.type for one in buried] == ["task.accepted", "step.failed", "task.dead_lettered", "task.failed", "end"]


def test_a_caller_follows_its_own_tasks_and_an_operator_all(offload, redis, shop):
    seen: dict[str, list[Sent]] = {}

    def run(name: str) -> None:
        # Until the last of them: whatever else were to come would come before it.
        seen[name] = follow(
            client_of(offload, name),
            "/v1/events",
            stop=lambda found: found[-1].data["data"]["task_id"].endswith("-last"),
        )

    threads = [threading.Thread(target=run, args=(name,)) for name in KEYS]
    for thread in threads:
        thread.start()
    with client_of(offload, "root") as root:
        until(lambda: "offload_event_streams 3.0" in root.get("/metrics").text, "three streams")
    for name in ("mine", "theirs", "mine-last"):
        accept(redis, name, "other" if name == "theirs" else "shop")
    accept(redis, "theirs-last", "other")
    for thread in threads:
        thread.join(30)
    tasks = {name: [one.data["data"]["task_id"] for one in found] for name, found in seen.items()}
    assert tasks == {
        "shop": ["mine", "mine-last"],
        "other": ["theirs", "theirs-last"],
        "root": ["mine", "theirs", "mine-last"],
    }
    again = follow(
        shop, "/v1/events", headers={"Last-Event-ID": seen["shop"][0].id}, stop=lambda found: len(found) == 1
    )
    assert again[0].data["data"]["task_id"] == "mine-last"


def test_what_was_trimmed_is_told_with_a_snapshot(redis, shop):
    accept(redis, "gap")
    key = keys.events(PREFIX, "gap")
    first = redis.xrange(key)[0][0].decode()
    step = keys.step_of("gap")
    STORE.start(step, (0, 1), "w", {}).run(redis)
    redis.xtrim(key, maxlen=1, approximate=False)
    STORE.finish(step, (0, 1), "SUCCESS", {}).run(redis)
    found = follow(shop, "/v1/tasks/gap/events", headers={"Last-Event-ID": first})
    assert [one.type for one in found] == ["gap", "snapshot", "step.started", "step.succeeded", "task.succeeded", "end"]
    assert found[0].data == {"oldest_id": found[2].id}
    assert found[1].data["state"] == "SUCCESS"
    owners = keys.owner_events(PREFIX, "shop")
    redis.xtrim(owners, maxlen=1, approximate=False)
    tenant = follow(shop, "/v1/events", params={"last_event_id": "1-1"}, stop=lambda found: len(found) == 3)
    assert [one.type for one in tenant] == ["gap", "snapshot", "task.succeeded"]
    assert tenant[1].data["tasks"]["SUCCESS"] >= 1


def test_a_token_is_for_one_tasks_events_and_outputs(offload, shop):
    task_id = offload.post_photo(shop)
    made = shop.post("/v1/tokens", json={"task_id": task_id, "ttl_seconds": 60})
    assert made.status_code == 201, made.text
    token = made.json()["token"]
    with httpx.Client(base_url=shop.base_url) as browser:
        found = follow(browser, made.json()["events_url"])
        assert found[-1].type == "end"
        href = found[-1].data["links"]["outputs"][0]["href"]
        assert browser.get(href, params={"token": token}).status_code == 200
        other = offload.post_photo(shop)
        answers = {
            "another task": browser.get(f"/v1/tasks/{other}/events", params={"token": token}),
            "the task itself": browser.get(f"/v1/tasks/{task_id}", params={"token": token}),
            "no token": browser.get(f"/v1/tasks/{task_id}/events"),
        }
        codes = {what: (answer.status_code, answer.json()["code"]) for what, answer in answers.items()}
        assert codes == {
            "another task": (403, "token.invalid"),
            "the task itself": (401, "auth.missing"),
            "no token": (401, "auth.missing"),
        }
        short = shop.post("/v1/tokens", json={"task_id": task_id, "ttl_seconds": 1}).json()["token"]

        def answer() -> httpx.Response:
            last = {"token": short, "last_event_id": f"{2**63}-0"}
            return browser.get(f"/v1/tasks/{task_id}/events", params=last)

        until(lambda: answer().status_code == 410, "the token to expire")
        assert answer().json()["code"] == "token.expired"
    theirs = client_of(offload, "other")
    assert theirs.post("/v1/tokens", json={"task_id": task_id}).status_code == 404
    assert theirs.get(f"/v1/tasks/{task_id}/events").status_code == 404
    assert shop.post("/v1/tokens", json={"task_id": task_id, "ttl_seconds": 3601}).status_code == 422
    assert shop.get(f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": "yesterday"}).status_code == 422
    assert shop.head("/v1/events").status_code == 200


def test_a_client_that_reads_nothing_is_cut_off_and_gets_the_rest_when_it_comes_back(offload, redis, shop):
    accept(redis, "slow")
    step = keys.step_of("slow")
    STORE.start(step, (0, 1), "w", {}).run(redis)
    last_id = redis.xrevrange(keys.events(PREFIX, "slow"), count=1)[0][0].decode()
    with shop.stream("GET", "/v1/tasks/slow/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        # More than the sockets and the limit of 256 KiB hold together. It stands in for a task that tells very much.
        text = json.dumps({"task_id": "slow", "kind": "task", "state": "STARTED", "more": "x" * 20_000})
        for _ in range(900):
            redis.xadd(keys.events(PREFIX, "slow"), {"type": "task.progressed", "data": text})
        with client_of(offload, "root") as root:
            until(lambda: "offload_event_streams 0.0" in root.get("/metrics").text, "it to be cut off", seconds=60)
        STORE.finish(step, (0, 1), "SUCCESS", {}).run(redis)
        # It gets what the sockets still hold, and no end.
        with contextlib.suppress(httpx.HTTPError):
            assert "event: end" not in lines
    rest = follow(shop, "/v1/tasks/slow/events", headers={"Last-Event-ID": last_id})
    assert [one.type for one in rest].count("task.progressed") == 900
    assert rest[-1].type == "end"


def test_clients_of_a_gateway_that_is_killed_or_stops_have_each_event_once(offload, redis):
    gateway = next(one for one in offload.processes if one.name.startswith("gateway") and one.exit_code is None)
    accept(redis, "killed")
    step, seen = keys.step_of("killed"), []

    def run() -> None:
        last_id: str | None = None
        while not seen or seen[-1].type != "end":
            try:
                with client_of(offload, "shop") as client:
                    headers = {"Last-Event-ID": last_id} if last_id else {}

                    def note(found: list[Sent]) -> bool:
                        nonlocal last_id
                        seen.append(found[-1])
                        last_id = found[-1].id or last_id
                        return False

                    follow(client, "/v1/tasks/killed/events", stop=note, headers=headers)
            except (httpx.HTTPError, AssertionError):
                time.sleep(0.05)  # not a wait: the pause before the next try

    thread = threading.Thread(target=run)
    thread.start()
    STORE.start(step, (0, 1), "w", {}).run(redis)
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        until(lambda known=number: len(seen) >= 3 + known, "the client to have what there is")
        begun = time.monotonic()
        gateway.send(how)
        until(lambda one=gateway: one.exit_code is not None, "the gateway to end", seconds=25)
        assert time.monotonic() - begun < 20, "the stream keeps it from stopping"
        STORE.retry(step, (number, 1), ERROR, 1).run(redis)
        gateway = offload.gateway()
    STORE.start(step, (3, 1), "w", {}).run(redis)
    STORE.finish(step, (3, 1), "SUCCESS", {}).run(redis)
    thread.join(60)
    ids = [one.id for one in seen if one.id]
    assert ids == [entry_id.decode() for entry_id, _ in redis.xrange(keys.events(PREFIX, "killed"))]
    assert seen[-1].type == "end"


PAGE = """<!doctype html>
<script>
const events = new EventSource("%(url)s");
const seen = [];
const types = [
  "task.accepted", "task.started", "step.started", "task.retrying", "step.succeeded", "task.succeeded", "end",
];
const tell = () => fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
for (const type of types) {
  events.addEventListener(type, (event) => {
    seen.push([event.lastEventId, type]);
    if (type === "end") events.close();
    tell();
  });
}
</script>
"""


class Site(http.server.BaseHTTPRequestHandler):
    """Serves one page to a browser, and takes what the page has seen."""

    page = b""
    seen: ClassVar[list] = []

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        if self.path == "/":
            self.wfile.write(self.page)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen = json.loads(body)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def chromium() -> str:
    """A browser, as Debian packages it."""
    binary = shutil.which("chromium")
    if binary is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium on PATH: apt-get install chromium")
    return binary


def test_a_browsers_own_event_source_goes_on_by_itself(offload, redis, shop, chromium, tmp_path):
    accept(redis, "browser")
    step, key = keys.step_of("browser"), keys.events(PREFIX, "browser")
    made = shop.post("/v1/tokens", json={"task_id": "browser"}).json()
    site = http.server.HTTPServer(("127.0.0.1", 0), Site)
    Site.page = (PAGE % {"url": f"{offload.url}{made['events_url']}"}).encode()
    threading.Thread(target=site.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{site.server_address[1]}"
    gateway = next(one for one in offload.processes if one.name.startswith("gateway") and one.exit_code is None)
    gateway.kill()
    gateway = offload.gateway({"OFFLOAD_CORS_ORIGINS": origin})
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}", origin,
    ]  # fmt: skip
    with (tmp_path / "chromium.log").open("w") as log:
        browser = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: Site.seen, "the page to have its first event", seconds=90)
        STORE.start(step, (0, 1), "w", {}).run(redis)
        until(lambda: len(Site.seen) == 3, "the events of the start")
        gateway.kill()
        STORE.retry(step, (0, 1), ERROR, 1).run(redis)
        offload.gateway({"OFFLOAD_CORS_ORIGINS": origin})
        STORE.start(step, (1, 1), "w", {}).run(redis)
        STORE.finish(step, (1, 1), "SUCCESS", {}).run(redis)
        until(lambda: Site.seen[-1][1] == "end", "the page to have the end", seconds=60)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        site.shutdown()
        site.server_close()
    written = [[entry_id.decode(), fields[b"type"].decode()] for entry_id, fields in redis.xrange(key)]
    assert Site.seen[:-1] == written
