"""Tasks of Celery's, where it looks for them."""

from __future__ import annotations

from celery import shared_task

from orders.models import Order


@shared_task
def receipt(order_id: int) -> str:
    """Write an order's receipt."""
    return f"receipt of {Order.objects.get(pk=order_id)}"
