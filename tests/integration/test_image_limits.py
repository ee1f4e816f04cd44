"""What an image's process may use: memory and time, and nobody beside it is touched."""

from __future__ import annotations

import io

from PIL import Image

from devstack.waiting import until

ONE = {"OFFLOAD_IMAGE_CONCURRENCY": "1"}


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_that_needs_too_much_memory_fails_and_its_process_goes_on(offload):
    offload.gateway()
    worker = offload.worker("image_worker", ONE | {"OFFLOAD_IMAGE_MEMORY_LIMIT_BYTES": "150000000"})
    client = offload.client()
    (child,) = until(worker.children, "the pool's child")

    def post(content: bytes) -> dict:
        answer = client.post("/v1/images", params={"width": 64}, content=content, headers={"Content-Type": "image/png"})
        return offload.wait(client, answer.json()["task_id"])

    assert post(png(100, 100))["state"] == "SUCCESS"
    large = post(png(7000, 7000))
    assert (large["state"], large["error"]["code"]) == ("FAILURE", "image.too_large")
    assert large["steps"][0]["deliveries"] == 1
    assert post(png(100, 100))["state"] == "SUCCESS"
    assert worker.children() == [child], "the same process"


def test_the_largest_image_that_we_take_has_the_memory_that_it_needs(offload):
    offload.gateway()
    offload.worker("image_worker", ONE)
    client = offload.client()
    answer = client.post(
        "/v1/images",
        params={"width": 4000, "format": "png"},
        content=png(7000, 7000),
        headers={"Content-Type": "image/png"},
    )
    assert offload.wait(client, answer.json()["task_id"], seconds=60)["state"] == "SUCCESS"
