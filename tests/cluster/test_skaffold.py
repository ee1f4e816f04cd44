"""`skaffold dev`: a saved file runs within seconds, and loses no task; `run`, `test`, `verify`, the profile `keda`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from devstack.waiting import until

from .cluster import RESTRICTED, ROOT, Release, Tally, get, kubectl, run
from .conftest import SERVICES

NAMESPACE = "offload"
SMALL = "workerDefaults.resources.requests.cpu=10m"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree that may be edited, in which every request for CPU is small."""
    folder = tmp_path_factory.mktemp("tree") / "offload"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard").split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    values = folder / "charts/offload/values.yaml"
    values.write_text(re.sub(r"requests: \{cpu: \d+m", "requests: {cpu: 10m", values.read_text()))
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, RESTRICTED)
    yield folder
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def environment(tree) -> dict[str, str]:
    """Return Skaffold's environment. Before 2.19 it does not know Helm 4: then `helm` is Helm 3 for it."""
    folder = tree.parent / "bin"
    folder.mkdir(exist_ok=True)
    helm3 = shutil.which("helm3")
    if helm3 and not (folder / "helm").exists():
        (folder / "helm").symlink_to(helm3)
    return os.environ | {
        "SKAFFOLD_DEFAULT_REPO": "localhost:5000",
        "SKAFFOLD_UPDATE_CHECK": "false",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }


def skaffold(tree, *arguments: str, seconds: float = 400) -> str:
    done = subprocess.run(
        ["skaffold", *arguments],
        check=False,
        cwd=tree,
        env=environment(tree),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@contextlib.contextmanager
def developing(tree):
    """Run `skaffold dev` until left; it removes the release then."""
    log = tree.parent / "dev.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["skaffold", "dev", "--cleanup=true", "--auto-sync=true", "--watch-poll-interval=500"],
            cwd=tree, env=environment(tree), stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:

            def watching() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"skaffold dev ended:\n{log.read_text()[-4000:]}")
                return "Watching for changes" in log.read_text()

            until(watching, "skaffold to watch for changes", seconds=400, pause_seconds=0.5)
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


def test_dev_reloads_gateway_workers_and_beat_and_loses_no_task(tree, report):
    release = Release(NAMESPACE, [])
    with developing(tree) as log:
        for component in ("gateway", "beat", "worker-image", "worker-mail"):
            deployment = get("deployment", f"offload-{component}", "-n", NAMESPACE)
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            assert deployment["spec"]["replicas"] == 1
            assert container["securityContext"]["readOnlyRootFilesystem"] is False
        assert kubectl("-n", NAMESPACE, "get", "scaledobject", "-o", "name").strip() == ""
        pods = {
            name: release.pods(name)[0]["metadata"]["uid"]
            for name in ("gateway", "beat", "worker-image", "worker-mail")
        }
        took = {}
        with release.client() as client:
            # A report that runs for long enough to be interrupted by the save below.
            running = client.post_report(100_000)
            until(lambda: client.task(running)["state"] == "STARTED", "the report to run", seconds=60)
            took["image-worker"] = save(
                release, tree, "image-worker", "services/image-worker/src/image_worker/app.py", "worker-image"
            )
            took["gateway"] = save(release, tree, "gateway", "services/gateway/src/gateway/app.py", "gateway")
            took["mail-worker"] = save(
                release, tree, "mail-worker", "services/mail-worker/src/mail_worker/app.py", "worker-mail"
            )
            took["beat"] = save(release, tree, "beat", "services/beat/src/beat/app.py", "beat")
            client.post_photo()
            Tally.of(release, client, seconds=120).check()
            assert client.task(running)["steps"][0]["deliveries"] >= 2, "it was handed back, and ran again"
            runs_no_old_code(release, tree, client)
        assert {name: release.pods(name)[0]["metadata"]["uid"] for name in pods} == pods, "no pod was replaced"
        assert "Syncing" in log.read_text()
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    report.add(
        "Skaffold",
        "from a save to the new code at work, under `skaffold dev`",
        f"{shown}; a report that ran was handed back and done",
    )
    until(lambda: not release.pods("gateway"), "the release to be removed", seconds=90)


