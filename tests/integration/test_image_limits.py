"""What an image may take: memory and time, and nobody beside it is touched."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devstack.waiting import until
from image_worker.images import Limits

ONE = {"OFFLOAD_CONCURRENCY": "1"}
ONE_PIXEL = Path(__file__).parents[1] / "unit" / "images" / "one_pixel_rgb.png"


def picture(width: int, height: int, *, alpha: bool = False) -> Image.Image:
    """A picture with some detail, made quickly."""
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 4 if alpha else 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def post(client, content: bytes, **params) -> str:
    answer = client.post("/v1/images", params=params, content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code == 202, answer.text
    return answer.json()["task_id"]


def image_processes(worker) -> list[int]:
    """The processes beside the pool's."""
    return [pid for child in worker.children() for pid in children_of(child)]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def has_its_image(process: int) -> bool:
    """Whether an image waits in the pipe of a stopped process: before that, its end would hit no image."""
    with Path(f"/proc/{process}/fd/0").open("rb", buffering=0) as pipe:
        (waiting,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return waiting > 0


def test_an_image_beyond_its_memory_is_refused_on_its_header_and_its_process_goes_on(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE | {"OFFLOAD_TASK_MEMORY_LIMIT_BYTES": "200000000"})
    client = offload.client()
    (child,) = until(worker.children, "the pool's child")
    small = encoded(picture(100, 100), "PNG")
    assert offload.wait(client, post(client, small, width=64))["state"] == "SUCCESS"
    before = image_processes(worker)
    large = offload.wait(
        client, post(client, encoded(Image.new("RGB", (7000, 7000)), "PNG", compress_level=1), width=64)
    )
    assert (large["state"], large["error"]["code"]) == ("FAILURE", "image.too_large")
    assert large["steps"][0]["deliveries"] == 1
    assert offload.wait(client, post(client, small, width=64))["state"] == "SUCCESS"
    assert (worker.children(), image_processes(worker)) == ([child], before), "the same processes"


def test_a_pixel_blown_up_is_refused_and_harms_nobody(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE)
    client = offload.client()
    (child,) = until(worker.children, "the pool's child")
    bombs = [
        post(client, ONE_PIXEL.read_bytes(), width=16_383, height=16_383, fit=fit, format=form)
        for fit in ("fill", "cover")
        for form in ("avif", "webp", "png")
    ]
    innocent = post(client, encoded(picture(100, 100), "PNG"), width=64)
    assert {offload.wait(client, bomb)["error"]["code"] for bomb in bombs} == {"image.too_large"}
    assert offload.wait(client, innocent)["state"] == "SUCCESS"
    assert worker.children() == [child]


def test_a_codec_that_dies_takes_its_own_image_alone(offload):
    """Killed by a signal that a crash would send: a code at once, no second delivery, and the next image is done."""
    offload.gateway()
    worker = offload.worker("image_worker", ONE)
    client = offload.client()
    (child,) = until(worker.children, "the pool's child")
    (process,) = until(lambda: image_processes(worker), "the image process")
    os.kill(process, signal.SIGSTOP)
    task = post(client, encoded(picture(100, 100), "PNG"), width=64)
    until(lambda: has_its_image(process), "the image to be with its process")
    os.kill(process, signal.SIGSEGV)
    os.kill(process, signal.SIGCONT)
    ended = offload.wait(client, task)
    assert (ended["error"]["code"], ended["steps"][0]["deliveries"]) == ("image.codec_crashed", 1)
    assert offload.wait(client, post(client, encoded(picture(100, 100), "PNG"), width=64))["state"] == "SUCCESS"
    assert worker.children() == [child]


def test_an_image_process_that_is_killed_from_outside_is_nobodys_failure(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE)
    client = offload.client()
    (process,) = until(lambda: image_processes(worker), "the image process")
    os.kill(process, signal.SIGSTOP)
    task = post(client, encoded(picture(100, 100), "PNG"), width=64)
    until(lambda: has_its_image(process), "the image to be with its process")
    os.kill(process, signal.SIGKILL)
    ended = offload.wait(client, task)
    assert (ended["state"], ended["steps"][0]["attempts"]) == ("SUCCESS", 2)


def test_an_image_process_that_keeps_much_memory_is_replaced_before_the_next_image(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE | {"OFFLOAD_IMAGE_RECYCLE_BYTES": "1"})
    client = offload.client()
    seen = set()
    for _ in range(3):
        (process,) = until(lambda: image_processes(worker), "the image process")
        assert process not in seen
        seen.add(process)
        assert offload.wait(client, post(client, encoded(picture(100, 100), "PNG"), width=64))["state"] == "SUCCESS"
        until(lambda process=process: image_processes(worker) not in ([], [process]), "a new process")


def test_the_soft_limit_ends_an_image_that_hangs_in_its_codec(offload):
    offload.gateway()
    # Long enough for a new process to start and do the second image, also on a busy machine.
    limits = {"OFFLOAD_SOFT_TIME_LIMIT_SECONDS": "5", "OFFLOAD_HARD_TIME_LIMIT_SECONDS": "30"}
    worker = offload.worker("image_worker", ONE | limits)
    client = offload.client()
    (child,) = until(worker.children, "the pool's child")
    (process,) = until(lambda: image_processes(worker), "the image process")
    os.kill(process, signal.SIGSTOP)
    ended = offload.wait(client, post(client, encoded(picture(100, 100), "PNG"), width=64))
    assert ended["error"]["code"] == "task.soft_time_limit"
    until(lambda: process not in image_processes(worker), "the hanging process to be gone")
    assert offload.wait(client, post(client, encoded(picture(100, 100), "PNG"), width=64))["state"] == "SUCCESS"
    assert worker.children() == [child]


def test_an_image_process_ends_with_its_pool_process(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE)
    (child,) = until(worker.children, "the pool's child")
    (process,) = until(lambda: image_processes(worker), "the image process")
    os.kill(child, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{process}").exists(), "the image process to end")


def test_the_largest_images_have_the_memory_that_they_need(offload):
    """48 megapixels, as phones make them, in full size, on a fresh process and on ones that have done such; then a
    small one."""
    large = encoded(picture(8000, 6000), "JPEG", quality=85)
    offload.gateway()
    offload.worker("image_worker", ONE)
    client = offload.client()
    for form in ("avif", "webp", "png"):
        ended = offload.wait(client, post(client, large, format=form), seconds=120)
        assert ended["state"] == "SUCCESS", ended["error"]
    assert offload.wait(client, post(client, encoded(picture(64, 64), "PNG"), width=32))["state"] == "SUCCESS"


# -- the prediction, held against what a process takes

CHILD = """
import json, sys
from image_worker.images import geometry, memory, resize
from image_worker.images.sources import identify
from offload_contracts.images import Fit, ImageFormat
name, width, height, target, animated = json.loads(sys.argv[1])
data = open(name, "rb").read()
source = identify(data)
box = geometry.Box.of(source.size, width, height, Fit.COVER)
frames = source.frame_count if animated else 1
needs = memory.predict(source, box, ImageFormat(target), frames=frames, input_bytes=len(data))
resize(data, width=width, height=height, fit=Fit.COVER, target=ImageFormat(target), animated=animated)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps([needs.usual, int(peak) * 1024]))
"""


def animation(form: str) -> bytes:
    frames = [picture(500, 300).rotate(9 * number) for number in range(20)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)


@pytest.mark.parametrize(
    ("source", "width", "height", "target"),
    [
        ("jpeg", None, None, "jpeg"),
        ("jpeg", None, None, "avif"),
        ("jpeg", None, None, "gif"),
        ("jpeg", 400, None, "jpeg"),
        ("png", 1500, 1400, "webp"),
        ("png", None, None, "avif"),
        ("transparent", None, None, "webp"),
        ("transparent", None, None, "avif"),
        ("transparent", 300, None, "png"),
        ("grey16", None, None, "png"),
        ("webp", None, None, "png"),
        ("avif", None, None, "avif"),
        ("gif", None, None, "webp"),
        ("pixel", 1800, 1800, "avif"),
        ("animated gif", 250, None, "webp"),
        ("animated webp", None, None, "gif"),
        ("animated png", None, None, "png"),
    ],
)
def test_no_image_takes_more_memory_than_is_predicted(source, width, height, target, tmp_path):
    make = {
        "jpeg": lambda: encoded(picture(2000, 1500), "JPEG"),
        "png": lambda: encoded(picture(2000, 1500), "PNG", compress_level=1),
        "transparent": lambda: encoded(picture(2000, 1500, alpha=True), "PNG", compress_level=1),
        "grey16": lambda: encoded(Image.fromarray(np.full((1500, 2000), 9_000, np.uint16)), "PNG"),
        "webp": lambda: encoded(picture(2000, 1500), "WEBP", method=0),
        "avif": lambda: encoded(picture(2000, 1500), "AVIF", speed=10),
        "gif": lambda: encoded(picture(2000, 1500).quantize(64), "GIF"),
        "pixel": ONE_PIXEL.read_bytes,
        "animated gif": lambda: animation("GIF"),
        "animated webp": lambda: animation("WEBP"),
        "animated png": lambda: animation("PNG"),
    }
    file = tmp_path / "image"
    file.write_bytes(make[source]())
    options = json.dumps([str(file), width, height, target, source.startswith("animated")])
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, options], capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    predicted, peak = json.loads(done.stdout)
    assert peak <= predicted <= 3 * peak
    assert predicted < Limits().memory_bytes
