"""The kombu transport: ``broker_transport = "celery_leases:Transport"``.

What is kombu's stays kombu's: connections, TLS, Sentinel, fanout, the poller, reconnects, health checks. What is ours
is how a message is put, taken and settled. The polling connection alternates two commands: the pop script, and, only
when that found nothing, BRPOP on the wake-up lists of its queues.
"""

from __future__ import annotations

import itertools
import logging
from datetime import datetime
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import redis
from celery import current_app
from celery.exceptions import BackendError
from celery.utils.time import maybe_make_aware
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.virtual import Empty
from kombu.utils.functional import maybe_list
from kombu.utils.json import dumps, loads
from kombu.utils.url import sanitize_url
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from celery_leases import address, envelopes, keys, leases, scripts, worker
from celery_leases.leases import UNDECODABLE, Holder, Lease, counters, holder_for
from celery_leases.options import InvalidOptionError, Options
from celery_leases.publish import message_key
from celery_leases.qos import QoS
from celery_leases.sweep import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_pollers = itertools.count()

# So long, and so many, revoked tasks are remembered for workers that start later.
REVOKED_SECONDS: Final = 14 * 86_400.0
REVOKED_MOST: Final = 50_000

# The header that tells a task how often it has been delivered, from 1.
DELIVERY_HEADER: Final = "delivery_count"


class Message(virtual.Message):
    """A message that remembers whether it could be decoded."""

    def _decode(self) -> Any:  # noqa: ANN401 -- the payload is whatever was sent
        try:
            return super()._decode()
        except Exception as error:
            self.errors.append(error)
            raise


