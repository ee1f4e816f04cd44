"""A trial of a running Offload from outside: a real photo, resized, thumbnailed, and the mail about it.

Only the standard library, so that it runs wherever the gateway's image does: as the chart's test, as a Job, by hand.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 3
REQUEST_SECONDS = 10
# SUCCESS, FAILURE and REVOKED do not change any more.
ENDED = {"SUCCESS", "FAILURE", "REVOKED"}


class SmokeError(Exception):
    """What was promised did not happen."""


def main(url: str, mailpit: str | None, recipient: str, timeout_seconds: float) -> None:
    """Print each thing that happens; exit with 1 and a sentence when one does not."""
    if mailpit is not None:
        # A recipient of this run's own: what is found is its mail and no other's.
        name, _, domain = recipient.partition("@")
        recipient = f"{name}+{secrets.token_hex(6)}@{domain}"
    deadline = time.monotonic() + timeout_seconds
    url = url.rstrip("/")
    try:
        accepted = _post(url, recipient, deadline)
        task = _follow(f"{url}{accepted['status_url']}", deadline)
        _fetch_outputs(url, task)
        if mailpit is None:
            print("mailed     the mail server has accepted the mail", flush=True)
        else:
            _find_mail(mailpit.rstrip("/"), recipient, deadline)
    except SmokeError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _post(url: str, recipient: str, deadline: float) -> dict[str, Any]:
    photo = resources.files("gateway").joinpath("photo.jpg").read_bytes()
    query = urllib.parse.urlencode({"width": 320, "thumbnail": 64, "notify": recipient})
    headers = {"Content-Type": "image/jpeg", "Idempotency-Key": secrets.token_hex(16)}
    accepted = _until(
        lambda: _request(f"{url}/v1/images?{query}", headers, photo), "the photo to be accepted", deadline
    )
    print(f"accepted   {accepted['task_id']}", flush=True)
    return accepted


def _follow(status_url: str, deadline: float) -> dict[str, Any]:
    seen: dict[int, str] = {}

    def ended() -> dict[str, Any] | None:
        task = _request(status_url)
        for number, step in enumerate(task["steps"] if task else [], 1):
            if seen.get(number) != step["state"]:
                seen[number] = step["state"]
                print(f"{step['state']:10} {step['name']}", flush=True)
        return task if task and task["state"] in ENDED else None

    task = _until(ended, "the task to end", deadline)
    if task["state"] != "SUCCESS" or len(task["steps"]) != STEPS:
        raise SmokeError(f"the task ended as {task['state']}: {task['message']}")
    return task


def _fetch_outputs(url: str, task: dict[str, Any]) -> None:
    outputs = task["links"]["outputs"]
    if len(outputs) != STEPS - 1:
        raise SmokeError(f"two outputs were expected, not {outputs}")
    for output in outputs:
        body = _fetch(f"{url}{output['href']}")
        if len(body) != output["size_bytes"]:
            raise SmokeError(f"{output['name']} has {len(body)} bytes, not {output['size_bytes']}")
        print(f"fetched    {output['name'][:40]}… ({len(body):,} bytes)", flush=True)


def _find_mail(mailpit: str, recipient: str, deadline: float) -> None:
    search = f"{mailpit}/api/v1/search?{urllib.parse.urlencode({'query': f'to:"{recipient}"'})}"

    def arrived() -> dict[str, Any] | None:
        found = _request(search)
        return found if found and found["messages"] else None

    mails = _until(arrived, "the mail", deadline)["messages"]
    if len(mails) != 1:
        raise SmokeError(f"one mail was expected, not {len(mails)}")
    print(f"mailed     {mails[0]['Subject']!r} to {recipient}", flush=True)


def _until(look: Callable[[], dict[str, Any] | None], what: str, deadline: float) -> dict[str, Any]:
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise SmokeError(f"waited in vain for {what}")
        time.sleep(0.3)


def _request(url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> dict[str, Any] | None:
    """Return the answer; None where it may be asked again."""
    try:
        answer: dict[str, Any] = json.loads(_fetch(url, headers, body))
    except urllib.error.HTTPError as error:
        if error.code in {429, 502, 503, 504}:
            return None
        raise SmokeError(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from None
    except OSError:
        return None
    return answer


def _fetch(url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> bytes:
    key = os.environ.get("OFFLOAD_API_KEY")
    login = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, body, login | (headers or {}))  # noqa: S310 -- the operator names it
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310 -- the same
        data: bytes = response.read()
    return data
