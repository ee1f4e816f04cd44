"""What the chart renders and what it refuses: no cluster is asked, only Helm."""

from __future__ import annotations

import functools
import json
import os
import re
import sys

import pytest
import yaml

from offload_contracts.contract import Queue

from .cluster import CHART, ROOT, SEED, render, run

KEDA = ("--api-versions", "keda.sh/v1alpha1/ScaledObject")
EXTERNAL = (
    "--set", "redis.url=redis://192.0.2.10:6379/2,s3.bucket=blobs,s3.endpoint=http://192.0.2.20:9000,smtp.host=192.0.2.30",
)  # fmt: skip


def parsed(text: str) -> list[dict]:
    # By the parser in C: the one in Python takes longer than Helm.
    return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]


@functools.cache
def objects(*arguments: str) -> list[dict]:
    return parsed(render(*arguments))


def one(kind: str, name: str, *arguments: str) -> dict:
    found = [
        item for item in objects(*arguments) if (item["kind"], item["metadata"]["name"]) == (kind, f"offload-{name}")
    ]
    assert len(found) == 1, [(item["kind"], item["metadata"]["name"]) for item in objects(*arguments)]
    return found[0]


def pod_specs(*arguments: str) -> dict[str, dict]:
    """Return every pod's spec, by the name of what makes it."""
    return {
        item["metadata"]["name"]: item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
        for item in objects(*arguments)
        if item["kind"] in {"Deployment", "StatefulSet", "Pod"}
    }


REFUSED = {
    # Rules over several values: the key and the remedy.
    "keda.enabled=true,workers.image.replicas=3": ("workers.image.replicas: 3", "Remove it"),
    "workers.image.drainSeconds=450": ("workers.image.terminationGracePeriodSeconds: 450", "at least drainSeconds 450"),
    "workers.image.hardTimeLimitSeconds=420": ("workers.image.drainSeconds: 420", "more than hardTimeLimitSeconds 420"),
    "workers.image.softTimeLimitSeconds=360": (
        "workers.image.softTimeLimitSeconds: 360",
        "less than hardTimeLimitSeconds",
    ),
    "workers.image.concurrency=4,workers.image.resources.limits.memory=512Mi": (
        "workers.image.resources.limits.memory: 512Mi",
        "of 4 tasks at once",
        "lower concurrency",
    ),
    "lease.seconds=10,lease.sweepSeconds=4": ("lease.seconds: 10", "set it to 12 or more"),
    "redis.url=redis+cluster://redis:6379": ("redis.url", "is a Redis Cluster", "Use one primary"),
    "redis.url=redis://:secret@redis:6379/0": ("redis.url", "without credentials"),
    "redis.url=redis.example.com": ("redis.url", "must be redis://"),
    "redis.url=sentinel://192.0.2.1:26379": ("redis.sentinelMaster: must be set",),
    "valkey.enabled=false": ("redis.url: must be set when valkey.enabled is false",),
    "seaweedfs.enabled=false": (
        "workers.image.needs has s3, but the release has no S3",
        "workers.housekeeping.needs",
        "set s3.bucket",
    ),
    "mailpit.enabled=false": ("workers.mail.needs has smtp, but the release has no mail server", "set smtp.host"),
    "workers.image.queues=null": ("workers.image.queues: must name a queue",),
    "workers.image.image=gpuWorker": ("workers.image.image: must be a name in images (beat, gateway, housekeeper,",),
    "development.reload=true,workers.mail.command=null": ("workers.mail.command: must be set",),
    "workers.image.keda.minReplicas=20": ("workers.image.keda.minReplicas: 20 is more than maxReplicas 10",),
    "workers.image=null,workers.mail=null,workers.http=null,workers.housekeeping=null": ("workers: there is no fleet",),
    ",".join(f"workers.{fleet}.enabled=false" for fleet in ("image", "mail", "http", "housekeeping")): (
        "workers: there is no fleet",
    ),
    "gateway.shutdownSeconds=60": ("gateway.terminationGracePeriodSeconds: 45", "preStopSeconds 5"),
    "gateway.autoscaling.enabled=true,gateway.replicas=2": ("gateway.replicas: 2 is fixed",),
    "redis.url=redis://redis.example.com:6379": ("networkPolicy.redis.cidrs: must be set", "redis.example.com"),
    "s3.bucket=blobs": ("networkPolicy.s3.cidrs: must be set", "s3.amazonaws.com"),
    "smtp.host=smtp.example.com": ("networkPolicy.smtp.cidrs: must be set", "smtp.example.com"),
    "telemetry.otlpEndpoint=http://collector:4318": ("networkPolicy.otlp.cidrs: must be set", "collector"),
    "redis.acl=true,redis.url=redis://192.0.2.1:6379": ("existingSecrets.redis: must be set",),
    "redis.username=me": ("redis.username", "Set redis.url"),
    "existingSecrets.apiKeys=mine,gateway.apiKeys={a:" + "0" * 64 + "}": ("gateway.apiKeys", "under its key api-keys"),
    "keda.enabled=true": ("keda.enabled: true needs keda.sh/v1alpha1/ScaledObject", "helm install keda"),
    "monitoring.serviceMonitor.enabled=true": ("monitoring.serviceMonitor.enabled", "Install the Prometheus Operator"),
    "monitoring.podMonitor.enabled=true": ("monitoring.podMonitor.enabled", "Install the Prometheus Operator"),
    "gateway.httpRoute.enabled=true": (
        "gateway.httpRoute.enabled",
        "Install the Gateway API",
        "gateway.httpRoute.parentRefs: must name a Gateway",
    ),
    "gateway.ingress.enabled=true": ("gateway.ingress.hosts: must name a host",),
    "enabled=false": ("enabled: false is for the `condition`",),
    "redis.url=rediss-sentinel://192.0.2.1:26379": ("redis.sentinelMaster: must be set",),
    "redis.url=rediss://redis.example.com:6379/0?ssl_cert_reqs=none": ("redis.url", "must be redis://"),
    # Types, ranges and unknown keys: the schema.
    "beat.replicas=2": ("/beat", "'replicas' not allowed"),
    "gateway.replcas=2": ("/gateway", "'replcas' not allowed"),
    "workers.image.concurrncy=2": ("/workers/image",),
    "workers.image.service=image-worker": ("/workers/image",),
    "workers.image.needs={gpu}": ("/workers/image/needs",),
    "gateway.replicas=0": ("/gateway/replicas",),
    "smtp.port=70000": ("/smtp/port",),
    "logLevel=LOUD": ("/logLevel",),
    "lease.seconds=0.5": ("/lease/seconds",),
    "nonsense=1": ("'nonsense' not allowed",),
}