class LeaseChannel:
    """What our two channels (plain and Sentinel) override of kombu's."""

    QoS = QoS
    Message = Message
    supports_batch_publish = False
    # A silent server must not hold the worker's loop for ever. Polling waits for a readable socket and is not bounded.
    socket_timeout: float | None = 10.0
    socket_connect_timeout: float | None = 5.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Read our options; kombu's own keys get the same prefix."""
        connection = args[0] if args else kwargs["connection"]
        self.options = Options.of(connection.client.transport_options)
        self.global_keyprefix = self.options.key_prefix
        self._holder: Holder | None = None
        self._no_ack: dict[str, bool] = {}
        self._counted = False
        # The command whose answer the polling connection waits for, and what the last pop found.
        self._in_flight = ""
        self._popped: list[str] = []
        self._found_nothing = False
        self._forgotten = False
        # Names the answers of this channel's pops, so that what a lost one took can be found.
        self._poller = str(next(_pollers))
        self._pops = self._pop_number = 0
        super().__init__(*args, **kwargs)

    @property
    def holder(self) -> Holder:
        """This process's leases at this broker."""
        if self._holder is None:
            self._holder = holder_for(self.connection.client, self.options, self._get_pool)
        return self._holder

    # -- publishing

    def _put(self, queue: str, message: dict[str, Any], **_: object) -> None:
        """Publish; a message key that is already live, delayed or settled is dropped."""
        properties, headers = message["properties"], message.get("headers") or {}
        arguments = [
            self.options.key_prefix,
            queue,
            _message_key_of(headers, properties),
            dumps(message),
            _due_ms(headers.get("eta")),
            self._priority_of(message),
        ]
        try:
            outcome = self._publish(message, arguments)
        except (OutOfMemoryError, ReadOnlyError) as error:
            # Full, or a replica for the moment: waiting helps, as it does with a lost connection.
            raise redis.ConnectionError(str(error)) from error
        if outcome == 0:
            counters["duplicate"] += 1
            logger.debug("%s is in queue %s already, or was settled a moment ago: dropped", arguments[2], queue)

    def _publish(self, message: dict[str, Any], arguments: list[scripts.Argument]) -> Any:  # noqa: ANN401, ARG002 -- the script's answer; a subclass reads the message
        """Run the script that publishes a message."""
        return scripts.PUBLISH(self._plain_client, [], arguments)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Publish to all who listen. What revokes tasks is kept for those that start later."""
        if exchange.endswith(".pidbox"):
            task_ids = self._revoked_by(message)
            if task_ids:
                limits = (milliseconds(REVOKED_SECONDS), REVOKED_MOST)
                scripts.REVOKE(self._plain_client, [], [self.options.key_prefix, *limits, *task_ids])
        super()._put_fanout(exchange, message, routing_key, **kwargs)  # type: ignore[misc]

    def _revoked_by(self, message: dict[str, Any]) -> list[str]:
        """Return the ids of the tasks that a command of remote control revokes, if it is meant for all workers."""
        if message.get("content-type") != "application/json":
            return []
        command = loads(self.decode_body(message["body"], message["properties"].get("body_encoding")))
        if command.get("method") != "revoke" or command.get("destination") or command.get("pattern"):
            return []
        task_ids = (command.get("arguments") or {}).get("task_id")
        return [str(task_id) for task_id in maybe_list(task_ids) or []]

    # -- taking

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001 -- kombu's signature
        """Consume from a queue; the first that acknowledges starts the sweeping."""
        if not no_ack:
            worker.refuse_green_pools()
        self._no_ack[queue] = bool(no_ack)
        result = super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]
        if not no_ack and not self._counted and queue not in self.active_fanout_queues:
            self._counted = True
            self.holder.add_consumer()
        return result

    def basic_get(self, queue: str, no_ack: bool = False, **_: object) -> virtual.Message | None:  # noqa: FBT001, FBT002 -- kombu's signature
        """Return one message, or None."""
        reply = self._pop(queue, no_ack=no_ack)
        if not reply:
            return None
        payload = self._accept([queue], reply, [no_ack])
        if payload is None:
            return None
        message = self.Message(payload[0], channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 -- kombu's signature
        reply = self._pop(queue, no_ack=True)
        payload = reply and self._accept([queue], reply, [True])
        if not payload:
            raise Empty
        envelope: dict[str, Any] = payload[0]
        return envelope

    def _pop(self, queue: str, *, no_ack: bool) -> Any:  # noqa: ANN401 -- the script's answer
        """Pop from one queue, and wait for the answer."""
        poller, arguments = f"{self._poller}.get", self._pop_arguments([no_ack], ".get")
        try:
            while (reply := scripts.POP(self._plain_client, [self._base(queue)], arguments)) == []:
                pass
        except self.connection_errors:
            self.holder.miss(poller, self._pops)
            raise
        return reply

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the next command on the polling connection."""
        leases.tick()
        if self._in_flight:
            # kombu has dropped the connection of a server that was silent for too long.
            self._forget_answer()
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        if self._found_nothing:
            command: Sequence[scripts.Argument] = [
                "BRPOP",
                *(keys.key(self.options.key_prefix, queue, keys.WAKE_UP) for queue in queues),
                timeout or self.brpop_timeout or 0,
            ]
            self._in_flight = "BRPOP"
        else:
            no_ack = [self._no_ack.get(queue, False) for queue in queues]
            bases = [self._base(queue) for queue in queues]
            command = scripts.POP.command(bases, self._pop_arguments(no_ack), full=self._forgotten)
            self._in_flight = "POP"
            self._popped, self._pop_number = list(queues), self._pops
        self._in_poll = connection
        self.holder.awaited.add(self._poller)
        self._brpop_sent_at = self.holder.polled_at = monotonic()
        connection.send_command(*command)

    def _brpop_read(self, **_: object) -> bool:
        """Read the answer of the command in flight and deliver its message, if it has one."""
        command = self._in_flight
        try:
            reply = self.client.connection.read_response()
        except NoScriptError:
            self._forgotten = True
            raise Empty from None
        except ResponseError as error:
            # Such as READONLY after a failover: the worker connects again, rather than end.
            self._drop_polling()
            raise redis.ConnectionError(str(error)) from error
        except self.connection_errors:
            self._drop_polling()
            self._forget_answer()
            raise
        finally:
            self._in_flight = ""
            self.holder.awaited.discard(self._poller)
            self._in_poll = None
            self._flush_brpop_reauth()
        if command == "BRPOP":
            self._found_nothing = False
            raise Empty
        self._forgotten = False
        if not reply:
            # An empty list: it looked at many message keys without a message, and there are more.
            self._found_nothing = reply is None
            raise Empty
        no_ack = [self._no_ack.get(queue, False) for queue in self._popped]
        delivered = self._accept(self._popped, reply, no_ack)
        if delivered is None:
            raise Empty
        payload, queue = delivered
        self._queue_cycle.rotate(queue)
        self._hand_over(payload, queue)
        return True

    def _forget_answer(self) -> None:
        """Give up the answer of the command in flight; what a pop has taken is given back."""
        if self._in_flight == "POP":
            self.holder.miss(self._poller, self._pop_number)
        self._in_flight = ""
        self.holder.awaited.discard(self._poller)

    def _drop_polling(self) -> None:
        self.client.connection.disconnect()
        self._found_nothing = False

    def _accept(
        self, queues: Sequence[str], reply: Sequence[Any], no_ack: Sequence[bool]
    ) -> tuple[dict[str, Any], str] | None:
        """Hold what a pop took and return its envelope; None when it went back or to the dead letters."""
        index, message_key_bytes, raw, delivery, is_revoked = reply
        queue, takes = queues[int(index) - 1], no_ack[int(index) - 1]
        lease = Lease(queue, message_key_bytes.decode(), int(delivery))
        try:
            payload: dict[str, Any] = loads(raw.decode())
            headers, properties = payload["headers"], payload["properties"]
            envelopes.check(payload)
            known = worker.knows(headers.get("task")) and (self.options.reads is None or self.options.reads(payload))
            # kombu decodes the body outside of any handler: one that cannot be would end the worker.
            self.decode_body(payload.get("body") or "", properties.get("body_encoding"))
            priority = self._priority_of(payload)
            if _due_ms(headers.get("eta")) > time() * 1000:
                # Redis says that it is due; a worker whose clock is behind would keep it until its own agrees.
                headers["eta"] = None
            if not takes:
                properties["delivery_tag"] = lease.delivery_tag
                headers[DELIVERY_HEADER] = lease.delivery
                properties.setdefault("delivery_info", {})["redelivered"] = lease.delivery > 1
                if is_revoked:
                    worker.revoke(headers["id"])
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            if not takes:
                self.holder.hold(lease, _nothing)
                self.holder.bury(lease.delivery_tag, UNDECODABLE)
            return None
        if takes:
            return payload, queue
        lease = Lease(queue, lease.message_key, lease.delivery, priority)
        if not known:
            self.holder.refuse(lease)
            return None
        limit = self.options.run_limit(headers["task"]) if self.options.run_limit and "task" in headers else None
        if limit is not None and worker.runs_of(headers["task"]) >= limit:
            self.holder.postpone(lease)
            return None
        self.holder.hold(lease, lambda: virtual.QoS.ack(self.qos, lease.delivery_tag))
        return payload, queue

    def _hand_over(self, payload: dict[str, Any], queue: str) -> None:
        """Hand a message to its consumer. One that Celery's worker cannot make a task of is buried, and ends nobody."""
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001 -- as kombu's own channels do
        except self.connection_errors:
            raise
        except Exception as error:
            delivery_tag = payload["properties"].get("delivery_tag")
            if not worker.is_here() or delivery_tag not in self.qos._delivered or worker.is_active(delivery_tag):  # noqa: SLF001 -- kombu's
                raise
            self.end_unusable(delivery_tag, error)

    def end_unusable(self, delivery_tag: str, error: Exception) -> None:
        """Bury a message of which Celery could make no task a moment ago; hand it back if a server is unavailable."""
        if isinstance(error, (*self.connection_errors, BackendError)):
            logger.warning("a message cannot be made a task of now: it goes back to its queue: %r", error)
            self.holder.requeue(delivery_tag)
        else:
            logger.error("a message cannot be made a task of: it goes to the dead letters", exc_info=error)
            self.holder.bury(delivery_tag, UNDECODABLE)
        virtual.QoS.ack(self.qos, delivery_tag)

    # -- queues

    def _size(self, queue: str) -> int:
        with self._plain_client.pipeline(transaction=False) as pipe:
            for part in keys.WAITING_LISTS:
                pipe.llen(f"{self._base(queue)}:{part}")
            return sum(pipe.execute())

    def _has_queue(self, queue: str, **_: object) -> bool:
        names = [f"{self._base(queue)}:{part}" for part in keys.PARTS]
        return bool(self._plain_client.exists(*names))

    def _purge(self, queue: str) -> int:
        """Remove what waits or is delayed; what runs stays. Returns how many messages were removed."""
        removed, has_more = 0, 1
        while has_more:
            some, has_more = scripts.PURGE(self._plain_client, [], [self.options.key_prefix, queue])
            removed += some
        return removed

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:  # noqa: ANN401, FBT001, FBT002 -- kombu's signature
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)  # type: ignore[misc]
        if queue in self._expires:
            limit_ms = self._expires[queue]
            with self._plain_client.pipeline() as pipe:
                pipe.sadd(keys.expiring(self.options.key_prefix), queue)
                pipe.set(f"{self._base(queue)}:{keys.EXPIRES}", limit_ms, px=limit_ms)
                pipe.execute()

    def _maybe_update_queues_expire(self, client: object, queue: str) -> None:
        """Do nothing: the publish script notes that the queue is used, and the sweep deletes it when it is not."""

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        super()._delete(queue, exchange, routing_key, pattern, *args, **kwargs)  # type: ignore[misc]
        scripts.DELETE(self._plain_client, [], [self.options.key_prefix, queue, *keys.PARTS])

    def _restore(self, message: virtual.Message, leftmost: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 -- kombu's signature
        self.holder.requeue(message.delivery_tag)

    def close(self) -> None:
        """Close the channel; the process keeps the leases of what runs."""
        if self._counted:
            self._counted = False
            self.holder.remove_consumer()
        super().close()  # type: ignore[misc]
        if self._in_flight:
            self._forget_answer()

    # -- small things

    @property
    def _plain_client(self) -> redis.Redis:
        """A client that sets no prefix: our key names carry it already."""
        return redis.Redis(connection_pool=self.pool)

    def _priority_of(self, message: dict[str, Any]) -> int:
        """Return the priority by `priority_steps`, within what a pop looks for: 0, the highest, to 9."""
        return max(0, min(9, int(self.priority(self._get_message_priority(message)))))

    def _base(self, queue: str) -> str:
        return f"{self.options.key_prefix}{queue}"

    def _pop_arguments(self, no_ack: Sequence[bool], suffix: str = "") -> list[scripts.Argument]:
        self._pops += 1
        options = self.options
        how = ("take" if taken else "lease" for taken in no_ack)
        lease_ms = milliseconds(options.lease_seconds)
        return [options.key_prefix, self.holder.owner, lease_ms, f"{self._poller}{suffix}", self._pops, *how]

    if TYPE_CHECKING:  # What kombu's channel brings.
        connection: Any
        client: Any
        pool: redis.ConnectionPool
        qos: Any
        active_queues: list[str]
        decode_body: Callable[[Any, str | None], object]
        active_fanout_queues: set[str]
        connection_errors: tuple[type[BaseException], ...]
        brpop_timeout: float
        _queue_cycle: Any
        _expires: dict[str, int]
        _get_pool: Callable[[], redis.ConnectionPool]
        _flush_brpop_reauth: Callable[[], None]
        _get_message_priority: Callable[[dict[str, Any]], int]
        priority: Callable[[int], int]


class Channel(LeaseChannel, kombu_redis.Channel):
    """A channel on one Redis."""


class SentinelChannel(LeaseChannel, kombu_redis.SentinelChannel):
    """A channel on the master that Redis Sentinel names.

    kombu takes several Sentinels as several URLs. Here one URL is enough, and all of them are named in the option
    `sentinels`.
    """

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "sentinels")
    sentinels: Sequence[tuple[str, int]] = ()
    sentinel_kwargs: dict[str, Any] | None = None
    master_name: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Refuse to start without the primary's name."""
        client = (args[0] if args else kwargs["connection"]).client
        if not client.transport_options.get("master_name"):
            raise InvalidOptionError("master_name must be set with Sentinel")
        super().__init__(*args, **kwargs)

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:  # noqa: FBT001, FBT002 -- kombu's signature
        params = self._connparams(asynchronous)
        nodes = [(params.pop("host"), params.pop("port"))]
        login = {name: params[name] for name in ("username", "password") if name in params}
        asked = dict(self.sentinel_kwargs or {})
        if self.connection.client.ssl:
            # The Sentinels are spoken to as their primary is.
            asked = {"ssl": True, **self.connection.client.ssl, **asked}
        manager = redis.Sentinel(self.sentinels or nodes, sentinel_kwargs=asked or None, **params)  # type: ignore[no-untyped-call]
        # Where kombu looks for them when it closes the channel.
        if asynchronous:
            self._async_sentinel_manager = manager
        else:
            self._sentinel_manager = manager
        client: redis.Redis = manager.master_for(self.master_name, redis.Redis, **login)  # type: ignore[no-untyped-call]
        return client.connection_pool

    if TYPE_CHECKING:  # What kombu's channel brings.
        _connparams: Callable[[bool], dict[str, Any]]
        _sentinel_manager: redis.Sentinel | None
        _async_sentinel_manager: redis.Sentinel | None


