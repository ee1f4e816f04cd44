"""A default install needs nothing else, works with both Helms, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.waiting import until

from .cluster import OUTSIDE, ROOT, Release, kubectl, run


def the_readmes_requests(release: Release) -> str:
    """Run the README's calls of the API as they are printed, and return what they show."""
    (block,) = [
        block
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "curl" in block
    ]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ
        | {"OFFLOAD": f"http://{release.address('gateway')}", "OFFLOAD_KEY": release.secret("api-keys", "api-key")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_a_default_install_works_and_leaves_nothing(images, report, helm):
    release = Release(f"offload-{helm}", images, helm=helm).install()
    try:
        shown = run(helm, "test", "offload", "-n", release.namespace, "--logs", "--timeout", "4m")
        assert "Phase:          Succeeded" in shown
        assert "mailed" in shown
        notes = run(helm, "get", "notes", "offload", "-n", release.namespace)
        assert "MAIL GOES NOWHERE" in notes
        assert '"state":"REVOKED"' in the_readmes_requests(release)
        restarts = [
            status["restartCount"]
            for pod in json.loads(release.kubectl("get", "pods", "-o", "json"))["items"]
            for status in pod["status"]["containerStatuses"]
        ]
        assert set(restarts) == {0}
        run(helm, "uninstall", "offload", "-n", release.namespace, "--wait")
        kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
        of_the_namespace = {"endpoints", "endpointslices.discovery.k8s.io", "pods", "persistentvolumeclaims"}
        left = [
            line
            for kind in kinds
            if kind not in {"events", "events.events.k8s.io", "pods.metrics.k8s.io", *of_the_namespace}
            for line in release.kubectl("get", kind, "-o", "name", check=False).splitlines()
            if "/" in line and "kube-root-ca.crt" not in line and not line.endswith("/default")
        ]
        assert left == []

        def only_the_test_is_left() -> bool:
            return release.kubectl("get", "pods", "-o", "name").split() == ["pod/offload-test"]

        until(only_the_test_is_left, "all pods but the test's to be gone", seconds=90, pause_seconds=1)
        claims = release.kubectl("get", "pvc", "-o", "name").split()
        assert sorted(claims) == [
            "persistentvolumeclaim/data-offload-s3-0",
            "persistentvolumeclaim/data-offload-valkey-0",
        ]
        version = run(helm, "version", "--short").strip()
        report.add("Install", f"default values, Helm {version}", "ready, `helm test` passed, nothing left but PVCs")
    finally:
        release.delete()


def test_helm_test_fails_when_it_fails(images):
    # Nobody does the images: the test must say so, and end.
    release = Release("offload-broken", [*images, "--set", "workers.image=null,helmTest.timeoutSeconds=10"]).install()
    try:
        shown = run("helm", "test", "offload", "-n", release.namespace, "--logs", "--timeout", "2m", check=False)
        assert "FAILED: waited in vain for the task to end" in shown
        assert "Failed" in shown
    finally:
        release.delete()


def test_helm_test_with_a_mail_server_outside_ends_at_its_yes(images, tmp_path):
    ledger = tmp_path / "mails.txt"
    script = Path(__file__).parent / "slow_smtp.py"
    server = subprocess.Popen(
        ["ip", "netns", "exec", "lab-outside", sys.executable, str(script), OUTSIDE, "2526", "0", str(ledger)]
    )
    values = ["--set", f"smtp.host={OUTSIDE},smtp.port=2526,smtp.security=none,helmTest.recipient=ops@example.com"]
    release = Release("offload-mail-outside", [*images, *values]).install()
    try:
        until(ledger.exists, "the mail server outside")
        shown = run("helm", "test", "offload", "-n", release.namespace, "--logs", "--timeout", "4m")
        assert "the mail server has accepted the mail" in shown
        assert ledger.read_text().split() == ["ops@example.com"]
        assert release.pods("mailpit") == []
        assert "MAIL GOES NOWHERE" not in run("helm", "get", "notes", "offload", "-n", release.namespace)
    finally:
        server.kill()
        server.wait()
        release.delete()
