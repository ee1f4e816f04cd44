"""The mail server, the blob store, images that are bombs, and two versions at once."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from integration.conftest import PREFIX
from PIL import Image

from devstack.servers import S3Server
from devstack.smtp_sink import DROP
from devstack.waiting import until
from offload_contracts.images import RESIZE_IMAGE, ResizeImage
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core import messages, records
from offload_core.messages import NewStep
from offload_core.task_store import TaskStore

from .ledgers import Client, Post, image, judge, mail, noisy_photo
from .report import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosmtpd.smtp import Envelope


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *, bits: int = 1, colour: int = 0) -> bytes:
    """A PNG that says of itself what it likes."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Small uploads that would like to be gigabytes."""
    zeros = zlib.compress(b"\0" * 50_000_000, 9)
    gif = io.BytesIO()
    frame = Image.new("P", (900, 900))
    frame.save(gif, "GIF", save_all=True, append_images=[Image.new("P", (900, 900), n % 255) for n in range(1, 300)])
    text = b"a\0\0" + zlib.compress(b"x" * 200_000_000, 9)
    bombed = png(8, 8, zlib.compress(b"\0" * 16))
    # A key frame's header of 16,383 x 16,383 (RFC 6386, section 9.1), and next to nothing behind it.
    frame_header = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(40)
    webp = b"WEBPVP8 " + struct.pack("<I", len(frame_header)) + frame_header
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    return {
        "a header of 65,000 x 65,000": png(65_000, 65_000, zeros),
        "a header of 2^31 x 2^31": png(2**31 - 1, 2**31 - 1, zeros),
        "50 MB of zeros for an 8 x 8 image": png(8, 8, zeros),
        "a text chunk of 200 MB": bombed[:33] + chunk(b"zTXt", text) + bombed[33:],
        "an ICC profile of 200 MB": bombed[:33] + chunk(b"iCCP", text) + bombed[33:],
        "300 frames": gif.getvalue(),
        "256 million pixels of WebP": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "a pixel that is to become 268 million": pixel.getvalue(),
    }


def test_memory_bombs(stack, scale):
    stack.gateway()
    worker = stack.worker("image_worker")
    api = stack.client()
    slowest, found, again = 0.0, {}, 0
    children: set[int] = set()
    kinds = bombs()
    for name, content in kinds.items():
        side = 16_383 if "to become" in name else 64
        query = {"width": side, "height": side, "fit": "fill", "format": "avif"}
        answer = api.post("/v1/images", params=query, content=content, headers={"Content-Type": "image/png"})
        task = stack.wait(api, answer.json()["task_id"], seconds=60)
        record = stack.record(task["task_id"])
        slowest = max(slowest, (record.steps[0].ended_at - record.steps[0].started_at) / 1000)
        found[name] = task["error"]["code"] if task["error"] else task["state"]
        again += task["steps"][0]["deliveries"] - 1
        children |= set(worker.children())
    Row(
        order=7,
        fault="memory bombs",
        load=f"{len(found)} kinds: headers, decompression, profiles, frames",
        injected=len(kinds),
        lost=len(kinds) - len(found),
        doubled=again,
        seen=f"slowest {slowest:.2f} s; {dict(Counter(found.values()))}; no process died",
    ).note()
    assert again == 0
    assert worker.exit_code is None
    assert len(children) == 2, "no child was replaced"
    if scale.is_full:
        assert slowest <= 2, found


REPLIES = ("421 closing", "450 busy", "451 later", "452 full", "550 no such user", "552 too big", "554 no")


def is_final(stage: str, reply: str) -> bool:
    """Whether a reply is for good: 552 to a recipient is taken for 452 (RFC 5321, section 4.5.3.1.10)."""
    return reply.startswith("5") and (stage, reply[:3]) != ("RCPT", "552")


def smtp_cases() -> dict[str, tuple[str, str, str]]:
    """An address for each stage, reply and policy."""
    cases = [(stage, reply) for stage in ("RCPT", "DATA", "DOT") for reply in REPLIES]
    cases += [("RCPT", "421 bye"), ("DATA", DROP), ("TEXT", DROP), ("DOT", DROP), ("DOT", "SLOW")]
    both = [(*case, policy) for case in cases for policy in ("at-least-once", "at-most-once")]
    return {f"t{number}@example.com": case for number, case in enumerate(both)}