class Transport(kombu_redis.Transport):
    """Celery's broker with leases on one Redis or Valkey: ``redis://``, ``rediss://`` (TLS) or ``socket://``."""

    Channel = Channel
    supports_batch_publish = False
    implements = kombu_redis.Transport.implements.extend(batch_publish=False)
    # Full, or a replica for the moment, as in the midst of a failover: a worker connects again, rather than end.
    connection_errors = (*kombu_redis.Transport.connection_errors, OutOfMemoryError, ReadOnlyError, MasterDownError)
    # kombu would turn TLS on for its own transports alone.
    can_parse_url = True
    schemes = address.PLAIN_SCHEMES

    def __init__(self, client: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Read the URL of kombu's connection.

        Raises:
            InvalidOptionError: when the URL cannot be understood, or when there is more than one.

        """
        super().__init__(client, **kwargs)
        if len(client.alt) > 1:
            # With its second URL kombu goes on by a transport of its own, which knows nothing of our messages.
            message = "broker_url: one URL only; for a failover use Sentinel, or one name that follows the primary"
            raise InvalidOptionError(message)
        client.ssl = address.tls(client.ssl)
        if "://" in (client.hostname or "") and not client.hostname.startswith("socket://"):
            found = address.resolve(client.hostname, self.schemes, client.ssl)
            client.hostname, client.port, client.ssl = found.host, found.port, found.tls
            client.userid = found.username or client.userid
            client.password = found.password or client.password
            client.virtual_host = found.database or client.virtual_host
            client.credential_provider = found.credential_provider or client.credential_provider

    # What the URL's scheme begins with. A tool that counts by stock Redis's layout, which is not there, refuses it.
    layout = "leases"

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: FBT001, FBT002 -- kombu's signature
        """Return the URL, to be shown or to tell brokers apart."""
        client = self.client
        if "://" in uri:
            return f"{self.layout}+{uri if include_password else sanitize_url(uri, mask)}"
        password = client.password() if include_password and callable(client.password) else client.password
        login = ""
        if client.userid or password:
            login = f"{quote(client.userid or '', safe='')}:{quote(password, safe='') if include_password else mask}@"
        host = f"[{uri}]" if ":" in uri else uri
        port = client.port or self.default_port
        return f"{self.layout}+{'rediss' if client.ssl else 'redis'}://{login}{host}:{port}/{client.virtual_host.strip('/')}"

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Let each turn of the worker's loop be seen by the leases. Called whenever the worker has connected."""
        super().register_with_event_loop(connection, loop)
        worker.give_time_back(loop.timer)
        loop.on_tick.add(leases.tick)


class SentinelTransport(Transport):
    """The same with Sentinel: a URL ``sentinel://host:26379``, and the options ``master_name`` and ``sentinels``.

    With ``rediss-sentinel://`` the Sentinels and the primary are spoken to by TLS.
    """

    default_port = 26379
    Channel = SentinelChannel
    schemes = address.SENTINEL_SCHEMES


def _message_key_of(headers: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return the message key of a message; one that is not a task's is never a duplicate."""
    task_id = headers.get("id")
    if task_id is None or "task" not in headers:
        return f"message:{properties['delivery_tag']}"
    return message_key(task_id, headers.get("retries") or 0, headers.get("replaced_task_nesting") or 0)


def _due_ms(eta: str | None) -> int:
    """Return when an ETA is due in milliseconds since the epoch; 0 when there is none, or none that can be read."""
    if not eta:
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return 0  # the worker refuses the message with a clear error
    if due.tzinfo is None:
        due = maybe_make_aware(due, current_app.timezone)
    return milliseconds(due.timestamp())


def _nothing() -> None:
    """Be told of a lost lease that nobody waits for."""
