"""The event bus in Kafka: one topic, CloudEvents in the binary mode of the Kafka binding, an idempotent producer.

The producer is the synchronous one, whose calls do not block, in front of a thread that waits for the deliveries:
`AIOProducer` refuses headers, which the binding needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.aio import AIOConsumer

from drw.events.event import FORMAT, Event, MalformedEvent, parsed
from drw.events.ports import Delivery, EventBus, Subscription
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import KafkaBus as Settings
from drw.kernel.runtime.settings import Profile

BATCH_SIZE = 100
MESSAGE_TIMEOUT_MS = 10_000
FLUSH_SECONDS = 15.0
"""Longer than the time-out of a message, which then fails."""
SESSION_TIMEOUT_MS = 10_000
"""After this time without a heartbeat, another process takes over."""
CLOSE_SECONDS = 5.0
BUFFER_BYTES_KIB = 16 << 10
"""Messages that a consumer fetches ahead."""


class KafkaBus(EventBus):
    """Publishes to a topic and consumes it in groups."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Producer | None = None

    async def publish(self, events: Sequence[Event]) -> None:
        """Implement the port: in rounds with one event of each key, since a later one must not outlive an earlier."""
        with _translated_errors():
            producer = self._started_producer()
            for events_of_round in _rounds(events):
                await _deliver(producer, self._settings.topic, events_of_round)

    async def subscribe(self, consumer: str) -> Subscription:
        """Implement the port."""
        with _translated_errors():
            client = AIOConsumer(
                _common(self._settings)
                | {
                    "group.id": f"{self._settings.topic}.{consumer}",
                    "enable.auto.commit": False,
                    "session.timeout.ms": SESSION_TIMEOUT_MS,
                    "auto.offset.reset": "earliest",
                    "partition.assignment.strategy": "cooperative-sticky",
                    "queued.max.messages.kbytes": BUFFER_BYTES_KIB,
                    "allow.auto.create.topics": True,
                    "topic.metadata.refresh.interval.ms": 10_000,
                },
                max_workers=1,
            )
            await client.subscribe([self._settings.topic])
        return _KafkaSubscription(client)

    async def generation(self) -> str:
        """Implement the port: Kafka keeps its data."""
        return ""

    async def close(self) -> None:
        """Implement the port."""
        if self._producer is not None:
            self._producer.purge()
            await asyncio.to_thread(self._producer.flush, CLOSE_SECONDS)
            self._producer = None

    def _started_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                _common(self._settings)
                | {
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": "lz4",
                    "linger.ms": 0,
                    "message.timeout.ms": MESSAGE_TIMEOUT_MS,
                }
            )
        return self._producer


class _KafkaSubscription(Subscription):
    def __init__(self, consumer: AIOConsumer) -> None:
        self._consumer = consumer

    async def fetch(self, seconds: float) -> Sequence[Delivery]:
        with _translated_errors():
            messages = await self._consumer.consume(BATCH_SIZE, timeout=seconds)
        if error := next((error for message in messages if (error := message.error()) and not _passes(error)), None):
            raise _unavailable(error)
        return [_delivery(message) for message in messages if not message.error()]

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        offsets: dict[tuple[str, int], int] = {}
        for delivery in deliveries:
            topic, partition, offset = delivery.token
            offsets[topic, partition] = offset + 1
        with _translated_errors():
            await self._consumer.commit(
                offsets=[TopicPartition(*place, offset) for place, offset in offsets.items()], asynchronous=False
            )

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._consumer.close()
        except (KafkaException, TimeoutError):
            pass  # the group notices that the member is gone


def connect(profile: Profile) -> KafkaBus:
    """Return the bus of a profile."""
    return KafkaBus(profile.bus.kafka)


def _common(settings: Settings) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap,
        "security.protocol": settings.security_protocol,
        "log_level": 3,
    }
    if settings.username:
        configuration |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username,
            "sasl.password": settings.password,
        }
    if settings.ca is not None:
        configuration["ssl.ca.location"] = str(settings.ca)
    return configuration


def _rounds(events: Sequence[Event]) -> list[list[Event]]:
    """Split events into rounds; the n-th round has the n-th event of each key."""
    rounds: list[list[Event]] = []
    counts: dict[str, int] = {}
    for event in events:
        number = counts[event.key] = counts.get(event.key, -1) + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(event)
    return rounds


async def _deliver(producer: Producer, topic: str, events: Sequence[Event]) -> None:
    """Produce messages, and wait until the broker has accepted all of them.

    Raises:
        KafkaException: it has not accepted one of them.
    """
    errors: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            errors.append(error)

    for event in events:
        producer.produce(topic, on_delivery=delivered, **_message(event))
    if waiting := await asyncio.to_thread(producer.flush, FLUSH_SECONDS):
        raise _unavailable(f"{waiting} messages are not delivered")
    if errors:
        raise KafkaException(errors[0])


def _message(event: Event) -> dict[str, Any]:
    message = to_binary(event.to_cloudevent(), FORMAT)
    return {"key": message.key, "value": message.value, "headers": list(message.headers.items())}


def _delivery(message: Message) -> Delivery:
    token = (message.topic(), message.partition(), message.offset())
    value: Any = message.value() or b""
    headers: Any = dict(message.headers() or [])
    key: Any = message.key()
    try:
        event = parsed(lambda: from_binary(KafkaMessage(headers, key, value), FORMAT))
        return Delivery(Event.from_cloudevent(event), b"", token)
    except MalformedEvent:
        return Delivery(None, value, token)


def _passes(error: KafkaError) -> bool:
    """Return whether the client recovers from an error alone, such as a topic that does not exist yet."""
    return error.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART)


def _unavailable(error: object) -> Unavailable:
    return Unavailable(f"the event bus is unavailable: Kafka does not answer ({error})", part="kafka")


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise _unavailable(error) from error
