"""Schemathesis against the running gateway: whatever the OpenAPI lets one send, and more, is no server error."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from devstack.waiting import until


@pytest.mark.timeout(300)
def test_nothing_that_can_be_sent_is_a_server_error(offload):
    offload.gateway({"OFFLOAD_RATE_LIMIT_PER_SECOND": "0", "OFFLOAD_QUEUE_LIMIT": "1000000"})
    offload.worker("image_worker")
    offload.worker("mail_worker")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{offload.url}/openapi.json",
        "--checks", "not_a_server_error", "--max-examples", "40", "--workers", "2", "--no-color",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=offload.folder)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    until(offload.is_quiet, "all that was accepted to be done", seconds=120)
    metrics = httpx.get(f"{offload.url}/metrics").text
    assert 'offload_problems_total{code="internal"}' not in metrics
