"""A call: what is sent, and what its answer means."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate

from http_worker import retry_after
from offload_contracts.calls import MAX_RESULT_BYTES, MAX_RESULT_HEADERS, CallResult
from offload_core import keys, signing
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from http_worker.app import Resources
    from http_worker.client import Answer
    from offload_contracts.calls import Call
    from offload_worker import Run

USER_AGENT = "Offload"
# Asked again by themselves (RFC 9110, RFC 8470, RFC 6585); so is every 5xx.
_RETRIED = frozenset({408, 425, 429})
# Of one header in the result.
_HEADER_CHARACTERS = 1000


async def call(message: Call, run: Run[Resources]) -> CallResult:
    """Send the request and return the answer, if it is one of the call's `success`.

    Raises:
        PermanentError: ``call.refused`` for an answer that another try would not change, and what `Client.send` calls
            permanent.
        TemporaryError: ``call.failed`` for one that it may, and what `Client.send` calls temporary.

    """
    body, media_type = _body(message)
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
    if media_type is not None and not any(name.lower() == "content-type" for name in message.headers):
        headers["Content-Type"] = media_type
    headers |= message.headers
    headers |= {"Idempotency-Key": run.celery_id, "Offload-Attempt": str(run.attempt + 1)}
    if message.sign:
        headers |= await _signature(run, body)
    propagate.inject(headers)
    answer = await run.resources.client.send(
        message.method,
        message.url,
        headers,
        body,
        timeout_seconds=message.timeout_seconds,
        limit_bytes=MAX_RESULT_BYTES,
    )
    if not any(_matches(answer.status, wanted) for wanted in message.success):
        raise _failure(answer)
    return _result(answer)


def _body(message: Call) -> tuple[bytes, str | None]:
    if message.body_base64 is not None:
        return base64.b64decode(message.body_base64), "application/octet-stream"
    if message.payload is not None:
        return json.dumps(message.payload, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"
    return b"", None


async def _signature(run: Run[Resources], body: bytes) -> dict[str, str]:
    resources = run.resources
    key = keys.record(resources.settings.key_prefix, run.task_id)
    owner: Any = await resources.ask(lambda redis: redis.hget(key, "owner"), f"read the owner of {run.task_id}")
    secret = signing.secret_of(resources.settings.link_secret.get_secret_value(), (owner or b"").decode())
    return signing.headers(run.celery_id, round(time.time()), body, [signing.Hmac(secret)])


def _matches(status: int, wanted: str) -> bool:
    return str(status) == wanted or (wanted.endswith("xx") and str(status)[0] == wanted[0])


def _failure(answer: Answer) -> PermanentError | TemporaryError:
    status = answer.status
    message, details = f"the receiver answered {status}", {"status": status}
    may_heal = status in _RETRIED or status >= 500  # noqa: PLR2004 -- server errors
    if may_heal and answer.header("offload-no-retry") != "true":
        return TemporaryError("call.failed", message, details, retry_after.seconds(answer.header("retry-after")))
    return PermanentError("call.refused", message, details)


def _result(answer: Answer) -> CallResult:
    headers = {name: value[:_HEADER_CHARACTERS] for name, value in answer.headers[:MAX_RESULT_HEADERS]}
    try:
        text, encoded = answer.body.decode(), None
    except UnicodeDecodeError:
        text, encoded = None, base64.b64encode(answer.body).decode()
    return CallResult(
        status=answer.status,
        headers=headers,
        body=text,
        body_base64=encoded,
        is_truncated=not answer.is_whole,
        duration_ms=round(answer.duration_seconds * 1000),
    )
