"""Where the broker is: what the URL says is done, above all whether TLS is spoken."""

from __future__ import annotations

import ssl

import kombu
import pytest

from celery_leases import address
from celery_leases.options import InvalidOptionError
from devstack.certificates import issue
from devstack.servers import FirstBytesServer, RedisServer, TlsRedisServer
from devstack.waiting import until

TRANSPORT = "celery_leases:Transport"
SENTINEL = "celery_leases:SentinelTransport"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p%40ss@host:1/3", "leases+redis://user:**@host:1/3"),
        ("rediss://:secret@host/0", "leases+rediss://:**@host:6379/0"),
        ("redis://[fd00::1]:7/1", "leases+redis://[fd00::1]:7/1"),
        ("rediss://[fd00::1]", "leases+rediss://[fd00::1]:6379/"),
        ("socket://:secret@/run/redis.sock", "leases+socket://:**@/run/redis.sock"),
        ("localhost", "leases+redis://localhost:6379/"),
    ],
)
def test_a_url_is_shown_without_its_password_and_kept_by_a_clone(url, shown):
    connection = kombu.Connection(url, transport=TRANSPORT)
    assert connection.as_uri() == shown
    assert connection.clone().as_uri() == shown
    assert connection.clone().as_uri(include_password=True) == connection.as_uri(include_password=True)
    assert "secret" not in repr(address.resolve("rediss://:secret@host", address.PLAIN_SCHEMES))


@pytest.mark.parametrize(
    ("url", "use_ssl", "expected"),
    [
        ("redis://host", None, {}),
        ("redis://host", True, {"ssl_cert_reqs": "required"}),
        ("host", True, {"ssl_cert_reqs": "required"}),
        ("rediss://host", None, {"ssl_cert_reqs": "required"}),
        ("rediss://host", False, {"ssl_cert_reqs": "required"}),
        ("rediss://host?ssl_ca_certs=/ca", None, {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca"}),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", None, {"ssl_cert_reqs": "none"}),
        ("rediss://host", {"ssl_cert_reqs": ssl.CERT_NONE}, {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://host?ssl_check_hostname=False", None, {"ssl_cert_reqs": "required", "ssl_check_hostname": False}),
    ],
)
def test_the_scheme_decides_and_certificates_are_verified_unless_told_otherwise(url, use_ssl, expected):
    connection = kombu.Connection(url, transport=TRANSPORT, ssl=use_ssl)
    assert connection.transport.client.ssl == expected
    assert connection.clone().transport.client.ssl == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://a;redis://b", "one URL only"),
        (["redis://a", "redis://b"], "one URL only"),
        ("amqp://a", "must be one of redis, rediss"),
        ("redis://a?ssl_cert_reqs=none", "needs a scheme with TLS"),
        ("rediss://a?ssl_cert_reqs=maybe", "is not understood"),
        ("rediss://a?verify=1", "is not understood"),
        ("redis://a:70000", "out of range"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_connected(url, says):
    with pytest.raises(InvalidOptionError, match=says):
        _ = kombu.Connection(url, transport=TRANSPORT).transport


def test_broker_use_ssl_must_be_understood():
    with pytest.raises(InvalidOptionError, match="broker_use_ssl"):
        _ = kombu.Connection("redis://a", transport=TRANSPORT, ssl="yes").transport


@pytest.mark.parametrize(
    ("transport", "url", "use_ssl"),
    [
        (TRANSPORT, "rediss://:secret@127.0.0.1:{}/0", None),
        (TRANSPORT, "redis://:secret@127.0.0.1:{}/0", True),
        (SENTINEL, "rediss-sentinel://:secret@127.0.0.1:{}/0", None),
    ],
)
def test_the_first_bytes_are_those_of_tls(transport, url, use_ssl):
    listener = FirstBytesServer()
    try:
        options = {"master_name": "ours", "sentinel_kwargs": {"password": "secret"}, "socket_timeout": 1}
        connection = kombu.Connection(
            url.format(listener.port), transport=transport, transport_options=options, ssl=use_ssl
        )
        refused = pytest.raises(Exception, match=r"(?i)closed|reset|EOF|SSL|no master|timed out|connect")
        with refused:
            connection.default_channel.client.ping()
        with refused:
            connection.default_channel.queue_declare("q")
        with refused:
            connection.default_channel.holder.client.ping()
    finally:
        listener.stop()
    assert listener.first_bytes
    assert {data[:2] for data in listener.first_bytes} == {b"\x16\x03"}, listener.first_bytes


def test_a_worker_and_a_producer_on_a_server_that_speaks_tls_alone(cluster, tmp_path, tls_binary):
    server = TlsRedisServer(tmp_path / "tls", issue(tmp_path, "127.0.0.1"), tls_binary).start()
    cluster.server = server
    cluster.environment["RESULT_BACKEND"] = f"{server.url}&ssl_cert_reqs=required"
    try:
        cluster.worker("--concurrency", "1")
        app = cluster.app()
        app.conf.result_backend = cluster.environment["RESULT_BACKEND"]
        app.send_task("leases_app.effect", ["secured"])
        until(lambda: cluster.noted("done")["secured"], "the task to run")
    finally:
        cluster.stop()
        server.stop()


@pytest.mark.parametrize("expired", [True, False])
def test_a_certificate_that_cannot_be_trusted_is_refused(tmp_path, tls_binary, expired):
    made = issue(tmp_path, "127.0.0.1", expired=expired)
    server = TlsRedisServer(tmp_path / "tls", made, tls_binary).start()
    trusted = f"?ssl_ca_certs={made.authority}" if expired else ""
    try:
        connection = kombu.Connection(f"rediss://127.0.0.1:{server.port}/0{trusted}", transport=TRANSPORT)
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            connection.default_channel.client.ping()
    finally:
        server.stop()


def test_a_unix_socket(tmp_path):
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path / "redis", options=["--unixsocket", str(path)]).start()
    try:
        connection = kombu.Connection(f"socket://{path}", transport=TRANSPORT)
        assert connection.default_channel.client.ping()
        assert connection.default_channel.holder.client.ping()
    finally:
        server.stop()
