"""Private values: the function sees them, and nobody who reads lists, errors, logs, traces or dead letters does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from devstack.http_receiver import HttpReceiver
from devstack.waiting import until

from .conftest import FAST, WITH_KEYS, Offload

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
# What people have in forms: names, addresses, numbers, health, faith, money; in several scripts, and with what JSON,
# Python, URLs and regular expressions write in another way.
PERSONAL = [
    "Ada Lovelace", "Søren Kierkegaard", "Zoë Müller-Lüdenscheidt", "Nguyễn Thị Minh Khai", 'O\'Brien, "Pat"',
    "李小龍", "Дмитрий Шостакович", "محمد بن سلمان", "Ελένη Παπαδοπούλου", "José María (Pepe) Aznar",
    "ada.lovelace@example.org", "ADA+tag@sub.example.co.uk", "+49 30 901820", "(555) 867-5309",
    "+81-3-1234-5678", "12 St James's Square\nLondon SW1Y 4JH", "Hauptstraße 5, 10827 Berlin",
    "東京都千代田区千代田1-1", "Apt. #7 & 8; back door", "1815-12-10", "10.12.1815, London",
    "DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "4111 1111 1111 1111", "078-05-1120",
    "AB 12 34 56 C", "P<UTOERIKSSON<<ANNA<MARIA", "L01X00T471", "B-AL 1815", "VIN 1HGCM82633A004352",
    "192.0.2.146", "2001:db8::8a2e:370:7334", "00:1B:44:11:3A:B7", "device 7f3e-99ac",
    "51.5074° N, 0.1278° W", "diabetes mellitus type 2", "HIV positive", "blood type 0-",
    "allergic to penicillin?", "patient no. 00471-b", "catholic since 1832", "member of the union",
    "salary 84,000 $/a", "credit score = 580", "divorced [2x]", "https://example.org/~ada?private=1#me",
    "@ada_l", "pass phrase: correct horse", "C:\\Users\\ada\\diary.txt", "50% + 1 {share}",
]  # fmt: skip
WAYS = ("raise", "cause", "permanent", "temporary", "return")
SETTINGS = {
    "OFFLOAD_EGRESS_ALLOW": "127.0.0.0/8",
    "OFFLOAD_LOG_LEVEL": "DEBUG",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
}


@pytest.fixture(scope="module")
def offload(tmp_path_factory) -> Iterator[Offload]:
    with Offload(tmp_path_factory.mktemp("private"), FAST | WITH_KEYS | SETTINGS) as stack:
        stack.gateway()
        stack.worker("http_worker")
        stack.worker("mail_worker")
        stack.own_worker("private_worker:worker", HERE, {"OFFLOAD_CONCURRENCY": "4"})
        client = stack.client_of("shop")
        until(lambda: client.get("/v1/task-types/private.use.v1").status_code == 200, "the task type")
        yield stack


def leaks(text: str, secret: str) -> bool:
    """Return whether a text holds a secret, in one of the ways that texts are written."""
    ways = (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""))
    return any(way in text for way in ways)


def pages(client, path: str, **query) -> str:
    """Return all pages of a list, as they come."""
    texts, cursor = [], {}
    while True:
        answer = client.get(path, params={"limit": 100} | query | cursor)
        texts.append(answer.text)
        if not answer.json().get("next"):
            return "\n".join(texts)
        cursor = {"after": answer.json()["next"]}


def test_what_is_private_is_shown_nowhere(offload):
    assert len(PERSONAL) == len(set(PERSONAL)) == 50
    shop, root = offload.client_of("shop"), offload.client_of("root")
    with HttpReceiver() as receiver:
        shop.post("/v1/webhooks", json={"url": f"{receiver.url}/all"}).raise_for_status()
        ids = []
        for number, secret in enumerate(PERSONAL):
            # In every shape that a pointer may lead to, and as the last of what a function does.
            shape = (secret, {"deep": [secret]}, [secret, {"again": secret}])[number % 3]
            body = {
                "task": "private.use.v1",
                "input": {"how": WAYS[number % len(WAYS)], "secret": shape},
                "private": ["/secret"],
            }
            ids.append(shop.post("/v1/tasks", json=body).raise_for_status().json()["task_id"])
        states = [offload.wait(shop, task_id)["state"] for task_id in ids]
        assert states == ["FAILURE", "FAILURE", "FAILURE", "FAILURE", "SUCCESS"] * 10
        until(lambda: root.get("/v1/queues/private").json()["dead"] == 10, "the dead letters")
        schedule = {"task": "private.use.v1", "every_seconds": 86_400, "private": ["/secret"]}
        for number, secret in enumerate(PERSONAL):
            given = schedule | {"input": {"how": "return", "secret": secret}}
            shop.put(f"/v1/schedules/s{number}", json=given).raise_for_status()
        # An input that its task type refuses: the problem of each item is kept, and shown.
        wrong = [{"task": "private.use.v1", "input": {"how": 1, "secret": one, "open": {"a": one}}} for one in PERSONAL]
        items = [one | {"private": ["/secret", "/open"]} for one in wrong]
        batch = shop.post("/v1/batches", json={"items": items}).raise_for_status().headers["Location"]
        refused = [shop.post("/v1/tasks", json=one).text for one in items]
        until(lambda: len(receiver.of("/all")) >= 250, "the webhooks", seconds=60)
        letters = root.get("/v1/dead-letters", params={"queue": "private"}).json()["dead_letters"]
        assert len(letters) == 10
        shown = {
            "tasks": "".join(client.get(f"/v1/tasks/{one}").text for one in ids for client in (shop, root)),
            "events": "".join(shop.get(f"/v1/tasks/{one}/events").text for one in ids),
            "list": pages(shop, "/v1/tasks") + pages(root, "/v1/tasks"),
            "schedules": pages(shop, "/v1/schedules"),
            "batch": shop.get(batch).text + pages(shop, f"{batch}/items") + "".join(refused),
            "dead letters": "".join(root.get(f"/v1/dead-letters/{one['id']}").text for one in letters),
            "webhooks": "".join(one.body.decode() for one in receiver.received),
            "metrics": root.get("/metrics").text,
        }
    assert "person.unknown" in shown["tasks"]
    assert shown["dead letters"].count("<private>") >= 10
    redis = offload.redis.client()
    # What is to be sent to the worker again may hold it, and nothing else that is kept of a task.
    records = [redis.hgetall(f"offload:task:{task_id}") for task_id in ids]
    shown["records"] = b"".join(
        one for record in records for name, one in record.items() if name != b"messages"
    ).decode()
    offload.stop()
    shown["traces"] = offload.otlp.dump.decode("utf-8", "replace")
    logs = {f"logs of {process.name}": process.output() for process in offload.processes}
    assert sum(text.count("<private>") for text in logs.values()) >= 50
    shown |= logs
    assert {(name, secret) for name, text in shown.items() for secret in PERSONAL if leaks(text, secret)} == set()
