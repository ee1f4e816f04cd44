"""Images are worked on in a process of their own, one beside each pool process.

Codecs are C libraries that get hostile bytes. Here one of them may run out of memory, crash or hang, and nothing is
lost with it but its own image, which fails with a code. The process has no secrets in its environment and a limit to
its memory, and it ends with the pool process that it belongs to. It is replaced when it keeps too much memory after a
job.

``python -m image_worker.sandbox LIMIT_BYTES RECYCLE_BYTES`` serves jobs on its standard input and output: for each a
length (8 bytes), a JSON header of that length, and the header's ``size`` bytes of image. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from image_worker.images import Limits, Rendered, resize
from offload_contracts.images import Fit, ImageFormat
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from image_worker.settings import ImageWorkerSettings

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct(">Q")
# prctl(2): the signal that this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = {
    # One arena: freed memory goes back instead of staying with a thread.
    "MALLOC_ARENA_MAX": "1",
    # numpy is used for masks alone; its threads would each reserve a buffer.
    "OPENBLAS_NUM_THREADS": "1",
}
# What the process needs of ours to find its modules and locales.
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR")


class Sandbox:
    """The image process of one pool process."""

    def __init__(self, settings: ImageWorkerSettings) -> None:
        """Take the limits; `start` starts the process, in the process that will use it."""
        self._limits = Limits(
            settings.image_max_pixels,
            settings.image_max_side_pixels,
            settings.image_max_frames,
            settings.task_memory_limit_bytes,
        )
        self._recycle_bytes = settings.image_recycle_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **_: object) -> None:
        """Start the process, so that the first image need not wait for it."""
        environment = {name: value for name in _PASSED_ON if (value := os.environ.get(name)) is not None}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "image_worker.sandbox", str(self._limits.memory_bytes), str(self._recycle_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | _ENVIRONMENT,
        )

    def stop(self, **_: object) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def resize(
        self,
        data: bytes,
        *,
        width: int | None,
        height: int | None,
        fit: Fit = Fit.CONTAIN,
        target: ImageFormat | None = None,
        animated: bool = False,
    ) -> Rendered:
        """Return the image within a box, as `images.resize` does.

        Raises:
            PermanentError: as there, and ``image.codec_crashed`` when a codec took its process with it.
            TemporaryError: ``image.interrupted`` when the process was killed from outside.

        """
        options = {
            "width": width,
            "height": height,
            "fit": fit.value,
            "target": target and target.value,
            "animated": animated,
            "limits": dataclasses.astuple(self._limits),
        }
        if self._process is None or self._process.poll() is not None:
            self._replace()
        try:
            answer, made = self._ask(options, data)
        except (OSError, EOFError):
            raise self._death() from None
        except BaseException:
            # A time limit, or the end of this process: the image's process must not go on with it.
            self.stop()
            raise
        if answer["is_last"]:
            self._replace()
        if "code" in answer:
            if "traceback" in answer:
                logger.warning("an image failed as %s: %s", answer["code"], answer["traceback"])
            raise PermanentError(answer["code"], answer["message"])
        return Rendered(made, ImageFormat(answer["format"]), answer["width"], answer["height"])

    def _replace(self) -> None:
        self.stop()
        self.start()

    def _ask(self, options: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError
        _write(process.stdin, options, data)
        return _read(process.stdout)

    def _death(self) -> PermanentError | TemporaryError:
        """Return what the end of the process means for its image."""
        process = self._process
        code = process.wait() if process is not None else 0
        self._replace()
        logger.error("the image process ended with %d", code)
        if code in {-signal.SIGKILL, -signal.SIGTERM}:
            return TemporaryError("image.interrupted", "the process that worked on the image was killed")
        return PermanentError("image.codec_crashed", "the image made its codec crash, or run out of memory")


def _write(pipe: IO[bytes], header: Mapping[str, Any], data: bytes) -> None:
    text = json.dumps(dict(header) | {"size": len(data)}).encode()
    pipe.write(_LENGTH.pack(len(text)) + text)
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Return the next header and its bytes.

    Raises:
        EOFError: at the pipe's end.

    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    header: dict[str, Any] = json.loads(_exactly(pipe, length))
    return header, _exactly(pipe, header["size"])


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


# -- the process itself


def _serve(memory_limit_bytes: int, recycle_bytes: int) -> None:
    """Work on image after image until the input ends, or too much memory stays in use."""
    _limit(memory_limit_bytes)
    # The pipe is ours alone: whatever prints goes to the log.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            options, data = _read(sys.stdin.buffer)
        except EOFError:
            return
        answer, made = _answer(options, data)
        del data
        is_last = _resident_bytes() > recycle_bytes
        _write(answers, answer | {"is_last": is_last}, made)
        if is_last:
            return


def _answer(options: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        made = resize(
            data,
            width=options["width"],
            height=options["height"],
            fit=Fit(options["fit"]),
            target=options["target"] and ImageFormat(options["target"]),
            animated=options["animated"],
            limits=Limits(*options["limits"]),
        )
    except PermanentError as error:
        # Known damage has no cause; what a codec raised is for whoever looks after it.
        more = {"traceback": "".join(traceback.format_exception(error.__cause__))} if error.__cause__ else {}
        return {"code": error.code, "message": error.message} | more, b""
    except Exception:  # noqa: BLE001 -- the boundary of this process: a code for whatever it was, and nothing goes on
        code, message = "image.broken", "the image cannot be decoded"
        return {"code": code, "message": message, "traceback": traceback.format_exc()}, b""
    return {"format": made.format.value, "width": made.width, "height": made.height}, made.data


def _limit(memory_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard), hard)
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Where the machine runs out of memory, this process goes before the one that can report it.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # A pool process decides what SIGINT and SIGTERM mean; both reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
