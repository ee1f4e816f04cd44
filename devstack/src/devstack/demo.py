"""The demo: Offload's main job on real input, shown as it happens. It fails unless all of it really happened."""

from __future__ import annotations

import io
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.tree import Tree

from devstack.stack import Stack
from devstack.waiting import until
from offload_contracts.images import THUMBNAIL_IMAGE
from offload_contracts.mails import NOTIFY
from offload_core.records import TERMINAL

if TYPE_CHECKING:
    import httpx

    from devstack.otlp_receiver import Span

# A task type of one's own, and a built-in one after it.
INVOICE: list[dict[str, Any]] = [
    {
        "task": "invoice.render.v1",
        "input": {"number": "2026-17", "customer": "Cara", "lines": [{"text": "Paper", "cents": 1250}]},
    },
    {"task": NOTIFY.name, "input": {"to": "cara@example.com"}},
]
BADGES: list[dict[str, Any]] = [
    {"parallel": [{"task": "badge.draw.v1", "input": {"name": name}} for name in ("Ann", "Bob")]},
    {"task": THUMBNAIL_IMAGE.name, "input": {"longest_side": 100}},
    {"task": "files.archive.v1", "input": {}},
]
MARKS = {"SUCCESS": "[green]✓[/]", "FAILURE": "[red]✗[/]", "STARTED": "[yellow]▶[/]", "RETRY": "[yellow]↻[/]"}
EXIF_ORIENTATION, EXIF_GPS = 0x0112, 0x8825
# A worker of one's own, as a repository beside Offload's has it.
OWN_WORKER = Path(__file__).parents[3] / "examples" / "own-worker" / "src"
TRACE_SPANS = 7


@dataclass(slots=True)
class Job:
    """One task of the demo: what it is called here, and its latest view."""

    title: str
    task: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.task["state"] in TERMINAL


