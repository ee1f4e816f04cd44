"""Images made to break decoders, from the source distributions of those who collect them, through a real worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx
import pytest

from devstack import packages
from devstack.waiting import until
from offload_core import records

from .report import Row

if TYPE_CHECKING:
    from pathlib import Path

# Pillow's and thumbor's and pillow-heif's own test images: broken, truncated, huge, of formats that we do not read.
SOURCES = (f"pillow=={version('pillow')}", "thumbor==7.8.0", "pillow-heif==1.8.1")
LIMIT_BYTES = 20_000_000
SLOWEST_SECONDS = 10
# Test code and texts are no images; everything else is posted, whatever its name says.
NOT_IMAGES = {
    ".py",
    ".pyi",
    ".txt",
    ".md",
    ".rst",
    ".toml",
    ".cfg",
    ".in",
    ".c",
    ".h",
    ".cpp",
    ".json",
    ".yml",
    ".yaml",
    ".sh",
}


def collection() -> dict[str, Path]:
    found = {}
    for source in SOURCES:
        folder = packages.sdist(source)
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            is_test = {"tests", "Tests", "fixtures", "images"} & set(inside.parts)
            if is_test and file.is_file() and file.suffix not in NOT_IMAGES and 0 < file.stat().st_size <= LIMIT_BYTES:
                found[f"{source}/{inside}"] = file
    return found


@pytest.mark.full
def test_every_hostile_image_has_an_answer_and_nobody_dies(stack, scale):
    stack.gateway({"OFFLOAD_QUEUE_LIMIT": "100000"})
    worker = stack.worker("image_worker")
    files = collection()
    assert len(files) > 1_000

    contents = {name: file.read_bytes() for name, file in files.items()}

    refused: Counter[str] = Counter()

    async def post_all() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
            turns = asyncio.Semaphore(8)

            async def one(name: str, content: bytes) -> tuple[str, str] | None:
                async with turns:
                    headers = {"Content-Type": "image/jpeg"}
                    query = {"width": 64, "thumbnail": 16}
                    answer = await client.post("/v1/images", params=query, content=content, headers=headers)
                if answer.status_code == 415:
                    refused[answer.json()["code"]] += 1
                    return None
                assert answer.status_code == 202, (name, answer.text)
                return answer.json()["task_id"], name

            answers = await asyncio.gather(*(one(name, content) for name, content in contents.items()))
            return dict(answer for answer in answers if answer is not None)

    ids = asyncio.run(post_all())

    def all_ended() -> bool:
        return all((record := stack.record(one)) and record.state in records.TERMINAL for one in ids)

    until(all_ended, "every image to be answered", seconds=900, pause_seconds=2)
    found = {name: stack.record(task_id) for task_id, name in ids.items()}
    codes = Counter(
        next((step.error["code"] for step in record.steps if step.state == "FAILURE"), record.state)
        for record in found.values()
    )
    seconds = {name: (record.steps[0].ended_at - record.steps[0].started_at) / 1000 for name, record in found.items()}
    again = [name for name, record in found.items() if any(step.delivery > 1 for step in record.steps)]
    slowest = max(seconds, key=seconds.__getitem__)
    Row(
        order=7.1,
        fault="hostile images: the test images of Pillow, thumbor and pillow-heif",
        load=f"{len(files):,} files, each resized and made a thumbnail",
        injected=len(files),
        lost=len(files) - len(found) - refused.total(),
        doubled=sum(len(stack.outputs(task_id)) > 2 for task_id in ids),
        seen=f"at the post {dict(refused)}, then {dict(codes.most_common())}; "
        f"slowest {seconds[slowest]:.1f} s ({slowest.rpartition('/')[2]}); "
        f"{len(again)} delivered again",
    ).note()
    assert not again, "no process died"
    assert len(worker.children()) == 2
    assert worker.exit_code is None
    assert codes["task.failed"] == 0, [
        name for name, r in found.items() if any((s.error or {}).get("code") == "task.failed" for s in r.steps)
    ]
    assert seconds[slowest] <= SLOWEST_SECONDS
