"""A Celery application as most are: nothing in this file knows of Offload."""

import os
import smtplib
import time
from email.message import EmailMessage
from pathlib import Path

from celery import Celery
from PIL import Image

app = Celery(
    "tasks",
    broker=os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0"),
    backend=os.environ.get("RESULT_BACKEND", "redis://127.0.0.1:6379/0"),
)
app.conf.beat_schedule = {"add-every-second": {"task": "tasks.add", "schedule": 1.0, "args": (16, 16)}}
app.conf.timezone = "UTC"


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True)
def slow_report(self, pages, seconds_per_page=0.1):
    for page in range(1, pages + 1):
        time.sleep(seconds_per_page)
        self.update_state(state="PROGRESS", meta={"current": page, "total": pages})
    return f"{pages} pages"


@app.task(bind=True, max_retries=3)
def send_email(self, to, subject):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.com", to, subject
    message.set_content("Thank you.")
    try:
        with smtplib.SMTP(os.environ.get("SMTP_HOST", "127.0.0.1"), int(os.environ.get("SMTP_PORT", "1025"))) as smtp:
            smtp.send_message(message)
    except OSError as error:
        raise self.retry(exc=error, countdown=1)


@app.task
def resize(path, longest_side):
    return _smaller(path, longest_side, "resized")


@app.task
def thumbnail(path, longest_side=64):
    return _smaller(path, longest_side, "thumbnail")


@app.task
def notify(path, to):
    send_email.delay(to, f"Your picture is ready: {Path(path).name}")
    return path


@app.task
def fail(reason):
    raise ValueError(reason)


@app.task
def on_error(request, error, traceback):
    folder = Path(os.environ.get("PICTURES", "."))
    (folder / f"{request.id}.error").write_text(str(error))


def _smaller(path, longest_side, suffix):
    picture = Path(path)
    made = picture.with_name(f"{picture.stem}-{suffix}{picture.suffix}")
    with Image.open(picture) as image:
        image.thumbnail((longest_side, longest_side))
        image.save(made)
    return str(made)