class Demo:
    """One run of the demo, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Empty the folder."""
        shutil.rmtree(folder, ignore_errors=True)
        self.stack = Stack(folder)
        self.results = folder / "results"
        self.results.mkdir()
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = 120
        self.failures: list[str] = []

    def run(self) -> int:
        """Run everything; returns the exit code."""
        started = time.monotonic()
        try:
            with self.stack:
                self._show()
        finally:
            self.stack.stop()
        self.console.print(f"Everything was stopped. Results: [bold]{self.results}[/]")
        if self.failures:
            for failure in self.failures:
                self.console.print(f"[red]FAILED:[/] {failure}")
            return 1
        self.console.print(f"[green]All of it happened[/], in {time.monotonic() - started:.1f} s.")
        return 0

    def _show(self) -> None:
        self.console.print(
            "Starting Valkey, a mail server, a trace receiver, gateway, image-worker, mail-worker, housekeeper, beat, "
            "and a worker of one's own: examples/own-worker …"
        )
        own = self.stack.own_worker("acme.worker:worker", OWN_WORKER, wait=False)
        self.stack.start_all()
        own.wait_for("registered in the catalogue")
        self.console.print(f"Gateway: {self.stack.url}/docs\n")
        photo = (resources.files("devstack") / "photos" / "flowers.jpg").read_bytes()
        exif = Image.open(io.BytesIO(photo)).getexif()
        self._expect(exif.get(EXIF_ORIENTATION) == 3, "the photo carries a turned orientation")  # noqa: PLR2004 -- upside down
        self._expect(bool(exif.get_ifd(EXIF_GPS)), "the photo carries a GPS position")
        with self.stack.client() as client:
            needed = {step["task"] for stage in (*INVOICE, *BADGES) for step in stage.get("parallel", [stage])}
            until(
                lambda: needed <= {one["name"] for one in client.get("/v1/task-types").json()["task_types"]},
                "the gateway to know every task type",
                seconds=20,
            )
            jobs = self._post(client, photo)
            self._follow(client, jobs)
            self._fetch(client, jobs)
            self._summarise(jobs)
            self._show_mails(jobs)
            self._show_trace(jobs[0])

    def _post(self, client: httpx.Client, photo: bytes) -> list[Job]:
        options = {"width": "800", "height": "800", "thumbnail": "200", "notify": "ann@example.com"}
        jpeg = {"Content-Type": "image/jpeg"}
        welcome = {"to": "bob@example.com", "template": "welcome", "context": {"name": "Bob", "url": self.stack.url}}
        report = {"rows": 10_000, "title": "Sales of the year"}
        posts = [
            ("photo", client.post("/v1/images", params=options, content=photo, headers=jpeg)),
            ("welcome mail", client.post("/v1/emails", json=welcome)),
            ("report", client.post("/v1/reports", json=report)),
            ("own invoice", client.post("/v1/tasks", json={"steps": INVOICE, "tags": ["customer:cara"]})),
            ("own badges", client.post("/v1/tasks", json={"steps": BADGES})),
            ("no image", client.post("/v1/images", params=options, content=b"This is no image.", headers=jpeg)),
        ]
        jobs = []
        for title, response in posts:
            self._expect(response.status_code == 202, f"{title}: 202, not {response.status_code} {response.text}")  # noqa: PLR2004 -- accepted
            jobs.append(Job(title, client.get(response.json()["status_url"]).json()))
        return jobs

    def _follow(self, client: httpx.Client, jobs: list[Job]) -> None:
        """Show the steps until every task has ended."""
        deadline = time.monotonic() + 90
        with Live(console=self.console, refresh_per_second=10, transient=True) as live:
            while not all(job.is_final for job in jobs) and time.monotonic() < deadline:
                for job in jobs:
                    if not job.is_final:
                        job.task = client.get(job.task["links"]["self"]).json()
                live.update(_progress(jobs))
                time.sleep(0.1)
        self.console.print(_progress(jobs))

    def _fetch(self, client: httpx.Client, jobs: list[Job]) -> None:
        """Get the results, and look at them."""
        photo, mail, report, invoice, badges, broken = jobs
        for job in jobs:
            for output in job.task["links"]["outputs"]:
                response = client.get(output["href"])
                self._expect(response.status_code == 200, f"{job.title}: {output['name']} can be had")  # noqa: PLR2004 -- OK
                extension = output["name"].rpartition(".")[2]
                (self.results / f"{output['step']}.{extension}").write_bytes(response.content)
        self._expect(photo.task["state"] == "SUCCESS", f"the photo is done: {photo.task['message']}")
        self._expect(mail.task["state"] == "SUCCESS", f"the mail is sent: {mail.task['message']}")
        self._expect(report.task["state"] == "SUCCESS", f"the report is done: {report.task['message']}")
        self._expect(invoice.task["state"] == "SUCCESS", f"the invoice is done: {invoice.task['message']}")
        self._expect((self.results / "invoice.pdf").exists(), "invoice.pdf was made by the worker of one's own")
        files = (badges.task["result"] or {}).get("files", ())
        self._expect(
            badges.task["state"] == "SUCCESS" and len(files) == 3,  # noqa: PLR2004 -- two badges, one thumbnail
            f"two badges, drawn at once, and a thumbnail are in one archive: {badges.task['message']} {files}",
        )
        error = broken.task["error"] or {}
        self._expect(
            (broken.task["state"], error.get("code")) == ("FAILURE", "image.not_an_image"),
            f"the file that is no image fails with its code: {broken.task['state']} {error}",
        )
        for name, size in (("resize.jpg", (800, 600)), ("thumbnail.jpg", (200, 150))):
            path = self.results / name
            if not path.exists():
                self._expect(False, f"{name} was made")
                continue
            with Image.open(path) as image:
                self._expect(image.size == size, f"{name} has {size} pixels, not {image.size}")
                self._expect(not image.getexif(), f"{name} carries no metadata")
        pdf = self.results / "report.pdf"
        self._expect(pdf.exists() and pdf.read_bytes().startswith(b"%PDF-"), "report.pdf is a PDF")

    def _summarise(self, jobs: list[Job]) -> None:
        table = Table("task", "state", "steps", "ms", "outputs", title="What was done", title_justify="left")
        for job in jobs:
            task = job.task
            steps = "\n".join(f"{step['name']} {step['state']}" for step in task["steps"])
            times = "\n".join(_milliseconds(step) for step in task["steps"])
            outputs = "\n".join(
                f"{output['step']} {output['size_bytes']:,} bytes" for output in task["links"]["outputs"]
            )
            error = task["error"]
            table.add_row(
                job.title, task["state"] + (f"\n[red]{error['code']}[/]" if error else ""), steps, times, outputs
            )
        self.console.print(table)

    def _show_mails(self, jobs: list[Job]) -> None:
        wanted = {
            "ann@example.com": ["Your images are ready", "Your task could not be done"],
            "bob@example.com": ["Welcome, Bob"],
            "cara@example.com": ["Your files are ready"],
        }

        def received() -> bool:
            return all(len(self.stack.smtp.to(address)) >= len(subjects) for address, subjects in wanted.items())

        try:
            until(received, "the mails", seconds=20)
        except TimeoutError as error:
            self._expect(False, str(error))
        for address, subjects in wanted.items():
            got = sorted(str(mail.parsed["Subject"]) for mail in self.stack.smtp.to(address))
            self._expect(got == subjects, f"{address} got {subjects}, not {got}")
        task_id = jobs[0].task["task_id"]
        for number, mail in enumerate(self.stack.smtp.mails, 1):
            (self.results / f"mail-{number}.eml").write_bytes(mail.data)
            if task_id in str(mail.parsed["Message-ID"]):
                body = mail.parsed.get_body(("plain",))
                head = "\n".join(f"{name}: {mail.parsed[name]}" for name in ("From", "To", "Subject", "Message-ID"))
                text = head + "\n\n" + (body.get_content() if body else "")
                self.console.print(Panel(text, title="The mail as received", title_align="left"))

    def _show_trace(self, job: Job) -> None:
        trace_id = job.task["trace_id"]
        try:
            until(lambda: len(self.stack.otlp.trace(trace_id)) >= TRACE_SPANS, "the whole trace", seconds=20)
        except TimeoutError as error:
            self._expect(False, str(error))
        spans = self.stack.otlp.trace(trace_id)
        tree = Tree(f"Trace {trace_id}")
        _grow(tree, spans, "")
        self.console.print(tree)
        runs = [span.name for span in spans if span.name.startswith("run/")]
        self._expect(
            runs == ["run/image.resize.v1", "run/image.thumbnail.v1", "run/mail.notify.v1"],
            f"upload, three steps and mail are one trace: {runs}",
        )

    def _expect(self, condition: bool, what: str) -> None:  # noqa: FBT001 -- reads like an assertion
        if not condition:
            self.failures.append(what)


def _progress(jobs: list[Job]) -> Table:
    table = Table.grid(padding=(0, 2))
    for job in jobs:
        marks = " ".join(
            f"{MARKS.get(step['state'], '·')} {step['name'].split('.', 1)[1].removesuffix('.v1')}"
            for step in job.task["steps"]
        )
        table.add_row(f"[bold]{job.title}[/]", marks, job.task["message"])
    return table


def _milliseconds(step: dict[str, Any]) -> str:
    if not step["started_at"] or not step["ended_at"]:
        return "-"
    ends = [datetime.fromisoformat(step[name]) for name in ("started_at", "ended_at")]
    return f"{(ends[1] - ends[0]).total_seconds() * 1000:.0f}"


def _grow(tree: Tree, spans: list[Span], parent_id: str) -> None:
    for span in spans:
        if span.parent_id == parent_id:
            waited = span.attributes.get("offload.queue.wait_seconds")
            wait = f", waited {float(str(waited)) * 1000:.0f} ms" if waited is not None else ""
            branch = tree.add(f"[bold]{span.name}[/]  {span.service}  {span.milliseconds:.1f} ms{wait}")
            _grow(branch, spans, span.span_id)
