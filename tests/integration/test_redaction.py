"""What nobody should read who may read traces, logs and metrics: live links, addresses, keys."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from devstack.waiting import until
from gateway import auth
from offload_core.logs import redact

from .conftest import JPEG, photo

ADDRESS = "somebody.secret@example.com"


def test_no_link_no_address_and_no_key_is_in_traces_logs_or_metrics(offload):
    key, line = auth.new_key("shop", ["tasks", "operator"])
    offload.environment.update(
        {
            "OFFLOAD_DEVELOPMENT_MODE": "false",
            "OFFLOAD_API_KEYS": line,
            "OFFLOAD_LOG_LEVEL": "DEBUG",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
    )
    offload.start_all()
    shop = offload.client(headers={"Authorization": f"Bearer {key}"})
    anonymous = offload.client()
    for headers, query in (({}, f"&notify={quote(ADDRESS)}"), ({"Offload-Notify": ADDRESS}, "")):
        posted = shop.post(f"/v1/images?width=20{query}", content=photo(), headers=JPEG | headers)
        assert offload.wait(shop, posted.json()["task_id"])["state"] == "SUCCESS"
    bad = shop.post("/v1/images", params={"notify": ADDRESS}, content=b"no image", headers=JPEG)
    assert offload.wait(shop, bad.json()["task_id"])["state"] == "FAILURE"
    mail = until(
        lambda: [one for one in offload.smtp.to(ADDRESS) if "ready" in str(one.parsed["Subject"])], "the mail"
    )[0]
    link = re.search(r"http\S+token=\S+", mail.parsed.get_body(("plain",)).get_content())[0]
    token = urlsplit(link).query.removeprefix("token=")
    assert anonymous.get(link).status_code == 200
    assert anonymous.get(link[:-1] + ("A" if link[-1] != "A" else "B")).status_code == 403
    assert anonymous.get(f"/v1/images?token={token}", headers={"X-API-Key": key + "x"}).status_code == 405
    shop.post("/v1/emails", json={"to": ADDRESS, "subject": "Hello", "text": "x", "unknown": ADDRESS})
    until(lambda: any("outputs" in span.name for span in offload.otlp.spans), "the span of the output")
    metrics = shop.get("/metrics").text
    offload.stop()
    everything = {
        "traces and metrics": offload.otlp.dump.decode("latin-1"),
        "prometheus": metrics,
        **{process.name: process.output() for process in offload.processes},
    }
    for name, text in everything.items():
        assert text, name
        for secret in (ADDRESS, quote(ADDRESS), token, token.partition(".")[2], key, "somebody.secret"):
            assert secret not in text, (name, text[max(text.index(secret) - 200, 0) : text.index(secret) + 100])


def test_what_is_redacted():
    assert redact("to ann@example.com") == "to <address>"
    assert redact("notify=ann%40example.com") == "notify=<address>"
    assert redact("GET http://x/v1/tasks/1/outputs/a.jpg?token=123.abc-_d HTTP/1.1") == (
        "GET http://x/v1/tasks/1/outputs/a.jpg?<redacted> HTTP/1.1"
    )
    assert redact("/v1/images?notify=a%40b.example") == "/v1/images?<redacted>"
    assert redact("token=123.abc-_d") == "token=<redacted>"
    key, _ = auth.new_key("shop", ["tasks"])
    assert redact(f"Bearer {key}.") == "Bearer <key>."
    assert redact("image@host did run/image.resize.v1?") == "image@host did run/image.resize.v1?"