@pytest.mark.parametrize(
    ("memory", "concurrency", "expected"),
    [("4608Mi", 2, 2080 * 2**20), ("1Gi", 2, 288 * 2**20), ("2G", 1, 2_000_000_000 - 320 * 2**20)],
)
def test_the_memory_of_an_image_is_what_the_pods_limit_leaves(memory, concurrency, expected):
    values = f"workers.image.resources.limits.memory={memory},workers.image.concurrency={concurrency}"
    (container,) = one("Deployment", "worker-image", "--set", values)["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["OFFLOAD_TASK_MEMORY_LIMIT_BYTES"] == str(expected)


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("values", REFUSED)
def test_values_that_cannot_work_are_refused_with_key_and_remedy(values, helm):
    said = render("--set", values, check=False, helm=helm)
    assert "kind: Deployment" not in said, "it was rendered"
    assert said.startswith("Error") or "Error:" in said
    for part in REFUSED[values]:
        assert part in said or (part.startswith("/") and part.strip("/").replace("/", ".") in said), said


def test_all_that_is_wrong_is_told_at_once():
    said = render("--set", "valkey.enabled=false,seaweedfs.enabled=false", check=False)
    assert "redis.url" in said
    assert "s3.bucket" in said


def test_the_schema_is_closed_at_every_level():
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    open_paths = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                open_paths.append(path)
            for key, value in node.items():
                walk(value, f"{path}/{key}")
        elif isinstance(node, list):
            for value in node:
                walk(value, path)

    walk(schema, "")
    # A variable of the environment is checked by the API server beyond its name.
    assert open_paths == []
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"])


def test_it_works_as_a_dependency(tmp_path):
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    run("cp", "-r", str(CHART), str(parent / "charts" / "offload"))
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 1.0.0\n")
    (parent / "values.yaml").write_text(
        "global: {imageRegistry: registry.test, anything: else}\n"
        f"offload: {{logLevel: DEBUG, secrets: {{seed: {SEED}}}}}\n"
    )
    said = run("helm", "template", "x", str(parent), "--kube-version", "1.35.0")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert f"image: registry.test/offload/gateway:{version}" in said


def test_two_under_other_names_behind_conditions_with_anchors_and_pull_secrets(tmp_path):
    """What an umbrella chart does with its dependencies."""
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    run("cp", "-r", str(CHART), str(parent / "charts" / "offload"))
    dependency = "  - {{name: offload, version: '*', alias: {0}, condition: {0}.enabled}}\n"
    (parent / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n"
        + "".join(dependency.format(name) for name in ("jobs", "thumbs", "spare"))
    )
    (parent / "values.yaml").write_text(
        f"x-secrets: &secrets {{seed: {SEED}}}\n"
        "global: {imagePullSecrets: [{name: registry}, plain]}\n"
        "spare: {enabled: false}\n"
        "jobs: {enabled: true, secrets: *secrets, workers: {image: {enabled: false}}}\n"
        "thumbs:\n  secrets: *secrets\n  x-small: &small {limits: {memory: 300Mi}}\n  gateway: {resources: *small}\n"
    )
    rendered = run("helm", "template", "x", str(parent), "--kube-version", "1.35.0")
    made = parsed(rendered)
    names = [(item["kind"], item["metadata"]["name"]) for item in made]
    assert len(names) == len(set(names))
    workers = {name for kind, name in names if kind == "Deployment" and "-worker-" in name}
    assert workers == {
        f"x-{name}"
        for name in (
            "jobs-worker-mail", "jobs-worker-http", "jobs-worker-housekeeping",
            "thumbs-worker-image", "thumbs-worker-mail", "thumbs-worker-http", "thumbs-worker-housekeeping",
        )
    }  # fmt: skip
    pods = [item["spec"]["template"]["spec"] for item in made if item["kind"] == "Deployment"]
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "plain"}] for pod in pods)