def misbehaving(cases: dict[str, tuple[str, str, str]]) -> Callable[[str, Envelope], str | None]:
    """Return a mail server's script: each address has its reply, once; those for good, each time."""
    used: Counter[str] = Counter()

    def script(stage: str, envelope: Envelope) -> str | None:
        at, _, address = stage.partition(" ")
        address = address or envelope.rcpt_tos[0]
        wanted, reply, _ = cases[address]
        if at != wanted or (used[address] and not is_final(wanted, reply)):
            return None
        used[address] += 1
        if reply == "SLOW":
            time.sleep(2)  # not a wait: the server is slow, and well within the limit
            return None
        return reply

    return script


@pytest.mark.full
def test_the_mail_server(stack, scale):
    """Each reply at each stage, and silence at each: what heals is tried again, what does not is not."""
    stack.environment["OFFLOAD_SMTP_DATA_TIMEOUT_SECONDS"] = "5"
    stack.gateway()
    stack.worker("mail_worker")
    cases = smtp_cases()
    stack.smtp.script = misbehaving(cases)
    client = Client(stack.url, stack.folder / "client.jsonl", at_once=4)
    client.post([mail(number, policy=case[2]) for number, case in enumerate(cases.values())])
    verdict = judge(stack, client, seconds=180, may_fail=True)
    copies = stack.mails()
    extra = dict.fromkeys(("at-least-once", "at-most-once"), 0)
    ambiguous = 0
    api = stack.client()
    for task_id, line in client.accepted().items():
        stage, reply, policy = cases[line["to"]]
        task = stack.task(api, task_id)
        seen = (task["state"], task["steps"][0]["attempts"], copies[line["to"]])
        assert seen in expected(stage, reply, policy), (stage, reply, policy, task)
        if stage == "DOT":
            ambiguous += int(stack.redis.client().hget(f"offload:ledger:{task_id}", "ambiguous") or 0)
        extra[policy] += max(copies[line["to"]] - 1, 0)
    ids = Counter(mail.parsed["Message-ID"] for mail in stack.smtp.mails if mail.taken)
    Row(
        order=23,
        fault="the mail server: 4xx, 5xx and silence at each stage, both policies",
        load=f"{len(cases)} mails",
        injected=len(cases),
        lost=len(verdict.lost),
        doubled=extra["at-most-once"] + extra["at-least-once"] - 1,
        seen=f"4xx tried again to success, 5xx one attempt; silent after the final dot: {extra['at-least-once']} extra "
        f"copy (same Message-ID) at least once, {extra['at-most-once']} at most once; {ambiguous} counted as ambiguous",
    ).note()
    assert extra == {"at-least-once": 1, "at-most-once": 0}
    assert ambiguous == 2
    assert ids.most_common(1)[0][1] == 2
    assert len(verdict.lost) == 0


def expected(stage: str, reply: str, policy: str) -> list[tuple[str, int, int]]:
    """How a mail may end, after how many attempts, with how many copies."""
    if (stage, reply) == ("DOT", DROP):
        return [("SUCCESS", 2, 2)] if policy == "at-least-once" else [("FAILURE", 1, 1)]
    if is_final(stage, reply):
        return [("FAILURE", 1, 0)]
    if stage == "TEXT" and policy == "at-most-once":
        # Whether the dot was still sent into the dead connection is chance; if it was, nobody can know more.
        return [("SUCCESS", 2, 1), ("FAILURE", 1, 0)]
    return [("SUCCESS", 1 if reply == "SLOW" else 2, 1)]


