"""Servers whose certificates an authority of one's own has signed: one file is trusted by every client."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest

from devstack.certificates import Certificate, issue
from devstack.servers import TlsRedisServer
from devstack.smtp_sink import SmtpSink
from devstack.waiting import until

from .conftest import FAST, Offload

HEAD_OF_AN_OBJECT = """
import sys
from datetime import timedelta
import obstore
from obstore.store import S3Store
from offload_core import trust

trust.install(sys.argv[2] if sys.argv[2:] else None)
options = {"region": "x", "access_key_id": "x", "secret_access_key": "x"}
retries = {"max_retries": 0, "retry_timeout": timedelta(seconds=2)}
store = S3Store("bucket", endpoint=sys.argv[1], retry_config=retries, **options)
try:
    obstore.head(store, "object")
except FileNotFoundError:
    print("answered")
"""


class HttpsServer:
    """Answers 404 to everything, and notes what it was asked for."""

    def __init__(self, issued: Certificate) -> None:
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_GET = do_HEAD = do_POST = answer  # noqa: N815 -- the server looks for these names

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = issued.for_a_server().wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def issued(tmp_path):
    return issue(tmp_path / "certificates", "127.0.0.1")


@pytest.fixture
def https(issued):
    server = HttpsServer(issued)
    yield server
    server.stop()


# aiosmtpd leaves a plain stream behind when it turns a connection to TLS.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_redis_smtp_and_the_collector_are_trusted_by_one_file(tmp_path, tls_binary, issued, https):
    server = TlsRedisServer(tmp_path / "tls", issued, tls_binary).start()
    try:
        with Offload(tmp_path / "stack", FAST) as stack:
            stack.smtp.stop()
            stack.smtp = SmtpSink(stack.smtp.port, starttls=issued.for_a_server()).start()
            stack.environment |= {
                "OFFLOAD_CA_FILE": str(issued.authority),
                "OFFLOAD_REDIS_URL": server.url.partition("?")[0],
                "OFFLOAD_SMTP_SECURITY": "starttls",
                "OTEL_EXPORTER_OTLP_ENDPOINT": https.url,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            }
            stack.start_all()
            client = stack.client()
            task_id = stack.post_photo(client)
            assert stack.wait(client, task_id)["state"] == "SUCCESS"
            until(lambda: "/v1/traces" in https.asked, "spans to reach the collector")
    finally:
        server.stop()


def test_s3_is_trusted_by_it_too(issued, https):
    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", HEAD_OF_AN_OBJECT, https.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    assert said(str(issued.authority)) == "answered\n"
    assert said() == ""


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_file_without_authorities_ends_the_service_with_its_name(offload, tmp_path, content):
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    gateway = offload.service("gateway", settings={"OFFLOAD_CA_FILE": str(path)})
    until(lambda: gateway.exit_code, "the gateway to end")
    assert "OFFLOAD_CA_FILE" in gateway.output()
