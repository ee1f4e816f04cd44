"""A cluster as the tests use it: kubectl, Helm, releases, kills from the host, and clients that keep a ledger."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import obstore
import redis
from obstore.store import S3Store
from PIL import Image

from devstack.waiting import until
from offload_core.records import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "offload"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
SEED = "0123456789abcdef" * 2
OUTSIDE = "198.51.100.10"  # the lab's host that is not in the cluster


def run(
    *command: str,
    check: bool = True,
    stdin: str | None = None,
    seconds: float = 300,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command and return its output; its errors are shown when it fails."""
    done = subprocess.run(
        command, check=False, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=ROOT,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def kubectl(*arguments: str, **options: Any) -> str:
    """Run kubectl."""
    return run("kubectl", *arguments, **options)


def get(*arguments: str) -> dict[str, Any]:
    """Return objects as kubectl shows them."""
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def render(*arguments: str, check: bool = True, helm: str = "helm", seed: str = SEED) -> str:
    """Return the chart's manifests, or with `check` off what Helm says instead."""
    return run(
        helm, "template", "offload", str(CHART), "--namespace", "offload", "--kube-version", "1.35.0",
        "--set", f"secrets.seed={seed}", *arguments,
        check=check,
    )  # fmt: skip


def namespace(name: str) -> None:
    """Make an empty namespace that enforces Pod Security *restricted*."""
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s")
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, RESTRICTED)


