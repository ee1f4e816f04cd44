"""The blob store: a local folder or any S3, through obstore.

Keys: ``uploads/{task_id}/original`` and ``outputs/{task_id}/{step}-{sha256}.{extension}``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from offload_core.settings import BlobSettings

UPLOADS = "uploads/"
OUTPUTS = "outputs/"

# S3's parts are 5 MiB at least; an upload of our limit fits into four. On a disk parts of a mebibyte are written while
# the next one comes, in memory that is used again: half the system time of one large write (measured with 3 MB).
S3_PART_BYTES = 5 * 1024 * 1024
FILE_PART_BYTES = 1024 * 1024


class BlobError(Exception):
    """The blob store cannot be reached, or takes nothing more."""


class BlobNotFoundError(BlobError):
    """There is no such blob."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One blob in a listing."""

    key: str
    size_bytes: int
    modified_at: datetime


class BlobStore:
    """Bytes by key. Every method raises `BlobError` when the store cannot do its part."""

    def __init__(self, settings: BlobSettings) -> None:
        """Prepare the store; nothing is connected yet."""
        limit = timedelta(seconds=settings.blob_timeout_seconds)
        url = urlsplit(settings.blob_url)
        self._store: LocalStore | S3Store
        if url.scheme == "file":
            folder = Path(url.path)
            folder.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(prefix=folder, automatic_cleanup=True)
            self._part_bytes = FILE_PART_BYTES
        else:
            options: dict[str, str] = {}
            if settings.s3_endpoint:
                options["endpoint"] = settings.s3_endpoint
            if settings.s3_access_key_id and settings.s3_secret_access_key:
                options |= {
                    "access_key_id": settings.s3_access_key_id.get_secret_value(),
                    "secret_access_key": settings.s3_secret_access_key.get_secret_value(),
                }
            self._part_bytes = S3_PART_BYTES
            self._store = S3Store(
                url.netloc,
                prefix=url.path.strip("/") or None,
                region=settings.s3_region,
                client_options={"allow_http": True, "timeout": limit, "connect_timeout": timedelta(seconds=5)},
                retry_config={"max_retries": 3, "retry_timeout": limit},
                **options,  # type: ignore[arg-type]
            )

    def put(self, key: str, data: bytes) -> Stored:
        """Write a blob at once."""
        try:
            obstore.put(self._store, key, data)
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be written") from error
        return Stored(len(data), digest(data))

    def get(self, key: str) -> bytes:
        """Return all of a blob.

        Raises:
            BlobNotFoundError: when there is none of this key.

        """
        try:
            return obstore.get(self._store, key).bytes().to_bytes()
        except (NotFoundError, FileNotFoundError):
            raise BlobNotFoundError(key) from None
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be read") from error

    def exists(self, key: str) -> bool:
        """Return whether there is a blob of this key."""
        try:
            obstore.head(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be looked at") from error
        return True

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield all blobs under a prefix."""
        try:
            for batch in obstore.list(self._store, prefix=prefix):
                for one in batch:
                    yield Listed(one["path"], one["size"], one["last_modified"].astimezone(UTC))
        except (BaseError, OSError) as error:
            raise BlobError(f"{prefix} cannot be listed") from error

    def delete(self, *keys: str) -> None:
        """Delete blobs; one that is not there is no error."""
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except (NotFoundError, FileNotFoundError):
                continue
            except (BaseError, OSError) as error:
                raise BlobError("blobs cannot be deleted") from error

    def delete_files_of(self, task_id: str) -> None:
        """Delete a task's upload and its outputs."""
        for folder in (OUTPUTS, UPLOADS):
            self.delete(*(one.key for one in self.list(f"{folder}{task_id}/")))

    async def delete_async(self, key: str) -> None:
        """Delete a blob; one that is not there is no error."""
        try:
            await obstore.delete_async(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be deleted") from error

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> Stored:
        """Write a blob from its chunks while it is hashed. What `chunks` raises is passed on, and nothing stays.

        A blob of one part is written by one request; only a larger one is sent in parts.
        """
        hashed, size = hashlib.sha256(), 0
        # Pieces are joined once: a growing buffer would copy most bytes twice.
        part: list[bytes] = []
        part_bytes = 0
        writer = None
        try:
            async for chunk in chunks:
                hashed.update(chunk)
                size += len(chunk)
                part.append(chunk)
                part_bytes += len(chunk)
                if part_bytes >= self._part_bytes:
                    if writer is None:
                        # One part at a time: its client would take the whole upload before the store has any.
                        writer = obstore.open_writer_async(
                            self._store, key, buffer_size=self._part_bytes, max_concurrency=1
                        )
                    await writer.write(b"".join(part))
                    part, part_bytes = [], 0
            if writer is None:
                await obstore.put_async(self._store, key, b"".join(part))
            else:
                await writer.write(b"".join(part))
                await writer.close()
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be written") from error
        return Stored(size, hashed.hexdigest())

    def write_memory_bytes(self, size_bytes: int) -> int:
        """Return how much memory `write` takes for an upload of this size: its parts, joined, sent, and copied."""
        return min(3 * size_bytes, 5 * self._part_bytes)

    async def size(self, key: str) -> int:
        """Return a blob's size.

        Raises:
            BlobNotFoundError: when there is none of this key.

        """
        try:
            found = await obstore.head_async(self._store, key)
        except (NotFoundError, FileNotFoundError):
            raise BlobNotFoundError(key) from None
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be looked at") from error
        return found["size"]

    async def read(self, key: str, part: tuple[int, int] | None = None) -> tuple[int, AsyncIterator[bytes]]:
        """Return a blob's full size, and its chunks.

        `part` asks for a part of it alone: its first byte, and the byte after its last.

        Raises:
            BlobNotFoundError: when there is none of this key.

        """
        try:
            found = await obstore.get_async(self._store, key, options={"range": part} if part else None)
        except (NotFoundError, FileNotFoundError):
            raise BlobNotFoundError(key) from None
        except (BaseError, OSError) as error:
            raise BlobError(f"{key} cannot be read") from error

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in found.stream(min_chunk_size=64 * 1024):
                yield bytes(chunk)

        return found.meta["size"], chunks()

    async def ping(self) -> None:
        """Ask the store for anything at all.

        Raises:
            BlobError: when it does not answer.

        """
        try:
            await obstore.head_async(self._store, "ping")
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise BlobError("the blob store does not answer") from error


def upload_key(task_id: str) -> str:
    """Return the key of a task's upload."""
    return f"{UPLOADS}{task_id}/original"


def output_key(task_id: str, step: str, sha256: str, extension: str) -> str:
    """Return the key of an output: named by content, so that a second run writes the same blob."""
    return f"{OUTPUTS}{task_id}/{step}-{sha256}.{extension}"


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
