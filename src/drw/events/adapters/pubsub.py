"""The event bus in Google Cloud Pub/Sub: one topic with ordering keys, one subscription for each consumer.

CloudEvents are in the structured mode of Google's Pub/Sub binding, since an attribute has at most 1,024 bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from google.api_core.exceptions import AlreadyExists, DeadlineExceeded, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1 import PublisherAsyncClient, PubsubMessage, ReceivedMessage, SubscriberAsyncClient
from google.pubsub_v1 import types as pb
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from drw.catalog import EVENT_TYPES
from drw.events.event import Event, MalformedEvent
from drw.events.ports import Delivery, EventBus, Subscription
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import Profile
from drw.kernel.runtime.settings import PubSubBus as Settings

BATCH_SIZE = 100
ACK_DEADLINE_SECONDS = 60
RETENTION_SECONDS = 7 * 24 * 3600
TIMEOUT_SECONDS = 10.0
CALL: Any = {"timeout": TIMEOUT_SECONDS, "retry": None}
"""No retries by the client, which would outlast the transaction of the relay: the caller tries again."""
CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"


class PubSubBus(EventBus):
    """Publishes to a topic and pulls from subscriptions."""

    durable = True

    def __init__(self, settings: Settings, consumers: Sequence[str]) -> None:
        self._consumers = consumers
        self._topic = f"projects/{settings.project}/topics/{settings.topic}"
        self._subscription = f"projects/{settings.project}/subscriptions/{settings.topic}-"
        self._emulator = settings.emulator
        self._publisher: PublisherAsyncClient | None = None
        self._subscriber: SubscriberAsyncClient | None = None
        self._has_topic = False

    async def publish(self, events: Sequence[Event]) -> None:
        """Implement the port: one request for each key, since the service accepts or rejects a request as a whole."""
        messages: dict[str, list[PubsubMessage]] = {}
        for event in events:
            messages.setdefault(event.key, []).append(_message(event))
        with _translated_errors():
            client = await self._publisher_client()
            results = await asyncio.gather(
                *(client.publish(topic=self._topic, messages=m, **CALL) for m in messages.values()),
                return_exceptions=True,  # all requests end before the relay publishes again
            )
            if error := next((result for result in results if isinstance(result, BaseException)), None):
                raise error

    async def subscribe(self, consumer: str) -> Subscription:
        """Implement the port."""
        with _translated_errors():
            await self._publisher_client()
            return _PubSubSubscription(await self._subscriber_client(consumer), self._subscription + consumer)

    async def generation(self) -> str:
        """Implement the port: Pub/Sub keeps its data."""
        return ""

    async def close(self) -> None:
        """Implement the port."""
        for client in (self._publisher, self._subscriber):
            if client is not None:
                await client.transport.close()  # type: ignore[no-untyped-call]

    async def _publisher_client(self) -> PublisherAsyncClient:
        """Return the client, after it has created the topic if there is none."""
        if self._publisher is None:
            self._publisher = PublisherAsyncClient(
                transport=PublisherGrpcAsyncIOTransport(channel=grpc.aio.insecure_channel(self._emulator))
                if self._emulator
                else "grpc_asyncio"
            )
        if not self._has_topic:
            try:
                await self._publisher.get_topic(topic=self._topic, **CALL)
            except NotFound:
                with suppress(AlreadyExists):  # by another process
                    await self._publisher.create_topic(name=self._topic, **CALL)
            # Before the first event: a subscription receives only what is published after its creation.
            for consumer in self._consumers:
                await self._subscriber_client(consumer)
            self._has_topic = True
        return self._publisher

    async def _subscriber_client(self, consumer: str) -> SubscriberAsyncClient:
        """Return the client, after it has created the subscription of a consumer if there is none."""
        if self._subscriber is None:
            self._subscriber = SubscriberAsyncClient(
                transport=SubscriberGrpcAsyncIOTransport(channel=grpc.aio.insecure_channel(self._emulator))
                if self._emulator
                else "grpc_asyncio"
            )
        name = self._subscription + consumer
        try:
            await self._subscriber.get_subscription(subscription=name, **CALL)
        except NotFound:
            await self._create_subscription(self._subscriber, name)
        return self._subscriber

    async def _create_subscription(self, client: SubscriberAsyncClient, name: str) -> None:
        subscription = pb.Subscription(
            name=name,
            topic=self._topic,
            enable_message_ordering=True,
            ack_deadline_seconds=ACK_DEADLINE_SECONDS,
            message_retention_duration=Duration(seconds=RETENTION_SECONDS),
            expiration_policy=pb.ExpirationPolicy(),  # never: a consumer can be stopped for long
        )
        with suppress(AlreadyExists):  # by another process
            await client.create_subscription(subscription, **CALL)


class _PubSubSubscription(Subscription):
    def __init__(self, client: SubscriberAsyncClient, name: str) -> None:
        self._client = client
        self._name = name
        self._unacknowledged: list[str] = []

    async def fetch(self, seconds: float) -> Sequence[Delivery]:
        with _translated_errors():
            try:
                request = pb.PullRequest(subscription=self._name, max_messages=BATCH_SIZE)
                response = await self._client.pull(request, timeout=seconds, retry=None)
            except DeadlineExceeded:
                return []
        self._unacknowledged = [message.ack_id for message in response.received_messages]
        return [_delivery(message) for message in response.received_messages]

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with _translated_errors():
            await self._client.acknowledge(
                subscription=self._name, ack_ids=[delivery.token for delivery in deliveries], **CALL
            )
        self._unacknowledged = []

    async def close(self) -> None:
        if not self._unacknowledged:
            return
        with suppress(GoogleAPIError):  # the deadline passes
            await self._client.modify_ack_deadline(
                subscription=self._name,
                ack_ids=self._unacknowledged,
                ack_deadline_seconds=0,
                **CALL,
            )


def connect(profile: Profile) -> PubSubBus:
    """Return the bus of a profile."""
    consumers = sorted({consumer for event in EVENT_TYPES for consumer in event.consumers})
    return PubSubBus(profile.bus.pubsub, consumers)


def _message(event: Event) -> PubsubMessage:
    attributes = {"content-type": CONTENT_TYPE, "type": event.type}  # the type is for filters of other subscriptions
    return PubsubMessage(data=event.to_json(), attributes=attributes, ordering_key=event.key)


def _delivery(received: ReceivedMessage) -> Delivery:
    data = received.message.data
    try:
        return Delivery(Event.from_json(data), b"", received.ack_id)
    except MalformedEvent:
        return Delivery(None, data, received.ack_id)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (GoogleAPIError, GoogleAuthError) as error:
        raise Unavailable(f"the event bus is unavailable: Pub/Sub does not answer ({error})", part="pubsub") from error
