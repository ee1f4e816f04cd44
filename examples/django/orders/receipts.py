"""Placing an order whose receipt Celery writes; Django 5.2 is enough for it."""

from __future__ import annotations

from django.db import transaction
from offload_outbox import outbox

from orders.models import Order
from orders.tasks import receipt


def place_with_receipt(customer: str) -> Order:
    """Place an order, write its receipt with Celery, and mail its customer by the outbox.

    Celery's task is sent when the transaction has been committed, and is lost when this process dies just then. The
    mail is not: it is committed with the order.
    """
    with transaction.atomic():
        order = Order.objects.create(customer=customer)
        transaction.on_commit(lambda: receipt.delay(order.pk))
        text = {"to": [customer], "subject": f"Order {order.pk}", "text": "Thank you."}
        outbox.enqueue({"task": "mail.send.v1", "input": text})
    return order
