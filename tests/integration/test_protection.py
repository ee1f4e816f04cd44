"""The gateway under too much: too many posts, too fast, too large, too slow. Refused with a code; others are served."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter

import httpx
import pytest

from devstack.servers import RedisServer
from devstack.waiting import until
from gateway import auth

from .conftest import JPEG, photo, received_until_closed


def keyed(offload, *names: str, **settings: str) -> dict[str, dict[str, str]]:
    """Start a gateway that knows these keys; returns each one's header."""
    made = {name: auth.new_key(name, ["tasks"]) for name in names}
    lines = " ".join(line for _, line in made.values())
    offload.gateway({"OFFLOAD_DEVELOPMENT_MODE": "false", "OFFLOAD_API_KEYS": lines} | settings)
    return {name: {"Authorization": f"Bearer {key}"} for name, (key, _) in made.items()}


def post_all(offload, headers: list[dict[str, str]], at_once: int = 40, **request: object) -> list[httpx.Response]:
    """Post a report for each of the headers, so many at once."""

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=offload.url, timeout=60, limits=limits) as client:
            options = {"url": "/v1/reports", "json": {"rows": 1}} | request
            return await asyncio.gather(*(client.post(**options, headers=one) for one in headers))

    return asyncio.run(run())


def test_a_key_that_posts_too_fast_is_told_when_and_no_other_key_is_touched(offload):
    limit = {"OFFLOAD_RATE_LIMIT_PER_SECOND": "5", "OFFLOAD_RATE_LIMIT_BURST": "20"}
    of = keyed(offload, "fast", "calm", **limit)
    began = time.monotonic()
    answers = post_all(offload, [of["fast"] | {"Idempotency-Key": f"k{n}"} for n in range(300)])
    seconds = time.monotonic() - began
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) == {202, 429}
    assert 20 <= codes[202] <= 20 + 5 * seconds + 1
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["code"] == "rate.limited"
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["RateLimit-Policy"] == '"tasks";q=20;w=4'
            assert answer.headers["RateLimit"] == f'"tasks";r=0;t={answer.headers["Retry-After"]}'
    accepted = next(n for n, answer in enumerate(answers) if answer.status_code == 202)
    again = post_all(offload, [of["fast"] | {"Idempotency-Key": f"k{accepted}"}])[0]
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true"), "accepted before: no limit"
    assert post_all(offload, [of["calm"]])[0].status_code == 202
    uploads = post_all(offload, [of["fast"] | JPEG] * 30, url="/v1/images", json=None, content=photo())
    accepted_uploads = sum(answer.status_code == 202 for answer in uploads)
    assert accepted_uploads < 30
    assert len(list((offload.blobs / "uploads").rglob("original"))) == accepted_uploads
    client = offload.client(headers=of["fast"])
    until(lambda: client.post("/v1/reports", json={"rows": 1}).status_code == 202, "the rate to allow one more")


def test_two_gateways_share_a_keys_rate(offload):
    limit = {"OFFLOAD_RATE_LIMIT_PER_SECOND": "0.1", "OFFLOAD_RATE_LIMIT_BURST": "10"}
    offload.gateway(limit)
    first = sum(answer.status_code == 202 for answer in post_all(offload, [{}] * 6))
    second = offload.service("gateway", settings=limit | {"OFFLOAD_PORT": str(offload.port + 1)})
    url = f"http://127.0.0.1:{offload.port + 1}"
    second.wait_for_http(f"{url}/healthz")
    more = sum(httpx.post(f"{url}/v1/reports", json={"rows": 1}).status_code == 202 for _ in range(10))
    assert (first, more) == (6, 4)


def test_a_queue_is_never_longer_than_its_limit_under_load(offload):
    offload.gateway({"OFFLOAD_QUEUE_LIMIT": "50"})
    answers = post_all(offload, [{}] * 400)
    assert Counter(answer.status_code for answer in answers) == {202: 50, 429: 350}
    assert all(int(one.headers["Retry-After"]) > 0 for one in answers if one.status_code == 429)
    assert offload.redis.client().llen("offload:queue:reports:waiting") == 50


