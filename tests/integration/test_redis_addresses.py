"""Redis behind TLS, a password that needs quoting, an ACL user, and Sentinel with a failover."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
import redis

from devstack.certificates import issue
from devstack.processes import Process
from devstack.servers import FirstBytesServer, RedisServer, TlsRedisServer, free_port
from devstack.waiting import until

from .conftest import FAST, Offload
from .test_plain_celery import add, adopted

PASSWORD = "p@ss/w:rd #1?"


def start_all(stack: Offload, settings: dict[str, str]) -> str:
    """Start every service with these settings, and see a whole chain through."""
    stack.environment |= settings
    stack.start_all()
    client = stack.client()
    task_id = stack.post_photo(client)
    assert stack.wait(client, task_id)["state"] == "SUCCESS"
    assert client.get("/readyz").json()["checks"]["redis"] == "ok"
    return task_id


def test_tls_with_a_user_and_a_password(tmp_path, tls_binary):
    options = ["--user", "offload", "on", f">{PASSWORD}", "~offload:*", "&*", "+@all"]
    server = TlsRedisServer(tmp_path / "tls", issue(tmp_path, "127.0.0.1"), tls_binary, options=options).start()
    try:
        with Offload(tmp_path / "stack", FAST) as stack:
            login = {"OFFLOAD_REDIS_USERNAME": "offload", "OFFLOAD_REDIS_PASSWORD": PASSWORD}
            start_all(stack, {"OFFLOAD_REDIS_URL": server.url} | login)
            adopted(stack, tmp_path / "plain").wait_for(" ready.")
            assert add(stack, tmp_path / "plain").endswith(" 3")
            assert {client["user"] for client in server.client().client_list()} == {"default", "offload"}
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["rediss://127.0.0.1:{}/0", "rediss-sentinel://127.0.0.1:{}/0"])
def test_no_component_speaks_in_the_clear(tmp_path, url):
    """Every first byte on the wire is that of a TLS handshake, of every connection of every component."""
    listener = FirstBytesServer()
    settings = {
        "OFFLOAD_REDIS_URL": url.format(listener.port),
        "OFFLOAD_REDIS_PASSWORD": PASSWORD,
        "OFFLOAD_REDIS_SENTINEL_MASTER": "ours",
    }
    try:
        with Offload(tmp_path, FAST | settings) as stack:
            for start in (
                lambda: stack.service("image_worker"),
                lambda: stack.service("mail_worker"),
                lambda: stack.service("housekeeper"),
                lambda: stack.service("beat"),
                lambda: stack.gateway(wait=False),
            ):
                seen = len(listener.first_bytes)
                process = start()
                until(lambda seen=seen: len(listener.first_bytes) > seen + 2, "three connections", seconds=40)
                process.kill()
    finally:
        listener.stop()
    assert {data[:2] for data in listener.first_bytes} == {b"\x16\x03"}, listener.first_bytes


def test_a_certificate_that_cannot_be_trusted_is_refused_and_named(tmp_path, tls_binary):
    for name, expired in (("foreign", False), ("expired", True)):
        made = issue(tmp_path / name, "127.0.0.1", expired=expired)
        server = TlsRedisServer(tmp_path / name / "redis", made, tls_binary).start()
        trusted = made.authority if expired else issue(tmp_path / f"{name}-other", "127.0.0.1").authority
        try:
            with Offload(tmp_path / name / "stack", FAST) as stack:
                stack.environment["OFFLOAD_REDIS_URL"] = f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={trusted}"
                worker, beat, gateway = stack.service("image_worker"), stack.service("beat"), stack.gateway(wait=False)
                checks = until(lambda: answer(stack), "the gateway to answer", seconds=30)
                assert checks["redis"] == "certificate"
                for process in (worker, beat, gateway):
                    until(lambda process=process: "certificate" in process.output(), "the log to say so", seconds=30)
        finally:
            server.stop()


def answer(stack: Offload) -> dict[str, str] | None:
    try:
        return httpx.get(f"{stack.url}/readyz").json()["checks"]
    except httpx.HTTPError:
        return None


def test_a_wrong_password_is_named_and_is_not_an_outage(tmp_path):
    with Offload(tmp_path, FAST) as stack:
        stack.redis.client().config_set("requirepass", PASSWORD)
        stack.environment["OFFLOAD_REDIS_PASSWORD"] = "another"
        worker, gateway = stack.service("image_worker"), stack.gateway(wait=False)
        assert until(lambda: answer(stack), "the gateway to answer", seconds=30)["redis"] == "auth_failed"
        until(lambda: "(auth_failed)" in gateway.output(), "the gateway's log to say so")
        metrics = httpx.get(f"{stack.url}/metrics").text
        assert 'offload_redis_failing{cause="auth_failed"} 1.0' in metrics
        assert 'offload_dependency_up{dependency="redis"} 0.0' in metrics
        until(lambda: "invalid username-password pair" in worker.output(), "the worker's log to say so", seconds=30)


def test_sentinel_and_a_failover(tmp_path):
    with Offload(tmp_path / "stack", FAST) as stack:
        login = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        servers = [RedisServer(tmp_path / f"redis-{number}", options=login) for number in (1, 2)]
        first, second = servers
        sentinels: list[Process] = []
        try:
            for server in servers:
                server.url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/0"
                server.start()
            replica = second.client()
            replica.replicaof("127.0.0.1", first.port)
            until(lambda: replica.info("replication")["master_link_status"] == "up", "the replica to follow")
            ports = [free_port() for _ in range(3)]
            for port in ports:
                config = tmp_path / f"sentinel-{port}.conf"
                config.write_text(
                    f"port {port}\ndir {tmp_path}\nrequirepass sentinels\nsentinel sentinel-pass sentinels\n"
                    f"sentinel monitor ours 127.0.0.1 {first.port} 2\n"
                    f'sentinel auth-pass ours "{PASSWORD}"\n'
                    "sentinel down-after-milliseconds ours 1000\nsentinel failover-timeout ours 5000\n"
                )
                command = [first._binary, str(config), "--sentinel"]
                sentinels.append(Process(f"sentinel-{port}", command, tmp_path / f"sentinel-{port}.log", {}))
            asked = redis.Redis(port=ports[0], password="sentinels")

            def all_know_each_other() -> bool:
                try:
                    state = asked.sentinel_master("ours")
                except redis.RedisError:
                    return False
                return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1

            until(all_know_each_other, "the Sentinels to know each other", seconds=30)
            nodes = ",".join(f"127.0.0.1:{port}" for port in ports)
            start_all(
                stack,
                {
                    "OFFLOAD_REDIS_URL": f"sentinel://{nodes}/0",
                    "OFFLOAD_REDIS_PASSWORD": PASSWORD,
                    "OFFLOAD_REDIS_SENTINEL_MASTER": "ours",
                    "OFFLOAD_REDIS_SENTINEL_PASSWORD": "sentinels",
                },
            )
            # An adopted Celery application finds the primary as our services do.
            plain = adopted(stack, tmp_path / "plain")
            plain.wait_for(" ready.")
            assert add(stack, tmp_path / "plain").endswith(" 3")
            first.kill()
            until(lambda: replica.info("replication")["role"] == "master", "the failover", seconds=40)
            client = stack.client()

            def accepted() -> str | None:
                answer = client.post("/v1/reports", json={"rows": 5})
                return answer.json()["task_id"] if answer.status_code == 202 else None

            task_id = until(accepted, "posts to be accepted again", seconds=40)
            assert stack.wait(client, task_id, seconds=60)["state"] == "SUCCESS"
            assert add(stack, tmp_path / "plain").endswith(" 3")
            assert all(process.exit_code is None for process in stack.processes)
        finally:
            stack.stop()
            for process in sentinels:
                process.kill()
            for server in servers:
                server.stop()


def test_sentinel_without_a_name_is_refused(tmp_path):
    with Offload(tmp_path, FAST) as stack:
        process = stack.service("beat", settings={"OFFLOAD_REDIS_URL": "sentinel://127.0.0.1:26379/0"})
        until(lambda: process.exit_code is not None, "beat to end")
        assert "OFFLOAD_REDIS_SENTINEL_MASTER must be set" in process.output()


def test_a_worker_that_redis_forbids_its_work_ends_with_an_error(tmp_path):
    with Offload(tmp_path, FAST) as stack:
        client = stack.redis.client()
        client.acl_setuser("poor", enabled=True, passwords=["+x"], keys=["*"], commands=["+@connection"])
        settings = {"OFFLOAD_REDIS_USERNAME": "poor", "OFFLOAD_REDIS_PASSWORD": "x"}
        for module in ("image_worker", "mail_worker"):
            process = stack.service(module, settings=settings)
            until(lambda process=process: process.exit_code is not None, f"{module} to end", seconds=60)
            assert process.exit_code not in {0, None}, process.output()[-2000:]
