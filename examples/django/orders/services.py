"""Placing an order: the order and the tasks that belong to it are one transaction."""

from __future__ import annotations

from django.db import transaction
from offload_outbox import outbox

from orders.background import confirm
from orders.models import Order


def place(customer: str, *, mail: bool = False) -> Order:
    """Place an order. It is confirmed in the background; with `mail` its customer gets one."""
    with transaction.atomic():
        order = Order.objects.create(customer=customer)
        confirm.enqueue(order.pk)
        if mail:
            text = {"to": [customer], "subject": f"Order {order.pk}", "text": "Thank you."}
            outbox.enqueue({"task": "mail.send.v1", "input": text, "tags": [f"order:{order.pk}"]})
    return order