def test_long_names_do_not_meet():
    names = set()
    for release in ("a" * 45 + "-one", "a" * 45 + "-two"):
        made = parsed(run("helm", "template", release, str(CHART), "--set", f"secrets.seed={SEED}"))
        found = {(item["kind"], item["metadata"]["name"]) for item in made}
        assert all(len(name) <= 63 for _, name in found)
        assert not found & names
        names |= found


def test_only_the_api_is_public_unless_more_is_asked_for():
    def paths(*arguments: str) -> list[str]:
        (rule,) = one("Ingress", "gateway", *ALL, *arguments)["spec"]["rules"]
        return [path["path"] for path in rule["http"]["paths"]]

    assert paths() == ["/v1"]
    assert paths("--set", "gateway.ingress.paths={/v1,/docs,/openapi.json}") == ["/v1", "/docs", "/openapi.json"]
    (rule,) = one("HTTPRoute", "gateway", *ALL)["spec"]["rules"]
    assert [match["path"] for match in rule["matches"]] == [{"type": "PathPrefix", "value": "/v1"}]


def test_what_hangs_is_ended_at_once_and_asked_with_a_limit():
    for name, spec in pod_specs().items():
        for container in spec["containers"]:
            if probe := container.get("livenessProbe"):
                assert probe["terminationGracePeriodSeconds"] <= 5, name
                assert "tcpSocket" not in probe, f"{name}: the kernel accepts connections for a server that hangs"
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    command = container.get(kind, {}).get("exec", {}).get("command", [])
                    assert "valkey-cli" not in " ".join(command) or "timeout -s KILL" in " ".join(command)


def test_an_ipv6_address_of_redis():
    values = ("--set", "redis.url=redis://[fd00::1]:7000/1,keda.enabled=true", *KEDA)
    egress = json.dumps(one("NetworkPolicy", "beat", *values)["spec"]["egress"])
    assert '"cidr": "fd00::1/128"' in egress
    assert "7000" in egress
    trigger = one("ScaledObject", "worker-mail", *values)["spec"]["triggers"][0]
    assert trigger["metadata"]["address"] == "[fd00::1]:7000"