@dataclass
class Release:
    """One installation of the chart."""

    namespace: str
    values: list[str]
    name: str = "offload"
    helm: str = "helm"

    def install(self, *, chart: Path = CHART, wait: bool = True, in_new_namespace: bool = True) -> Self:
        """Install it, and wait until all of it is ready."""
        if in_new_namespace:
            namespace(self.namespace)
        self._apply("install", self.values, chart=chart, wait=wait)
        return self

    def upgrade(self, *values: str, chart: Path = CHART, seconds: int = 240) -> None:
        """Upgrade it, and wait until all of it is ready."""
        self._apply("upgrade", [*self.values, *values], chart=chart, seconds=seconds)

    def roll_back(self, revision: int) -> None:
        """Roll it back to an earlier revision, and wait until all of it is ready."""
        run(self.helm, "rollback", self.name, str(revision), "-n", self.namespace, "--wait", "--timeout", "240s")

    def _apply(
        self, verb: str, values: Sequence[str], *, chart: Path = CHART, wait: bool = True, seconds: int = 180
    ) -> None:
        waiting = ["--wait", "--timeout", f"{seconds}s"] if wait else []
        try:
            run(self.helm, verb, self.name, str(chart), "-n", self.namespace, *values, *waiting, seconds=seconds + 60)
        except AssertionError as error:
            pods = kubectl("get", "pods", "-n", self.namespace, "-o", "wide")
            events = kubectl("get", "events", "-n", self.namespace, "--sort-by=.lastTimestamp")
            raise AssertionError(f"{error}\n{pods}\n{events[-3000:]}") from None

    def delete(self) -> None:
        """Remove it with its namespace."""
        kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """Run kubectl in its namespace."""
        return kubectl("-n", self.namespace, *arguments, **options)

    def pods(self, component: str, *, running: bool = True) -> list[dict[str, Any]]:
        """Return the pods of a component, without those that are being deleted."""
        found = get("pods", "-n", self.namespace, "-l", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in found if not running or "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, component: str) -> list[dict[str, Any]]:
        """Return those of them whose containers are all ready."""
        return [
            pod
            for pod in self.pods(component)
            if all(one["ready"] for one in pod["status"].get("containerStatuses", [{"ready": False}]))
        ]

    def replicas(self, component: str) -> int:
        """Return how many replicas its Deployment has."""
        return int(get("deployment", f"{self.name}-{component}", "-n", self.namespace)["status"].get("replicas", 0))

    def secret(self, name: str, key: str) -> str:
        """Return one value of a Secret."""
        data = get("secret", f"{self.name}-{name}", "-n", self.namespace)["data"]
        return base64.b64decode(data[key]).decode()

    def address(self, component: str) -> str:
        """Return the cluster's address of a Service, which the host reaches."""
        return str(get("service", f"{self.name}-{component}", "-n", self.namespace)["spec"]["clusterIP"])

    def client(self, **options: Any) -> Client:
        """Return a client with the operator's key."""
        return Client(f"http://{self.address('gateway')}", self.secret("api-keys", "api-key"), **options)

    def redis(self) -> redis.Redis:
        """Return a client of the bundled Valkey."""
        return redis.Redis(
            host=self.address("valkey"), password=self.secret("redis", "redis-password"), socket_timeout=5
        )

    def mails(self) -> Counter[str]:
        """Return how many mails each address got, as Mailpit has them."""
        messages = f"http://{self.address('mailpit')}:8025/api/v1/messages"
        found: dict[str, list[str]] = {}
        # By pages, the newest mail first: one that arrives meanwhile moves the others on, so that some are seen twice.
        while True:
            answer = httpx.get(messages, params={"start": len(found), "limit": 1000}, timeout=30).raise_for_status()
            page = answer.json()
            found |= {mail["ID"]: [to["Address"] for to in mail["To"]] for mail in page["messages"]}
            if not page["messages"]:
                return Counter(address for addresses in found.values() for address in addresses)

    def outputs(self) -> dict[str, list[str]]:
        """Return the names of all outputs in the bundled S3, by task."""
        store = S3Store(
            "offload",
            endpoint=f"http://{self.address('s3')}:8333",
            region="us-east-1",
            access_key_id=self.secret("s3", "s3-access-key-id"),
            secret_access_key=self.secret("s3", "s3-secret-access-key"),
            client_options={"allow_http": True},
        )
        found: dict[str, list[str]] = {}
        for page in obstore.list(store, prefix="outputs/"):
            for blob in page:
                _, task_id, name = blob["path"].split("/")
                found.setdefault(task_id, []).append(name)
        return found


def is_anothers(answer: httpx.Response) -> bool:
    """Return whether something else has answered than the gateway, whose every error is a problem+json.

    While a Service has no endpoint its address may for a moment lead out of the cluster: to whatever answers, with 404,
    in this machine's network.
    """
    return answer.status_code == 404 and answer.headers.get("Content-Type") != "application/problem+json"


class Client:
    """A client that keeps connections properly, repeats by idempotency key, and writes down what was accepted."""

    def __init__(self, url: str, key: str, *, prefix: str = "") -> None:
        """`prefix` stands before each recipient, so that tests in one release do not meet."""
        self.url = url
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self.prefix = prefix or uuid.uuid4().hex[:8]
        self.accepted: dict[str, str] = {}  # task id -> recipient
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()  # of the 503s
        self.retry_after_missing = 0
        self.reconnects = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Be a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.http.close()

    def post(self, path: str, recipient: str, seconds: float = 60, **request: Any) -> str | None:
        """Post until it is accepted; returns the task id, or None if it was not within `seconds`."""
        key = uuid.uuid4().hex
        headers = {"Idempotency-Key": key, **request.pop("headers", {})}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                answer = self.http.post(path, headers=headers, **request)
            except httpx.TransportError:
                answer = None
            if answer is None or is_anothers(answer):
                self.reconnects += 1
                time.sleep(0.05)
                continue
            with self._lock:
                self.statuses[answer.status_code] += 1
                if answer.status_code == 202:
                    task_id: str = answer.json()["task_id"]
                    self.accepted[task_id] = recipient
                    return task_id
                if answer.status_code == 503:
                    self.codes[answer.json().get("code", "")] += 1
                if answer.status_code in {429, 503} and "Retry-After" not in answer.headers:
                    self.retry_after_missing += 1
            time.sleep(0.3)
        return None

    def post_photo(self, photo: bytes | None = None, **options: Any) -> str | None:
        """Post a photo, of which a thumbnail is made and a mail is sent to a recipient of its own."""
        recipient = f"{self.prefix}-{uuid.uuid4().hex[:12]}@example.com"
        query = {"width": 160, "thumbnail": 40, "notify": recipient, **options}
        return self.post(
            "/v1/images", recipient, params=query, content=photo or PHOTO, headers={"Content-Type": "image/jpeg"}
        )

    def post_mail(self) -> str | None:
        """Post a mail to a recipient of its own."""
        recipient = f"{self.prefix}-{uuid.uuid4().hex[:12]}@example.com"
        body = {"to": recipient, "subject": "A test", "text": "Of one mail."}
        return self.post("/v1/emails", recipient, json=body)

    def post_report(self, rows: int) -> str | None:
        """Post a report that mails a recipient of its own nothing."""
        return self.post("/v1/reports", "", json={"rows": rows})

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task, asking again while it cannot be told."""

        def look() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.TransportError):
                answer = self.http.get(f"/v1/tasks/{task_id}")
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code in {429, 502, 503} or is_anothers(answer), answer.text
            return None

        return until(look, f"task {task_id}", seconds=60)

    def wait_all(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Return all accepted tasks once each has ended, the oldest first.

        Raises:
            TimeoutError: with what the others do, when the oldest of those left did not end within `seconds`. So a slow
                machine may take its time, and a task that stands still is found soon.

        """
        ended: dict[str, dict[str, Any]] = {}
        for task_id in self.accepted:

            def end(task_id: str = task_id) -> dict[str, Any] | None:
                task = self.task(task_id)
                return task if task["state"] in TERMINAL else None

            try:
                ended[task_id] = until(end, f"the end of task {task_id}", seconds=seconds, pause_seconds=0.5)
            except TimeoutError as error:
                left = [self.task(other) for other in self.accepted.keys() - ended.keys()]
                states = dict(Counter(task["state"] for task in left))
                message = f"{error}; {len(ended)} of {len(self.accepted)} ended before it, those left are {states}"
                raise TimeoutError(message) from None
        return ended


@dataclass
class Tally:
    """What became of a client's tasks."""

    accepted: int
    lost: list[str]
    doubled: list[str]

    @classmethod
    def of(cls, release: Release, client: Client, seconds: float) -> Tally:
        """Wait for the end of every accepted task, and count its effects: one mail a recipient, one file a step."""
        tasks = client.wait_all(seconds)
        lost = [
            f"{task_id}: {task['state']} {task['error']}"
            for task_id, task in tasks.items()
            if task["state"] != "SUCCESS"
        ]
        doubled = []
        sent, files = release.mails(), release.outputs()
        for task_id, recipient in client.accepted.items():
            count = sent[recipient] if recipient else 1
            if count == 0:
                lost.append(f"{task_id}: no mail")
            if count > 1:
                doubled.append(f"{task_id}: {count} mails")
            steps = Counter(name.partition("-")[0] for name in files.get(task_id, []))
            expected = len(tasks[task_id]["links"]["outputs"])
            if steps.total() < expected:
                lost.append(f"{task_id}: {dict(steps)}, not {expected} outputs")
            if any(number > 1 for number in steps.values()):
                doubled.append(f"{task_id}: {dict(steps)}")
        return cls(len(client.accepted), lost, doubled)

    def check(self) -> None:
        """Fail when anything was lost or doubled."""
        assert not self.lost, f"{len(self.lost)} of {self.accepted} lost: {self.lost[:5]}"
        assert not self.doubled, f"{len(self.doubled)} of {self.accepted} doubled: {self.doubled[:5]}"


@dataclass
class Load:
    """Posts at a steady rate, from a thread of its own, until it is left."""

    client: Client
    per_second: float
    what: str = "post_photo"
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Begin."""
        workers = max(2, round(self.per_second / 4))
        for number in range(workers):
            thread = threading.Thread(target=self._post, args=(number / self.per_second, workers / self.per_second))
            thread.start()
            self._threads.append(thread)
        return self

    def _post(self, delay: float, pause: float) -> None:
        due = time.monotonic() + delay
        while not self._stop.is_set():
            self._stop.wait(max(0.0, due - time.monotonic()))
            getattr(self.client, self.what)()
            due = max(due + pause, time.monotonic() - 1)

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for the answers that are due."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Replicas:
    """Watches how many replicas a fleet has."""

    def __init__(self, release: Release, component: str) -> None:
        """Look at it every half second from now on."""
        self.seen: list[tuple[float, int, int]] = []
        self._release, self._component = release, component
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                deployment = get("deployment", f"{self._release.name}-{self._component}", "-n", self._release.namespace)
                wanted = int(deployment["spec"]["replicas"])
                ready = int(deployment["status"].get("readyReplicas", 0))
                if not self.seen or self.seen[-1][1:] != (wanted, ready):
                    self.seen.append((time.monotonic() - self._started, wanted, ready))

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    @property
    def turns(self) -> int:
        """How often the wanted number changed its direction."""
        wanted = [number for _, number, _ in self.seen]
        steps = [1 if after > before else -1 for before, after in itertools.pairwise(wanted) if after != before]
        return sum(a != b for a, b in itertools.pairwise(steps))

    def __str__(self) -> str:
        """The wanted replicas over time."""
        shown: list[str] = []
        last = None
        for seconds, wanted, _ in self.seen:
            if wanted != last:
                shown.append(f"{wanted} at {seconds:.0f} s")
                last = wanted
        return ", ".join(shown)


def restarts(release: Release) -> dict[str, int]:
    """Return how often the containers of Offload's own pods were restarted, by pod."""
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
        for component in ("gateway", "beat", "worker-image", "worker-mail")
        for pod in release.pods(component)
    }


def kill_container(pod: dict[str, Any], number: int = signal.SIGKILL) -> int:
    """Send a signal to every process of a pod but its pause container, from the host; returns to how many."""
    uid = pod["metadata"]["uid"]
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            cgroup = (folder / "cgroup").read_text()
            if (uid in cgroup or uid.replace("-", "_") in cgroup) and (folder / "comm").read_text().strip() != "pause":
                found.append(int(folder.name))
    # Only now: with its first process a container loses all the others, and they would not be counted.
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    return len(found)


def seconds_of(text: str) -> float:
    """Return a time of the API as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def _photo() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((240, 180), 60).convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _large() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((3000, 2000)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PHOTO = _photo()
# Six megapixels of PNG: some tenths of a second of work, in few bytes.
LARGE_PHOTO = _large()
