"""What the cluster's tests share: the lab, images by digest, releases, the report."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .cluster import ROOT, Release, kubectl, restarts, run
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = {"gateway": "gateway", "image-worker": "imageWorker", "mail-worker": "mailWorker", "beat": "beat"}
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


def build(service: str, tag: str, *arguments: str) -> str:
    """Build and push an image; returns its digest."""
    name = f"{REGISTRY}/offload/{service}:{tag}"
    run("docker", "build", "-f", f"services/{service}/Dockerfile", "-t", name, *arguments, ".", seconds=600)
    pushed = run("docker", "push", name, seconds=300)
    found = re.search(r"digest: (sha256:[0-9a-f]{64})", pushed)
    assert found, pushed
    return found[1]


def _values(tag: str) -> list[str]:
    values = ["--set", f"images.registry={REGISTRY}"]
    for service, key in SERVICES.items():
        digest = build(service, tag, "--build-arg", f"REVISION={tag}")
        values += ["--set", f"images.{key}.digest={digest}"]
    return values


@pytest.fixture(scope="session")
def images() -> list[str]:
    """Values that name this tree's images by their digests."""
    return _values("test-a")


@pytest.fixture(scope="session")
def other_images() -> list[str]:
    """The same for images that differ in their labels alone: another version to roll out."""
    return _values("test-b")


@pytest.fixture(scope="session")
def scaled(images: list[str]) -> Iterator[Release]:
    """A release that KEDA scales, for all tests that load, kill and upgrade one."""
    release = Release("offload-scaled", [*images, "-f", str(SMALL)]).install()
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