def test_every_queue_has_a_fleet_and_a_fleet_more_is_a_few_values():
    served = []
    for name in ("worker-image", "worker-mail", "worker-http", "worker-housekeeping"):
        container = one("Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        served += next(env["value"] for env in container["env"] if env["name"] == "OFFLOAD_QUEUES").split()
    assert sorted(served) == sorted(Queue)
    values = "workers.thumbnails.queues={images},workers.thumbnails.concurrency=8,workers.thumbnails.image=imageWorker"
    fleet = ("--set", f"{values},workers.thumbnails.resources.limits.memory=4Gi,keda.enabled=true", *KEDA)
    scaled = one("ScaledObject", "worker-thumbnails", *fleet)["spec"]
    assert scaled["triggers"][0]["metadata"]["listLength"] == "8"
    named = one("ScaledObject", "worker-thumbnails", *fleet, "--set", "workers.thumbnails.queues={2-sizes}")["spec"]
    assert named["triggers"][0]["name"] == "queue_2_sizes_live", "in a formula a dash subtracts"
    assert "queue_2_sizes_live" in named["advanced"]["scalingModifiers"]["formula"]
    for kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy"):
        assert one(kind, "worker-thumbnails", *fleet)


ALL = (
    "--set", "keda.enabled=true,redis.acl=true,keda.composite.enabled=true,gateway.ingress.enabled=true",
    "--set", "gateway.ingress.hosts={offload.test},gateway.httpRoute.enabled=true,gateway.autoscaling.enabled=true",
    "--set", "gateway.httpRoute.parentRefs[0].name=public",
    "--set", "monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true", *KEDA,
    "--api-versions", "gateway.networking.k8s.io/v1/HTTPRoute",
    "--api-versions", "monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions", "monitoring.coreos.com/v1/PodMonitor",
)  # fmt: skip


def test_a_fleet_of_ones_own_is_what_its_values_say(tmp_path):
    """No name of a worker stands in the templates: what a fleet needs, it says."""
    fleet = {
        "image": {"registry": "registry.example.com", "repository": "acme/invoices", "tag": "7"},
        "queues": ["invoices"],
        "needs": ["s3", "links"],
        "redis": {"keys": ["invoices:*"], "commands": ["incr"]},
        "keda": {"maxReplicas": 3},
    }
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps({"workers": {"invoices": fleet}, "redis": {"acl": True}, "keda": {"enabled": True}}))
    made = ("-f", str(path), *KEDA)
    spec = one("Deployment", "worker-invoices", *made)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "registry.example.com/acme/invoices:7"
    assert "command" not in container
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["OFFLOAD_QUEUES"] == "invoices"
    assert environment["OFFLOAD_FLEET"] == "invoices"
    assert environment["OFFLOAD_REDIS_USERNAME"] == "worker-invoices"
    assert {"OFFLOAD_S3_ENDPOINT", "OFFLOAD_LINK_SECRET"} <= set(environment)
    assert not {"OFFLOAD_SMTP_HOST", "OFFLOAD_TASK_MEMORY_LIMIT_BYTES"} & set(environment)
    allowed = egress("worker-invoices", *made)
    assert '"s3"' in allowed
    assert '"mailpit"' not in allowed
    assert "redis-worker-invoices-password" in one("Secret", "redis", *made)["stringData"]
    (valkey,) = one("StatefulSet", "valkey", *made)["spec"]["template"]["spec"]["containers"]
    words = valkey["args"] if "args" in valkey else valkey["command"]
    rules = " ".join(words).split("--user worker-invoices ")[1].split("--user ")[0].split()
    assert {"~offload:invoices:*", "+incr", "~offload:catalogue", "~offload:catalogue:invoices"} <= set(rules)
    assert "~offload:catalogue:*" not in rules
    scaled = one("ScaledObject", "worker-invoices", *made)["spec"]
    assert scaled["triggers"][0]["metadata"]["listName"] == "offload:queue:invoices:live"
    assert scaled["maxReplicaCount"] == 3


@pytest.mark.parametrize("arguments", [(), EXTERNAL, ALL], ids=["default", "external", "all"])
def test_every_pod_is_restricted_and_bounded(arguments):
    specs = pod_specs(*arguments)
    assert len(specs) >= 5
    for name, spec in specs.items():
        assert spec["automountServiceAccountToken"] is False, name
        pod = spec["securityContext"]
        assert (pod["runAsNonRoot"], pod["runAsUser"], pod["seccompProfile"]["type"]) == (True, 10001, "RuntimeDefault")
        assert "initContainers" not in spec, name
        assert any(volume["name"] == "tmp" and "emptyDir" in volume for volume in spec["volumes"]), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["command"], name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]), name
    claims = [item for item in objects(*arguments) if item["kind"] == "StatefulSet"]
    assert all(item["spec"]["template"]["spec"]["securityContext"]["fsGroup"] == 10001 for item in claims)


def test_replicas_are_left_to_whoever_scales():
    for item in objects(*ALL):
        if item["kind"] == "Deployment" and (
            "worker" in item["metadata"]["name"] or "gateway" in item["metadata"]["name"]
        ):
            assert "replicas" not in item["spec"], item["metadata"]["name"]
    beat = one("Deployment", "beat")
    assert (beat["spec"]["replicas"], beat["spec"]["strategy"]["type"]) == (1, "Recreate")