# The gateway closes the connection of a refused upload while httpx writes to it; httpx then forgets to close its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.full
def test_the_blob_store_down_for_half_a_minute(stack, scale):
    """A real S3 that is stopped under load: posts get 503, steps are tried again, and all of it is done."""
    s3 = S3Server(stack.folder / "s3").start()
    s3.make_bucket()
    stack.environment |= {
        "OFFLOAD_BLOB_URL": f"s3://{s3.bucket}/blobs",
        "OFFLOAD_S3_ENDPOINT": s3.endpoint,
        "OFFLOAD_S3_ACCESS_KEY_ID": s3.access_key,
        "OFFLOAD_S3_SECRET_ACCESS_KEY": s3.secret_key,
        "OFFLOAD_BLOB_TIMEOUT_SECONDS": "5",
        "OFFLOAD_RETRY_BACKOFF_SECONDS": "8",
    }
    stack.gateway()
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    client = Client(stack.url, stack.folder / "client.jsonl", per_second=15, at_once=16)
    content = noisy_photo(600, 400)
    over: list[bool] = []
    posts = [image(number, content, chain=True) for number in range(100_000)]
    # Its outputs are in S3: what is looked at are records and mails.
    client.start(lambda n: Post(**vars(posts[n]) | {"outputs": 0}), 150, more=lambda: not over, give_up_seconds=240)
    until(lambda: len(client.accepted()) > 60, "work", seconds=60)
    s3.stop()
    time.sleep(30)  # the outage itself
    began = time.monotonic()
    s3.start()
    s3.make_bucket()
    over.append(True)
    client.join(240)
    verdict = judge(stack, client, seconds=300)
    # Without its digest: more than one of the same task and step would be two versions.
    names = Counter(key.rpartition("-")[0] for key in s3.keys("blobs/outputs/"))
    doubled = [name for name, count in names.items() if count > 1]
    Row(
        order=24,
        fault="the blob store (S3) down for 30 s",
        load=f"{verdict.tasks} chains of three, 15 posts a second",
        injected=1,
        lost=len(verdict.lost) + 2 * verdict.tasks - len(names),
        doubled=len(verdict.doubled) + len(doubled),
        recovery=[time.monotonic() - began],
        seen=f"answers {dict(client.answers)}",
    ).note()
    verdict.check()
    assert len(names) == 2 * verdict.tasks
    assert not doubled
    assert client.without_retry_after == 0
    s3.stop()


@pytest.mark.full
def test_two_versions_at_once(stack, scale):
    """An older gateway with this worker: fields are missing. A newer one: there are more. And steps not known yet."""
    stack.gateway()
    for module in ("image_worker", "mail_worker"):
        stack.worker(module)
    redis, api = stack.redis.client(), stack.client()
    photo, count = noisy_photo(60, 40), 0
    for turn in range(100):
        for newer in (False, True):
            more = {"a_field_of_tomorrow": {"deep": [turn]}} if newer else {}
            for contract in (RESIZE_IMAGE, RENDER_REPORT):
                task_id = f"v{count}"
                count += 1
                if contract is RESIZE_IMAGE:
                    upload = stack.blobs / "uploads" / task_id
                    upload.mkdir(parents=True)
                    (upload / "original").write_bytes(photo)
                    arguments = contract.encode(ResizeImage(source=f"uploads/{task_id}/original", width=20)) | more
                else:
                    arguments = contract.encode(RenderReport(rows=1)) | more
                step = NewStep(contract.name, contract.queue, arguments)
                made = messages.envelopes(task_id, [(step,)], {}, origin="test")
                task = records.NewTask(task_id, "image", "development", ((step,),), made)
                TaskStore(PREFIX, f"{PREFIX}queue:").accept(task).run(redis)
    tasks = [stack.wait(api, f"v{number}", seconds=120) for number in range(count)]
    states = Counter(task["state"] for task in tasks)
    Row(
        order=25,
        fault="an older and a newer gateway at the same worker",
        load=f"{count} tasks, half of them with fields of tomorrow",
        injected=count,
        lost=count - states["SUCCESS"],
        doubled=sum(len(stack.outputs(task["task_id"])) - 1 for task in tasks),
        seen=f"{states['FAILURE']} decode errors",
    ).note()
    assert states == {"SUCCESS": count}, json.dumps([task["error"] for task in tasks if task["error"]][:3])
