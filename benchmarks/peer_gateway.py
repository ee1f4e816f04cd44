"""The peer: what most applications have. FastAPI, a pydantic body, `delay()`; and an `UploadFile` route.

``python -m benchmarks.peer_gateway PORT REDIS_URL FOLDER``
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from pathlib import Path
from typing import Annotated

import uvicorn
from celery import Celery
from fastapi import FastAPI, File, UploadFile
from pydantic import BaseModel

app = FastAPI()
celery = Celery(
    "peer", broker=sys.argv[2] if len(sys.argv) > 2 else None, backend=sys.argv[2] if len(sys.argv) > 2 else None
)


@celery.task(name="mail.send")
def send_mail(mail: dict[str, object]) -> None:
    """Stand for the work."""


class Email(BaseModel):
    """The body of a post."""

    to: list[str]
    template: str
    context: dict[str, str]


@app.post("/emails", status_code=202)
def post_email(email: Email) -> dict[str, str]:
    """Hand the mail to Celery."""
    result = send_mail.delay(email.model_dump())
    return {"task_id": result.id, "status_url": f"/tasks/{result.id}"}


@app.post("/images", status_code=202)
async def post_image(file: Annotated[UploadFile, File()]) -> dict[str, str]:
    """Hash and store an upload, as it is usually done."""
    task_id = str(uuid.uuid4())
    digest = hashlib.sha256()
    path = Path(sys.argv[3]) / task_id
    with path.open("wb") as target:
        while chunk := await file.read(64 * 1024):
            digest.update(chunk)
            target.write(chunk)
    return {"task_id": task_id, "sha256": digest.hexdigest()}


if __name__ == "__main__":
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        from offload_core import telemetry

        telemetry.start("peer")
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
        CeleryInstrumentor().instrument()
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