def test_a_scaled_object_measures_what_waits_and_runs():
    spec = one("ScaledObject", "worker-image", "--set", "keda.enabled=true", *KEDA)["spec"]
    assert (spec["pollingInterval"], spec["minReplicaCount"], spec["maxReplicaCount"]) == (5, 0, 10)
    assert [trigger["metadata"]["listName"] for trigger in spec["triggers"]] == [
        f"offload:queue:{queue}:{part}" for queue in ("images", "reports") for part in ("live", "leases", "pause")
    ]
    assert {trigger["metadata"]["listLength"] for trigger in spec["triggers"]} == {"2"}
    modifiers = spec["advanced"]["scalingModifiers"]
    assert (modifiers["target"], modifiers["activationTarget"]) == ("2", "0")
    assert modifiers["formula"] == " + ".join(
        f"(queue_{queue}_paused > 0 ? queue_{queue}_running : queue_{queue}_live)" for queue in ("images", "reports")
    )
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > 0


def test_alerts_and_a_dashboard_are_the_files_of_the_chart():
    operator = ("--api-versions", "monitoring.coreos.com/v1/PrometheusRule")
    rule = one("PrometheusRule", "alerts", "--set", "monitoring.prometheusRule.enabled=true", *operator)
    files = CHART / "files"
    assert rule["spec"]["groups"] == yaml.safe_load((files / "alerts.yaml").read_text())["groups"]
    objective = "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.queueAgeSeconds=60"
    changed = one("PrometheusRule", "alerts", "--set", objective, *operator)["spec"]["groups"][0]["rules"]
    assert "offload_queue_oldest_age_seconds > 60" in changed[0]["expr"]
    dashboard = one("ConfigMap", "dashboard", "--set", "monitoring.dashboard.enabled=true")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["offload.json"]) == json.loads((files / "dashboard.json").read_text())
    without = render("--set", "monitoring.prometheusRule.enabled=true", check=False)
    assert "PrometheusRule" in without
    assert "Install the Prometheus Operator" in without


def test_sentinel_and_tls_reach_keda_too():
    redis = "redis.url=sentinel://192.0.2.1:26379\\,192.0.2.2/1,redis.sentinelMaster=ours,existingSecrets.redis=mine"
    trigger = one("ScaledObject", "worker-image", "--set", f"keda.enabled=true,{redis}", *KEDA)["spec"]["triggers"][0]
    assert trigger["type"] == "redis-sentinel"
    assert trigger["metadata"]["addresses"] == "192.0.2.1:26379,192.0.2.2:26379"
    assert (trigger["metadata"]["sentinelMaster"], trigger["metadata"]["databaseIndex"]) == ("ours", "1")
    tls = "redis.url=rediss://192.0.2.1:6380/0,redis.caSecret=ca,existingSecrets.redis=mine,keda.enabled=true"
    trigger = one("ScaledObject", "worker-image", "--set", tls, *KEDA)["spec"]["triggers"][0]
    assert (trigger["metadata"]["enableTLS"], trigger["metadata"]["address"]) == ("true", "192.0.2.1:6380")
    login = one("TriggerAuthentication", "redis", "--set", tls, *KEDA)
    assert {item["parameter"]: item["key"] for item in login["spec"]["secretTargetRef"]} == {
        "password": "redis-password", "ca": "ca.crt",
    }  # fmt: skip


def egress(name: str, *arguments: str) -> str:
    return json.dumps(one("NetworkPolicy", name, *arguments)["spec"]["egress"])


