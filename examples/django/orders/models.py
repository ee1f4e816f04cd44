"""Orders."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order, and whether its customer was told of it."""

    customer = models.EmailField()
    confirmed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        """Return whose it is."""
        return f"order {self.pk} of {self.customer}"
