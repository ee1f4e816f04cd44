"""Alerts: each fires for its fault and ends with it, by Prometheus's own unit tests and for real faults."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from devstack.processes import Process
from devstack.servers import free_port
from devstack.waiting import until

from .conftest import JPEG

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "charts" / "offload" / "files" / "alerts.yaml"
# The rules as they are, but for their times: a test waits for seconds where people wait for minutes.
FASTER = (
    (r"for: \d+m", "for: 1s"), (r"\[15m\]", "[20s]"), (r"age_seconds(\)?) > \d+", r"age_seconds\1 > 3"),
    (r"\) > 20\n", ") > 3\n"),
)  # fmt: skip
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: offload
    static_configs: [{{targets: ["{target}"]}}]
"""


def binary(name: str) -> str:
    """Return where a program of the Debian package `prometheus` is."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} on PATH: apt-get install prometheus")
    return found


def test_each_alert_fires_for_what_it_is_about_and_ends(tmp_path):
    for file in (RULES, HERE / "alert_tests.yaml"):
        shutil.copy(file, tmp_path)
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alert_tests.yaml"]):
        done = subprocess.run([binary("promtool"), *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus that scrapes a gateway each second."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir()
        rules = RULES.read_text()
        for pattern, text in FASTER:
            rules = re.sub(pattern, text, rules)
        (folder / "alerts.yaml").write_text(rules)
        (folder / "prometheus.yaml").write_text(CONFIG.format(target=target))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.process = Process(
            "prometheus",
            [
                binary("prometheus"), f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            folder / "prometheus.log",
            {},
        )  # fmt: skip
        self.process.wait_for_http(f"{self.url}/-/ready")

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire, each with its queue where it is about one."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts").json()["data"]["alerts"]
        labels = [one["labels"] for one in alerts if one["state"] == "firing"]
        return {" ".join(filter(None, (one["alertname"], one.get("queue")))) for one in labels}

    def fires(self, name: str) -> None:
        until(lambda: name in self.firing(), f"{name} to fire", seconds=60)

    def ends(self, name: str) -> None:
        until(lambda: name not in self.firing(), f"{name} to end", seconds=60)


@pytest.fixture
def prometheus(offload, tmp_path) -> Iterator[Prometheus]:
    offload.gateway()
    made = Prometheus(tmp_path / "prometheus", offload.url.removeprefix("http://"))
    yield made
    made.process.kill()


def test_faults_raise_their_alerts_and_end_them(offload, prometheus):
    client, redis = offload.client(), offload.redis.client()
    # Nobody works on health checks here.
    offload.environment["OFFLOAD_HEALTH_INTERVAL_SECONDS"] = "86400"
    beat = offload.service("beat")
    until(
        lambda: "offload_beat_look_age_seconds" in client.get("/metrics").text and not prometheus.firing(),
        "nothing to fire",
        seconds=60,
    )
    # No worker; and then one.
    client.post("/v1/reports", json={"rows": 1}).raise_for_status()
    prometheus.fires("OffloadQueueOld reports")
    prometheus.fires("OffloadQueueUnserved reports")
    client.put("/v1/queues/reports/pause", json={}).raise_for_status()
    prometheus.ends("OffloadQueueUnserved reports")
    client.delete("/v1/queues/reports/pause")
    offload.worker("image_worker")
    prometheus.ends("OffloadQueueOld reports")
    # Redis may lose what it was given; and then it may not.
    redis.config_set("appendfsync", "everysec")
    prometheus.fires("OffloadRedisUnsafe")
    redis.config_set("appendfsync", "always")
    prometheus.ends("OffloadRedisUnsafe")
    # Tasks fail; and then none does.
    until(
        lambda: (
            client.post("/v1/images", content=b"no image", headers=JPEG).is_success
            and "OffloadTasksFail" in prometheus.firing()
        ),
        "the failures to raise an alert",
        seconds=60,
    )
    prometheus.ends("OffloadTasksFail")
    # Beat dies; and there is another.
    beat.kill()
    prometheus.fires("OffloadBeatSilent")
    offload.service("beat")
    prometheus.ends("OffloadBeatSilent")
    # So does Redis.
    offload.redis.kill()
    prometheus.fires("OffloadRedisUnavailable")
    prometheus.fires("OffloadGatewayAbsent")
    offload.redis.start()
    for name in ("OffloadRedisUnavailable", "OffloadGatewayAbsent"):
        prometheus.ends(name)