def test_egress_follows_the_needs():
    rule = {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}
    outside = ("--set-json", f"networkPolicy.internet={json.dumps([rule])}")
    assert '"s3"' in egress("worker-image")
    assert '"mailpit"' not in egress("worker-image")
    assert '"s3"' not in egress("worker-mail")
    assert '"mailpit"' in egress("worker-mail")
    assert '"s3"' in egress("worker-housekeeping")
    assert '"mailpit"' not in egress("worker-housekeeping")
    # Calls and webhooks alone go to the Internet, and to nothing that is private.
    assert "198.51.100.0/24" in egress("worker-http", *outside)
    for name in ("worker-image", "worker-mail", "worker-housekeeping", "gateway"):
        assert "198.51.100.0/24" not in egress(name, *outside)
    (internet,) = [rule for rule in json.loads(egress("worker-http")) if "0.0.0.0/0" in json.dumps(rule)]
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "127.0.0.0/8"):
        assert network in internet["to"][0]["ipBlock"]["except"]
    assert '"s3"' not in egress("beat")
    assert one("NetworkPolicy", "beat")["spec"]["ingress"] == []
    for name in ("gateway", "beat", "worker-image", "worker-mail", "worker-http", "worker-housekeeping", "helm-test"):
        dns = one("NetworkPolicy", name)["spec"]["egress"][0]
        assert dns["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
        assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_egress_to_servers_outside_is_by_address_and_port():
    image, mail = egress("worker-image", *EXTERNAL), egress("worker-mail", *EXTERNAL)
    assert '"192.0.2.10/32"' in image
    assert '"port": 6379' in image
    assert '"192.0.2.20/32"' in image
    assert '"port": 9000' in image
    assert '"192.0.2.30/32"' not in image
    assert '"192.0.2.30/32"' in mail
    assert '"port": 587' in mail
    assert not [item for item in objects(*EXTERNAL) if item["kind"] == "StatefulSet"]
    assert "mailpit" not in render(*EXTERNAL)


def test_only_valkeys_clients_reach_it():
    rule = one("NetworkPolicy", "valkey", "--set", "keda.enabled=true,networkPolicy.keda.namespace=scalers", *KEDA)[
        "spec"
    ]["ingress"][0]
    components = {
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for peer in rule["from"]
        if "namespaceSelector" not in peer
    }
    assert components == {"gateway", "beat", "worker-image", "worker-mail", "worker-http", "worker-housekeeping"}
    operators = [peer for peer in rule["from"] if "namespaceSelector" in peer]
    assert [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in operators] == [
        "scalers"
    ]


def test_a_gateway_for_some_still_serves_the_test_and_keda():
    some = "networkPolicy.gateway.from[0].podSelector.matchLabels.app=web,keda.enabled=true"
    shown = json.dumps(one("NetworkPolicy", "gateway", "--set", some, *KEDA)["spec"]["ingress"])
    assert '"app": "web"' in shown
    assert "helm-test" in shown
    assert "keda-operator" not in shown
    composite = f"{some},keda.composite.enabled=true"
    assert "keda-operator" in json.dumps(one("NetworkPolicy", "gateway", "--set", composite, *KEDA)["spec"]["ingress"])


def test_pods_spread_where_they_can_and_may_be_evicted():
    constraints = pod_specs()["offload-worker-image"]["topologySpreadConstraints"]
    assert {item["topologyKey"] for item in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert {item["whenUnsatisfiable"] for item in constraints} == {"ScheduleAnyway"}
    budgets = [item for item in objects() if item["kind"] == "PodDisruptionBudget"]
    assert {item["metadata"]["name"] for item in budgets} == {
        "offload-gateway",
        "offload-worker-image",
        "offload-worker-mail",
        "offload-worker-http",
        "offload-worker-housekeeping",
    }
    assert all(item["spec"]["maxUnavailable"] == 1 and "minAvailable" not in item["spec"] for item in budgets)


def templates(*arguments: str) -> dict[str, str]:
    """Return the pod templates, without the labels that name the chart's version, as text."""
    text = {}
    for item in objects(*arguments):
        if item["kind"] in {"Deployment", "StatefulSet"}:
            text[item["metadata"]["name"]] = json.dumps(item["spec"]["template"], sort_keys=True)
    return text


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ("beat.timeZone=Europe/Berlin", {"offload-beat"}),
        ("gateway.apiKeys={a:" + "0" * 64 + "}", {"offload-gateway"}),
        ("workers.image.concurrency=3", {"offload-worker-image"}),
        ("smtp.from=other@example.com", {"offload-worker-mail"}),
        (
            "secrets.seed=" + SEED[::-1],
            {
                "offload-gateway",
                "offload-beat",
                "offload-worker-image",
                "offload-worker-mail",
                "offload-worker-http",
                "offload-worker-housekeeping",
                "offload-valkey",
                "offload-s3",
            },
        ),
        ("keda.pollingIntervalSeconds=7", set()),
        ("networkPolicy.enabled=false", set()),
    ],
)
def test_a_change_restarts_only_what_reads_it(change, restarted):
    before, after = templates(), templates("--set", change)
    assert {name for name in before if before[name] != after[name]} == restarted


