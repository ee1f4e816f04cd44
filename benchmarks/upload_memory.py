"""Memory of the gateway and of the bundled S3 while more uploads are offered than they can hold: reports/uploads.md.

The gateway must stay below its pod's limit in the chart (384 MiB), the S3 server below its own (1 GiB).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from benchmarks.measure import console
from devstack.servers import S3Server
from devstack.stack import Stack
from devstack.waiting import until

PHOTO = (Path(__file__).parents[1] / "devstack" / "src" / "devstack" / "photos" / "flowers.jpg").read_bytes()
REPORT = Path(__file__).parents[1] / "reports" / "uploads.md"
JPEG = {"Content-Type": "image/jpeg"}
# What is offered: a name, how many uploads, how many at once, and how large each is.
OFFERS = (
    ("500 photos of 2.4 MB, all at once", 500, 500, len(PHOTO)),
    ("60 uploads of 19.9 MB, 30 at once", 60, 30, 19_900_000),
)


def measure(folder: Path) -> None:
    """Offer the uploads, on a local folder and on S3, and write the report."""
    lines = [
        "# Memory under many uploads",
        "",
        "`python -m benchmarks memory` on two cores, with the default settings (128 MiB for uploads). Clients that get",
        '503 retry after `Retry-After`. Resident memory in MB; "before" is measured right after the start.',
        "Lost: answers that the client did not get, because its connection was reset.",
        "",
        "| offered | blob store | gateway before | gateway peak | S3 peak | accepted | 503 | lost | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, count, at_once, size in OFFERS:
        content = PHOTO + bytes(size - len(PHOTO))
        for store in ("folder", "S3"):
            place = folder / f"{store}-{count}-{time.time_ns()}"
            place.mkdir(parents=True)
            lines.append(f"| {name} | {store} | {_offer(place, content, count, at_once, with_s3=store == 'S3')} |")
            console.print(lines[-1])
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _offer(folder: Path, content: bytes, count: int, at_once: int, *, with_s3: bool) -> str:
    s3 = S3Server(folder / "s3").start() if with_s3 else None
    try:
        with Stack(folder, {"OFFLOAD_QUEUE_LIMIT": "100000"}, telemetry=False) as stack:
            if s3 is not None:
                s3.make_bucket()
                stack.environment |= {
                    "OFFLOAD_BLOB_URL": f"s3://{s3.bucket}",
                    "OFFLOAD_S3_ENDPOINT": s3.endpoint,
                    "OFFLOAD_S3_ACCESS_KEY_ID": s3.access_key,
                    "OFFLOAD_S3_SECRET_ACCESS_KEY": s3.secret_key,
                }
            gateway = stack.gateway()
            until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, "the gateway to be ready", seconds=60)
            watched = {"gateway": gateway.pid} | ({"s3": s3.process.pid} if s3 and s3.process else {})
            before = {name: _resident(pid) for name, pid in watched.items()}
            peaks, stopped = dict(before), threading.Event()

            def watch() -> None:
                while not stopped.wait(0.02):
                    for name, pid in watched.items():
                        peaks[name] = max(peaks[name], _resident(pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            began = time.monotonic()
            try:
                answers = asyncio.run(_post_all(stack.url, content, count, at_once))
            finally:
                stopped.set()
                watcher.join()
            seconds = time.monotonic() - began
            s3_peak = f"{peaks['s3'] / 1e6:.0f}" if s3 else "-"
            return (
                f"{before['gateway'] / 1e6:.0f} | {peaks['gateway'] / 1e6:.0f} | {s3_peak} | {answers[202]} of {count}"
                f" | {answers[503]} | {answers[0]} | {seconds:.0f}"
            )
    finally:
        if s3 is not None:
            s3.stop()


async def _post_all(url: str, content: bytes, count: int, at_once: int) -> Counter[int]:
    """Return how often each status was answered; 0 stands for an answer that was lost with its connection."""
    answers: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def post() -> None:
            for _ in range(20):
                try:
                    answer = await client.post("/v1/images", content=content, headers=JPEG)
                except httpx.TransportError:
                    answers[0] += 1
                    continue
                answers[answer.status_code] += 1
                if answer.status_code != 503:
                    return
                await asyncio.sleep(int(answer.headers["Retry-After"]))

        await asyncio.gather(*(post() for _ in range(count)))
    return answers


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
