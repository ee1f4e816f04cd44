"""The OpenAPI document is true: schemathesis finds nothing, and a generator makes a client of it that works."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from devstack.waiting import until
from gateway import auth
from gateway.tasks import outputs
from offload_core.records import TERMINAL

from .conftest import photo

# The examples of each operation: `make fuzz` asks for 220, more than 5,000 cases. A seed makes a finding come again.
MAX_EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "25")
SEED = os.environ.get("FUZZ_SEED", "20261125")


# What no schema says: two requests of one key that differ are refused, a cursor comes from the page before, a file of
# another format is refused at once, a time is within 30 days and no second one beside a delay, and of two ways to say
# a thing one is taken. What follows a batch is a task that there is.
HOOKS = """
import uuid
import schemathesis
from schemathesis.core.parameters import ParameterLocation

def fill_in_schedule(case):
    # One time of two, of a zone and within bounds that there are; a span of the past; a task that there is.
    path, left_out = case.operation.path, {"cron", "time_zone", "starts_at", "ends_at"}
    case.body = {name: value for name, value in case.body.items() if name not in left_out}
    if path.endswith("/backfill"):
        case.body |= {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:01:00Z"}
    elif path.endswith(("/{name}", "/preview")):
        case.body["every_seconds"] = 60
    if path.endswith("/{name}"):
        case.body |= {"task": "report.render.v1", "input": {"rows": 1}}

@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.meta and case.meta.components.get(ParameterLocation.BODY)
    if body and body.mode.is_positive and isinstance(case.body, dict):
        if case.operation.path.startswith("/v1/schedules"):
            fill_in_schedule(case)
        ends = {name: "2999-01-01T00:00:00Z" for name in ("until", "expires_at") if case.body.get(name)}
        if ends:
            # What ends lies ahead.
            case.body = case.body | ends
    if case.meta is None or not all(
        part.mode.is_positive for part in [case.meta.generation, *case.meta.components.values()]
    ):
        return
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    for name in ("If-Match", "If-None-Match"):
        (case.headers or {}).pop(name, None)
    if case.query:
        for name in ("cursor", "after", "before", "run_at"):
            case.query.pop(name, None)
    if isinstance(case.body, dict):
        left_out = {"run_at"} | ({"body_base64"} if "json" in case.body else set())
        if case.body.get("method") in ("GET", "HEAD"):
            left_out |= {"json", "body_base64"}
        if left_out & set(case.body):
            # Other cases are made of the same object. It is checked again: a file is empty until it is sent.
            body = {name: value for name, value in case.body.items() if name not in left_out}
            case.body = body | {"file": "x"} if body.get("file") == "" else body
        follow_ups = {name: value for name, value in case.body.items() if name.startswith("on_") and value}
        if follow_ups:
            case.body = case.body | {
                name: {"task": "report.render.v1", "input": {"rows": 1}} for name in follow_ups
            }

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode()

@schemathesis.hook
def filter_query(context, query):
    # A target of more than 8 kB is refused before anybody looks at it: 414.
    return len(repr(query)) < 600

@schemathesis.hook
def filter_body(context, body):
    return "%PDF" not in repr(body)
"""


@pytest.mark.timeout(1800)
def test_schemathesis_finds_nothing(offload):
    key, line = auth.new_key("tester", ["tasks", "operator", "admin"])
    offload.gateway(
        {
            "OFFLOAD_DEVELOPMENT_MODE": "false",
            "OFFLOAD_API_KEYS": line,
            "OFFLOAD_QUEUE_LIMIT": "1000000",
            "OFFLOAD_DELAYED_LIMIT": "1000000",
            # A disk that stalls beside other tests is no error of the API: 503 is right then.
            "OFFLOAD_REDIS_TIMEOUT_SECONDS": "20",
        }
    )
    offload.worker("image_worker")
    offload.worker("mail_worker")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{offload.url}/openapi.json",
        # A stream of events has no end to wait for.
        "--exclude-path-regex", "/events$",
        # A DELETE cancels a task, which is there to be looked at afterwards.
        "--checks", "all", "--exclude-checks", "use_after_free", "--max-examples", MAX_EXAMPLES, "--seed", SEED,
        "--workers", "2", "--no-color", "--suppress-health-check", "all", "--header", f"Authorization: Bearer {key}",
    ]  # fmt: skip
    (Path(offload.folder) / "one_key_each.py").write_text(HOOKS)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "one_key_each", "PYTHONPATH": str(offload.folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=offload.folder, env=environment)
    (Path(offload.folder) / "schemathesis.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    metrics = httpx.get(f"{offload.url}/metrics").text
    assert 'offload_problems_total{code="internal"}' not in metrics


def test_every_status_and_body_is_declared(offload):
    offload.gateway()
    document = httpx.get(f"{offload.url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            if path.startswith("/v1/"):
                assert operation["security"], where
                assert {"401", "503"} <= set(operation["responses"]), where
            for status, response in operation["responses"].items():
                if status in {"204", "304"}:
                    continue
                for media_type, content in response["content"].items():
                    assert content["schema"], (where, status)
                    if media_type == "application/json":
                        assert content["schema"]["$ref"], (where, status)
                    if int(status) >= 400 and path.startswith("/v1/"):
                        assert media_type == "application/problem+json", (where, status)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content["schema"], where
    assert "HTTPValidationError" not in str(document)


def test_a_generated_client_runs_the_photo_chain(offload, tmp_path, monkeypatch):
    """openapi-python-client reads the whole document, and what it writes posts a photo and fetches what came of it."""
    offload.gateway()
    offload.worker("image_worker")
    offload.worker("mail_worker")
    document = tmp_path / "openapi.json"
    document.write_text(httpx.get(f"{offload.url}/openapi.json").text)
    command = [
        sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none",
        "--output-path", str(tmp_path / "made_client"), "--fail-on-warning",
    ]  # fmt: skip
    # To the generator a file is a file.
    files = ["*/*", "application/x-ndjson", *sorted(outputs.SHOWN - {"application/json"})]
    overrides = "".join(f'  "{one}": application/octet-stream\n' for one in files)
    (tmp_path / "config.yml").write_text(f"post_hooks: []\ncontent_type_overrides:\n{overrides}")
    made = subprocess.run(
        [*command, "--config", str(tmp_path / "config.yml")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = Path(tmp_path / "made_client" / "api" / "tasks")
    names = {file.stem.partition("_v1_")[0]: file.stem for file in tasks.glob("*.py")}
    post, show, fetch = (
        importlib.import_module(f"made_client.api.tasks.{names[name]}")
        for name in ("post_image", "get_task", "get_output")
    )
    upload = importlib.import_module("made_client.types").File(payload=io.BytesIO(photo()))
    with importlib.import_module("made_client").Client(base_url=offload.url) as client:
        accepted = post.sync(client=client, body=upload, width=160, thumbnail=40, offload_notify="ann@example.com")
        assert show.sync(accepted.task_id, client=client).kind == "image"
        until(lambda: show.sync(accepted.task_id, client=client).state in TERMINAL, "the task's end")
        task = show.sync(accepted.task_id, client=client)
        assert (task.task_id, task.state, task.error) == (accepted.task_id, "SUCCESS", None)
        assert [step.state for step in task.steps] == ["SUCCESS"] * 3
        for output in task.links.outputs:
            file = fetch.sync_detailed(accepted.task_id, output.name, client=client)
            assert len(file.content) == output.size_bytes
        missing = show.sync(str(uuid.uuid4()), client=client)
        assert missing.code == "task.not_found"
    assert len(offload.smtp.to("ann@example.com")) == 1
