"""What is done in the background, as tasks of django.tasks (Django 6)."""

from __future__ import annotations

import sys

from django.tasks import task
from django.utils import timezone

from orders.models import Order


@task
def confirm(order_id: int) -> str:
    """Note that an order is confirmed. Run twice, it changes nothing the second time."""
    Order.objects.filter(pk=order_id, confirmed_at=None).update(confirmed_at=timezone.now())
    return Order.objects.get(pk=order_id).customer


@task(takes_context=True)
def describe(context, order_id: int) -> dict[str, int]:  # noqa: ANN001 -- django.tasks's TaskContext
    """Tell which attempt it is."""
    return {"order": order_id, "attempt": context.attempt}


@task
async def echo(text: str) -> str:
    """Give the text back, as a coroutine."""
    return text


@task
def fail() -> None:
    """Raise."""
    raise LookupError("on purpose")


@task
def leave() -> None:
    """Call what would end the process: it ends the task."""
    sys.exit("on purpose")