def test_a_full_redis_is_refused_before_it_says_so_itself_and_what_was_accepted_ends(offload):
    """Posts until a hundred were refused: every answer is 202 or 503, Redis never says OOM, every 202 is done."""
    offload.redis.stop()
    offload.redis = RedisServer(offload.folder / "small", options=["--maxmemory", "32mb"]).start()
    offload.environment["OFFLOAD_REDIS_URL"] = offload.redis.url
    gateway = offload.gateway()
    ids: list[str] = []
    refused = 0
    mail = {"to": "ann@example.com", "subject": "Hello", "text": "x" * 20_000}
    while refused < 100:
        answers = post_all(offload, [{}] * 40, url="/v1/emails", json=mail)
        assert {answer.status_code for answer in answers} <= {202, 503}, answers[0].text
        ids += [answer.json()["task_id"] for answer in answers if answer.status_code == 202]
        for answer in answers:
            if answer.status_code == 503:
                refused += 1
                assert answer.json()["code"] == "redis.memory"
                assert answer.headers["Retry-After"]
        assert len(ids) < 4000, "the guard never closed"
    redis = offload.redis.client()
    assert redis.info("errorstats").get("errorstat_OOM") is None
    assert redis.info("memory")["used_memory"] < 32 * 2**20
    offload.worker("mail_worker")
    until(offload.is_quiet, "all that was accepted to be done", seconds=120)
    assert len(offload.smtp.to("ann@example.com")) == len(ids)
    assert redis.info("errorstats").get("errorstat_OOM") is None
    assert gateway.exit_code is None


def test_a_redis_that_fills_up_between_two_looks_is_no_error_of_ours(offload):
    """Full all at once: the script is refused by Redis itself, has written nothing, and the answer is the same 503."""
    offload.redis.stop()
    offload.redis = RedisServer(offload.folder / "small", options=["--maxmemory", "16mb"]).start()
    offload.environment["OFFLOAD_REDIS_URL"] = offload.redis.url
    offload.gateway()
    redis, client = offload.redis.client(), offload.client()
    redis.config_set("maxmemory", "1")
    refused = client.post("/v1/reports", json={"rows": 1})
    assert (refused.status_code, refused.json()["code"]) == (503, "redis.memory")
    assert refused.headers["Retry-After"]
    assert not redis.keys("offload:task:*")
    redis.config_set("maxmemory", "16mb")
    until(lambda: client.post("/v1/reports", json={"rows": 1}).status_code == 202, "posts to be accepted again")


@pytest.mark.parametrize(("path", "content", "headers"), [
    ("/v1/images", b"x" * 3_000_000, JPEG),
    ("/v1/reports", b"x" * 3_000_000, {"Content-Type": "application/json"}),
])  # fmt: skip
def test_bodies_over_the_limit_are_refused_under_load(offload, path, content, headers):
    offload.gateway({"OFFLOAD_UPLOAD_LIMIT_BYTES": "1000000", "OFFLOAD_BODY_LIMIT_BYTES": "1000000"})

    async def pieces():
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    async def run() -> list[int]:
        async with httpx.AsyncClient(base_url=offload.url, timeout=60) as client:
            sent = [client.post(path, content=pieces(), headers=headers) for _ in range(20)]
            return [
                one.status_code if isinstance(one, httpx.Response) else 0
                for one in await asyncio.gather(*sent, return_exceptions=True)
            ]

    # 0: the connection was closed while the client was still sending.
    assert set(asyncio.run(run())) <= {413, 0}
    assert not list((offload.blobs / "uploads").rglob("original"))
    assert offload.client().post("/v1/reports", json={"rows": 1}).status_code == 202


def slow(offload, start: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", offload.port), timeout=30)
    connection.sendall(start)
    return connection


BODY = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n%s"


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (b"", b""),
        (b"POST /v1/images HTTP/1.1\r\nHost: x\r\nX-Sl", b""),
        (BODY % (b"/v1/images", b"image/jpeg", b"short"), b"408"),
        (BODY % (b"/v1/emails", b"application/json", b"{"), b"408"),
        (BODY % (b"/v1/images", b"multipart/form-data; boundary=b", b"--b\r\n"), b"408"),
    ],
)
def test_slow_clients_are_let_go_and_others_are_served_meanwhile(offload, start, answer):
    # Long enough for a client of ours that is slow because the machine is.
    offload.gateway({"OFFLOAD_HEADER_TIMEOUT_SECONDS": "6", "OFFLOAD_BODY_IDLE_SECONDS": "6"})
    connections = [slow(offload, start) for _ in range(200)]
    assert {one.status_code for one in post_all(offload, [{}] * 50)} == {202}
    for connection in connections:
        received = received_until_closed(connection)
        assert answer in received.partition(b"\r\n")[0]
        assert received or not answer
        if answer:
            assert b"request.timeout" in received
            assert b"connection: close" in received.lower()
        connection.close()
    assert not list((offload.blobs / "uploads").rglob("original"))


def test_a_body_that_trickles_is_ended_too(offload):
    """Never still for long enough, and yet never done: the whole has a limit as well."""
    offload.gateway({"OFFLOAD_BODY_IDLE_SECONDS": "2", "OFFLOAD_BODY_TIMEOUT_SECONDS": "3"})
    received = b""
    deadline = time.monotonic() + 30
    with slow(offload, BODY % (b"/v1/images", b"image/jpeg", b"")) as connection:
        connection.settimeout(0.3)
        # What comes after the status may be lost: the client still sends into a connection that is closed.
        while b"\r\n" not in received and time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
                received += connection.recv(65_536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")
