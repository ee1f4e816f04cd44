"""k8s/*.yaml without Helm: accepted as they stand, and working with the lab's addresses."""

from __future__ import annotations

import hashlib
import re
import secrets

import pytest
import yaml

from devstack.servers import S3Server

from .cluster import CHART, OUTSIDE, ROOT, Client, kubectl, namespace, render, run
from .conftest import REGISTRY, SERVICES
from .test_values import ALL

KEY = "offload_" + secrets.token_hex(32)


def secret(name: str, namespace_: str, **values: str) -> None:
    literals = [f"--from-literal={key.replace('_', '-')}={value}" for key, value in values.items()]
    kubectl("-n", namespace_, "create", "secret", "generic", name, *literals)


def common_secrets() -> dict[str, str]:
    return {
        "api_key": KEY,
        "api_keys": f"default:{hashlib.sha256(KEY.encode()).hexdigest()}:operator,tasks",
        "link_secret": secrets.token_hex(32),
        "redis_password": secrets.token_hex(32),
    }


def filled_in(variant: str, namespace_: str, images: list[str], changes: dict[str, str]) -> str:
    """Return a manifest with the images by digest, another namespace's names, and addresses that exist."""
    text = (ROOT / "k8s" / f"{variant}.yaml").read_text()
    digests = dict(re.findall(r"images\.(\w+)\.digest=(\S+)", " ".join(images)))
    for service, key in SERVICES.items():
        text = re.sub(rf"ghcr\.io/offload/{service}:[\d.]+", f"{REGISTRY}/offload/{service}@{digests[key]}", text)
    text = text.replace(".offload.svc", f".{namespace_}.svc")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def gateway(namespace_: str) -> Client:
    address = kubectl("-n", namespace_, "get", "service", "offload-gateway", "-o", "jsonpath={.spec.clusterIP}")
    return Client(f"http://{address}", KEY)


@pytest.mark.parametrize("variant", ["minimal", "production"])
def test_the_api_server_accepts_them_strictly(variant):
    namespace("offload")
    try:
        said = kubectl(
            "-n",
            "offload",
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            str(ROOT / "k8s" / f"{variant}.yaml"),
        )
        assert said.count("created (server dry run)") > 15
        assert "arning" not in said
    finally:
        kubectl("delete", "namespace", "offload", "--wait=false")


def test_all_that_can_be_switched_on_is_accepted_too():
    definitions = ROOT.parent / "shared" / "lab" / "crds"
    if not definitions.exists():
        pytest.skip("no definitions of monitors and routes at hand")
    kubectl("apply", "--server-side", "-f", str(definitions))
    namespace("offload")
    try:
        # Without the test's pod: its service account is not really there.
        manifests = render(*ALL, "--skip-tests")
        said = kubectl("-n", "offload", "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifests)
        for kind in ("servicemonitor", "podmonitor", "httproute", "ingress", "scaledobject", "horizontalpodautoscaler"):
            assert kind in said, kind
        # And Helm sees by itself that they are there.
        switches = "gateway.httpRoute.enabled=true,gateway.httpRoute.parentRefs[0].name=public"
        switches += ",monitoring.serviceMonitor.enabled=true"
        run("helm", "install", "x", str(CHART), "-n", "offload", "--dry-run=server", "--set", switches)
    finally:
        kubectl("delete", "namespace", "offload", "--wait=false")
        kubectl("delete", "-f", str(definitions), "--wait=false")


def rolled_out(name: str) -> None:
    for kind in ("deployment", "statefulset"):
        for item in kubectl("-n", name, "get", kind, "-o", "name").split():
            if item.endswith(("worker-image", "worker-mail")) and "production" in name:
                continue  # KEDA's: at zero until there is work
            kubectl("-n", name, "rollout", "status", item, "--timeout=120s")


def test_minimal_works(images, report):
    name = "offload-minimal"
    namespace(name)
    try:
        secret(
            "offload-secrets",
            name,
            **common_secrets(),
            s3_access_key_id="offload",
            s3_secret_access_key=secrets.token_hex(20),
        )
        kubectl("-n", name, "apply", "--validate=strict", "-f", "-", stdin=filled_in("minimal", name, images, {}))
        rolled_out(name)
        with gateway(name) as client:
            assert client.post_photo(), client.statuses
            (task,) = client.wait_all(60).values()
            assert task["state"] == "SUCCESS"
        report.add("Manifests", "k8s/minimal.yaml by kubectl", "Ready, and a chain goes through")
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def test_production_works_with_servers_outside(images, outside, report):
    name = "offload-production"
    namespace(name)
    try:
        values = common_secrets() | {
            "redis_password": outside.redis_password,
            "s3_access_key_id": S3Server.access_key, "s3_secret_access_key": S3Server.secret_key,
            "smtp_username": "offload", "smtp_password": outside.smtp_password,
        }  # fmt: skip
        secret("offload-secrets", name, **values)
        kubectl(
            "-n", name, "create", "secret", "generic", "offload-redis-ca", f"--from-file=ca.crt={outside.authority}"
        )
        changes = {
            "redis.example.com": OUTSIDE, "https://s3.example.com": f"http://{OUTSIDE}:9000",
            "192.0.2.10/32": f"{OUTSIDE}/32", "192.0.2.20/32": f"{OUTSIDE}/32", "192.0.2.30/32": f"{OUTSIDE}/32",
            "smtp.example.com": OUTSIDE, "port: 443": "port: 9000",
        }  # fmt: skip
        text = filled_in("production", name, images, changes)
        # The mail server outside speaks no TLS.
        parts = []
        for item in yaml.safe_load_all(text):
            for container in item.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                for one in container["env"]:
                    if one["name"] == "OFFLOAD_SMTP_SECURITY":
                        one["value"] = "none"
                container["resources"]["requests"] = {"cpu": "10m", "memory": "64Mi"}
            parts.append(item)
        kubectl("-n", name, "apply", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(parts))
        rolled_out(name)
        with gateway(name) as client:
            assert client.post_photo(), client.statuses
            (task,) = client.wait_all(90).values()
            assert task["state"] == "SUCCESS", task
            assert outside.ledger.read_text().split() == list(client.accepted.values())
        autoscalers = kubectl("-n", name, "get", "hpa", "-o", "name").split()
        assert len(autoscalers) == 4, "the gateway's and three fleets'"
        report.add(
            "Manifests",
            "k8s/production.yaml with Redis (TLS), S3 and SMTP outside",
            "Ready; a chain goes through, from a fleet at zero",
        )
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
