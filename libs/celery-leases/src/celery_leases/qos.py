"""What kombu calls when a message is done, rejected, or when its channel closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from celery_leases import worker
from celery_leases.leases import UNDECODABLE

if TYPE_CHECKING:
    import redis

    from celery_leases.leases import Holder


class QoS(kombu_redis.QoS):
    """Acknowledgements by lease. No method raises for Redis's sake, and each frees its slot.

    An acknowledgement that raised would leave the worker believing that it is full: it would poll nothing, and so
    never notice the lost connection.
    """

    @property
    def _holder(self) -> Holder:
        holder: Holder = self.channel.holder
        return holder

    def append(self, message: virtual.Message, delivery_tag: str) -> None:
        """Note a message that was delivered; its lease began with the pop."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """End the message; one that could not be decoded goes to the dead letters instead."""
        message = self._delivered.get(delivery_tag)
        if message is not None and message.errors:
            self._holder.bury(delivery_tag, UNDECODABLE)
        else:
            self._holder.settle(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 -- kombu's signature
        """Hand the message back, or put it among the dead letters."""
        message = self._delivered.get(delivery_tag)
        if not requeue:
            self._holder.bury(delivery_tag, worker.rejection(message and message.headers.get("id")))
        elif worker.is_stopping() or not self._holder.options.count_requeued_rejections:
            self._holder.requeue(delivery_tag)
        else:
            self._holder.fail(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: redis.Redis | None = None) -> list[Any]:  # noqa: ARG002 -- kombu's signature
        """Hand back what this channel was given. While the worker goes on, what runs keeps its lease."""
        self._flush()
        hand_back = self._holder.doubt if worker.goes_on() else self._holder.requeue
        for delivery_tag in list(self._delivered):
            hand_back(delivery_tag)
        self._delivered.clear()
        return []

    def restore_visible(self, *_: object, **__: object) -> None:
        """Do nothing: the holder's thread sweeps."""