def runs_no_old_code(release: Release, tree, client) -> None:
    """A saved file that cannot be imported, and a container that is started again: nothing runs until it is mended."""
    path = tree / "services/mail-worker/src/mail_worker/app.py"
    text = path.read_text()
    path.write_text("this is no Python\n")
    worker = "deployment/offload-worker-mail"
    until(lambda: "SyntaxError" in release.kubectl("logs", worker), "the error to be shown", seconds=60)
    posted = client.post_mail()
    release.kubectl("exec", worker, "--", "sh", "-c", "kill 1")

    def restarts_count() -> int:
        return release.pods("worker-mail", running=False)[0]["status"]["containerStatuses"][0]["restartCount"]

    until(lambda: restarts_count() > 0, "the container to be started again", seconds=60)
    until(lambda: "SyntaxError" in release.kubectl("logs", worker, check=False), "the error again", seconds=60)
    assert not release.ready_pods("worker-mail")
    assert client.task(posted)["state"] == "PENDING"
    path.write_text(text)
    save(release, tree, "mail-worker", "services/mail-worker/src/mail_worker/app.py", "worker-mail")
    Tally.of(release, client, seconds=120).check()


def test_a_dependency_that_the_lock_does_not_have_fails_the_build(tree):
    project = tree / "services/beat/pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace("dependencies = [", 'dependencies = ["tomlkit", '))
    try:
        done = subprocess.run(
            ["skaffold", "build", "--build-image=offload/beat"], check=False, cwd=tree, env=environment(tree),
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
    finally:
        project.write_text(text)
    assert done.returncode != 0, done.stdout
    assert "run uv lock" in done.stdout + done.stderr


def save(release: Release, tree, service: str, path: str, component: str) -> float:
    """Save a change, and return the seconds until a process that has it is at work."""
    mark = f"reloaded-{time.monotonic_ns()}"
    file = tree / path
    text = file.read_text()
    file.write_text(text + f'\n__import__("pathlib").Path("/tmp/{mark}").touch()\n')
    started = time.monotonic()
    container = {"gateway": "gateway", "beat": "beat"}.get(component, "worker")
    ready = {
        "gateway": "python -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=1)\"",
    }.get(component, f"test /tmp/ready -nt /tmp/{mark}")

    def at_work() -> bool:
        said = release.kubectl(
            "exec", f"deployment/offload-{component}", "-c", container, "--",
            "sh", "-c", f"test -e /tmp/{mark} && {ready} && echo at work", check=False,
        )  # fmt: skip
        return "at work" in said

    until(at_work, f"{service} to have the change", seconds=60, pause_seconds=0.1)
    return time.monotonic() - started


def test_run_test_and_verify(tree, report):
    built = tree.parent / "build.json"
    skaffold(tree, "build", f"--file-output={built}")
    assert len(json.loads(built.read_text())["builds"]) == len(SERVICES)
    skaffold(tree, "test", "-a", str(built))
    skaffold(tree, "run")
    said = skaffold(tree, "verify", "-a", str(built))
    assert "mailed" in said
    report.add("Skaffold", "`skaffold build`, `test`, `run`, `verify`", "the chain goes through, as a restricted Job")
    skaffold(tree, "run", "-p", "keda")
    conditions = until(
        lambda: get("scaledobject", "offload-worker-image", "-n", NAMESPACE)["status"].get("conditions"),
        "KEDA to look", seconds=60,
    )  # fmt: skip
    assert {one["type"]: one["status"] for one in conditions}["Ready"] == "True"
    report.add("Skaffold", "`skaffold run -p keda`", "ScaledObjects Ready")


def test_verify_fails_when_it_fails(tree):
    built = tree.parent / "build.json"
    release = Release(NAMESPACE, [])
    # The gateway is taken away: there is nobody to post to.
    release.kubectl("scale", "deployment/offload-gateway", "--replicas=0")
    until(lambda: not release.pods("gateway", running=False), "the gateway to be gone", seconds=60)
    verify = tree / "skaffold.yaml"
    verify.write_text(
        verify.read_text().replace(
            "--mailpit=http://offload-mailpit:8025]", "--mailpit=http://offload-mailpit:8025, --timeout-seconds=5]"
        )
    )
    done = subprocess.run(
        ["skaffold", "verify", "-a", str(built)], check=False, cwd=tree, capture_output=True, text=True, timeout=200,
        env=environment(tree),
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    assert "waited in vain for the photo to be accepted" in done.stdout + done.stderr
    skaffold(tree, "delete")