def test_the_users_environment_wins_and_stands_there_once():
    container = one(
        "Deployment", "beat", "--set", "beat.extraEnv[0].name=OFFLOAD_LOG_LEVEL,beat.extraEnv[0].value=DEBUG"
    )
    env = container["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [item["value"] for item in env if item["name"] == "OFFLOAD_LOG_LEVEL"] == ["DEBUG"]


def test_the_generated_pages_are_what_the_chart_says(tmp_path):
    run("cp", "-r", str(CHART), str(tmp_path / "offload"))
    for page, template in (("README.md", "README.md.gotmpl"), ("values.md", "values.md.gotmpl")):
        run("helm-docs", "-c", str(tmp_path), "-t", template, "-o", page, "--sort-values-order", "file", "-l", "error")
    assert (tmp_path / "offload" / "README.md").read_text() == (CHART / "README.md").read_text(), "run `make docs`"
    assert (tmp_path / "offload" / "values.md").read_text() == (ROOT / "docs/reference/values.md").read_text()
    empty = re.findall(r"^\| (\S+) \|.*\|  \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert empty == [], "values without a word about them"


def accepted_findings(scanner: str) -> list[str]:
    """Return the checks that charts/offload/README.md gives a reason for."""
    rows = re.findall(rf"^\| (`.*`) \| {scanner} \| .+ \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    return [check for row in rows for check in re.findall(r"`([A-Za-z0-9_-]+)`", row)]


def test_lint_finds_nothing():
    assert "1 chart(s) linted, 0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART))


def test_kube_score_finds_nothing_without_a_reason(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(render(*ALL))
    checked = json.loads(run("kube-score", "score", "--output-format", "json", str(path), check=False))
    assert len(checked) > 20
    found = {
        check["check"]["id"]
        for item in checked
        for check in item["checks"]
        if not check["skipped"] and check["grade"] < 7
    }
    # Both ways: a reason for what is not found any more is stale.
    assert found == set(accepted_findings("kube-score"))


def test_checkov_finds_nothing_without_a_reason(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(render(*ALL))
    said = run(
        os.environ.get("UV", "uv"), "tool", "run", "checkov==3.3.30", "-f", str(path), "--framework", "kubernetes",
        "--skip-download", "--compact", "--quiet", "-o", "json", check=False,
    )  # fmt: skip
    result = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    assert result["summary"]["passed"] > 300
    assert {check["check_id"] for check in result["results"]["failed_checks"]} == set(accepted_findings("checkov"))


def test_the_manifests_in_k8s_are_what_the_chart_renders():
    run(sys.executable, str(ROOT / "k8s" / "render.py"), "--check")


def test_every_render_makes_the_same_secrets_or_none():
    first, second = (parsed(render()) for _ in range(2))
    assert first == second
    made = [item for item in first if item["kind"] == "Secret"]
    values = [value for item in made for key, value in item["stringData"].items() if key != "api-keys"]
    assert len(set(values)) == len(values) == 5
    assert parsed(render(seed=SEED[::-1])) != first
    assert "/secrets/seed" in render(seed="short", check=False)
    refused = render(seed="", check=False)
    assert "secrets.seed: must be set where Helm does not see the cluster" in refused
    assert "existingSecrets.apiKeys, existingSecrets.links, existingSecrets.redis, existingSecrets.s3" in refused
    own = "existingSecrets.apiKeys=s,existingSecrets.links=s,existingSecrets.redis=s,existingSecrets.s3=s"
    assert "kind: Secret" not in render("--set", own, seed="")


EVERYWHERE = ("gateway", "beat", "workerDefaults")
POD_FIELDS = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}
MORE_POD_FIELDS = POD_FIELDS | {
    "runtimeClassName": "gvisor",
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["10.0.0.10"]},
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["smtp"]}],
    "initContainers": [{"name": "wait", "image": "busybox"}],
}
CONTAINER_FIELDS = {"envFrom": [{"secretRef": {"name": "more"}}], "lifecycle": {"preStop": {"sleep": {"seconds": 9}}}}


def with_values(tmp_path, values: dict) -> list[dict]:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return objects("--values", str(path), *KEDA)


def test_pods_take_what_a_platform_gives_them(tmp_path):
    values = {name: MORE_POD_FIELDS | CONTAINER_FIELDS | {"annotations": {"reload": "yes"}} for name in EVERYWHERE}
    for name in EVERYWHERE:
        values[name]["livenessProbe"] = {"periodSeconds": 77}
    for name in ("valkey", "seaweedfs", "mailpit"):
        values[name] = POD_FIELDS | {"podLabels": {"team": "jobs"}, "podAnnotations": {"a": "b"}}
    values["helmTest"] = POD_FIELDS | {"resources": {"limits": {"memory": "99Mi"}}}
    spread = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
    for name in ("gateway", "workerDefaults"):
        values[name] |= {"strategy": {"type": "Recreate"}, "topologySpreadConstraints": spread}
    made = with_values(tmp_path, values)
    workers = {"worker-image", "worker-mail", "worker-http", "worker-housekeeping"}
    ours = {"gateway", "beat", *workers}
    seen = 0
    for item in made:
        if item["kind"] not in {"Deployment", "StatefulSet", "Pod"}:
            continue
        seen += 1
        spec = item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
        name = item["metadata"]["name"].removeprefix("offload-")
        fields = MORE_POD_FIELDS if name in ours else POD_FIELDS
        assert {key: spec.get(key) for key in fields} == fields, name
        (container, *_) = spec["containers"]
        if name in ours:
            assert {key: container[key] for key in CONTAINER_FIELDS} == CONTAINER_FIELDS, name
            assert container["livenessProbe"]["periodSeconds"] == 77
            assert container["livenessProbe"]["terminationGracePeriodSeconds"] == 5, "what is not said stays"
            assert item["metadata"]["annotations"] == {"reload": "yes"}
        if name in {"gateway", *workers}:
            assert item["spec"]["strategy"] == {"type": "Recreate"}
            assert spec["topologySpreadConstraints"] == spread
        if name in {"valkey", "s3", "mailpit"}:
            assert item["spec"]["template"]["metadata"]["labels"]["team"] == "jobs"
            assert item["spec"]["template"]["metadata"]["annotations"].items() >= {"a": "b"}.items()
        if name == "test":
            assert container["resources"]["limits"] == {"memory": "99Mi"}
    assert seen == 10


def test_a_cluster_may_choose_the_users(tmp_path):
    """OpenShift gives each namespace its own; whatever is null is left out, by Helm 3 and 4."""
    values = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    for item in with_values(tmp_path, values):
        if item["kind"] in {"Deployment", "StatefulSet", "Pod"}:
            spec = item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
            assert set(spec["securityContext"]) <= {"runAsNonRoot", "seccompProfile", "fsGroupChangePolicy"}
    path = tmp_path / "values.yaml"
    assert "runAsUser" not in render("--values", str(path), helm="helm3")


def test_services_accounts_networks_and_objects_of_ones_own(tmp_path):
    service = {
        "type": "LoadBalancer", "loadBalancerClass": "metal", "ipFamilyPolicy": "PreferDualStack", "nodePort": 30080,
        "ipFamilies": ["IPv6", "IPv4"], "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"],
    }  # fmt: skip
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}
    rule = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}
    made = with_values(
        tmp_path,
        {
            "gateway": {"service": service},
            "serviceAccount": {"name": "existing"},
            "networkPolicy": {"dns": {"cidrs": ["169.254.20.10/32"], "ports": [53, 5353]}, "extraEgress": [rule]},
            "extraObjects": [extra, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\n"],
            "redis": {"url": "rediss://192.0.2.1:6379/0", "clientSecret": "client"},
            "keda": {"enabled": True},
        },
    )
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in made}
    spec = by_name["Service", "offload-gateway"]["spec"]
    assert spec.pop("ports")[0]["nodePort"] == 30080
    assert {key: spec[key] for key in service if key != "nodePort"} == {
        k: v for k, v in service.items() if k != "nodePort"
    }
    assert not [name for kind, name in by_name if kind == "ServiceAccount"]
    assert {("ConfigMap", "mine"), ("ConfigMap", "text")} <= set(by_name)
    for name in ("beat", "gateway", "worker-mail"):
        rules = by_name["NetworkPolicy", f"offload-{name}"]["spec"]["egress"]
        assert rule in rules
        assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rules[0]["to"]
        assert {port["port"] for port in rules[0]["ports"]} == {53, 5353}
    beat = by_name["Deployment", "offload-beat"]["spec"]["template"]["spec"]
    assert beat["serviceAccountName"] == "existing"
    (url,) = [one["value"] for one in beat["containers"][0]["env"] if one["name"] == "OFFLOAD_REDIS_URL"]
    assert url.endswith("?ssl_certfile=/etc/offload/redis-client/tls.crt&ssl_keyfile=/etc/offload/redis-client/tls.key")
    targets = by_name["TriggerAuthentication", "offload-redis"]["spec"]["secretTargetRef"]
    assert {target["parameter"] for target in targets} == {"cert", "key"}
