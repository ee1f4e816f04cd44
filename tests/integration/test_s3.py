"""The same with a real S3."""

from __future__ import annotations

import pytest

from devstack.servers import S3Server
from devstack.waiting import until

from .conftest import JPEG, photo


@pytest.fixture
def s3(tmp_path):
    server = S3Server(tmp_path / "s3").start()
    yield server
    server.stop()


def test_a_photo_goes_through_s3(offload, s3):
    offload.environment |= {
        "OFFLOAD_BLOB_URL": f"s3://{s3.bucket}/some/folder",
        "OFFLOAD_S3_ENDPOINT": s3.endpoint,
        "OFFLOAD_S3_ACCESS_KEY_ID": s3.access_key,
        "OFFLOAD_S3_SECRET_ACCESS_KEY": s3.secret_key,
        "OFFLOAD_BLOB_TIMEOUT_SECONDS": "10",
    }
    offload.start_all()
    client = offload.client()
    s3.make_bucket()
    until(lambda: client.get("/readyz").status_code == 200, "the store to be ready", seconds=60)
    task = offload.wait(client, offload.post_photo(client))
    assert task["state"] == "SUCCESS", task
    for output in task["links"]["outputs"]:
        assert len(client.get(output["href"]).content) == output["size_bytes"]
    # Larger than one part of a multipart upload.
    large = client.post("/v1/images", content=b"x" * 12_000_000, headers=JPEG)
    assert large.status_code == 202
    assert offload.wait(client, large.json()["task_id"])["error"]["code"] == "image.not_an_image"
    s3.stop()
    refused = client.post("/v1/images", content=photo(), headers=JPEG)
    assert (refused.status_code, refused.json()["code"]) == (503, "blob.unavailable")
