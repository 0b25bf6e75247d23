"""A double of Google Cloud Pub/Sub: a gRPC server with the wire types of the official client.

It has what the adapter uses: topics, subscriptions with ordering, publishing, pulling, acknowledging, and redelivery.
It refuses what the service refuses: a request with several ordering keys, unknown topics, and oversized attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types as pb

MAX_ATTRIBUTE_BYTES = 1024
Handler = Callable[[Any, Any], Any]


@dataclass(slots=True)
class Waiting:
    """The messages of one subscription."""

    settings: pb.Subscription
    queue: list[pb.PubsubMessage] = field(default_factory=list)
    outstanding: dict[str, pb.PubsubMessage] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def redeliver(self, ack_ids: set[str]) -> None:
        """Queue unacknowledged messages again, and with each all later ones of its key, in order."""
        keys = {self.outstanding[i].ordering_key for i in ack_ids if i in self.outstanding}
        again = {i: m for i, m in self.outstanding.items() if i in ack_ids or m.ordering_key in keys}
        for ack_id in again:
            del self.outstanding[ack_id]
        self.queue[:0] = again.values()
        self.changed.set()


class PubSubDouble:
    """The server."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.subscriptions: dict[str, Waiting] = {}
        self.fails = 0
        """How many of the next publish requests fail after the messages are accepted."""
        self._numbers = 0
        self._server = grpc.aio.server()

    async def start(self) -> str:
        """Listen on a free port; return the address."""
        publisher = {
            "CreateTopic": _method(pb.Topic, pb.Topic, self._create_topic),
            "GetTopic": _method(pb.GetTopicRequest, pb.Topic, self._get_topic),
            "Publish": _method(pb.PublishRequest, pb.PublishResponse, self._publish),
        }
        subscriber = {
            "CreateSubscription": _method(pb.Subscription, pb.Subscription, self._create_subscription),
            "GetSubscription": _method(pb.GetSubscriptionRequest, pb.Subscription, self._get_subscription),
            "Pull": _method(pb.PullRequest, pb.PullResponse, self._pull),
            "Acknowledge": _method(pb.AcknowledgeRequest, None, self._acknowledge),
            "ModifyAckDeadline": _method(pb.ModifyAckDeadlineRequest, None, self._modify),
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
                grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
            )
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop."""
        await self._server.stop(0)

    async def _create_topic(self, request: pb.Topic, _: Any) -> pb.Topic:
        self.topics.add(request.name)
        return request

    async def _get_topic(self, request: pb.GetTopicRequest, call: Any) -> pb.Topic:
        if request.topic not in self.topics:
            await call.abort(grpc.StatusCode.NOT_FOUND, "no such topic")
        return pb.Topic(name=request.topic)

    async def _publish(self, request: pb.PublishRequest, call: Any) -> pb.PublishResponse:
        if request.topic not in self.topics:
            await call.abort(grpc.StatusCode.NOT_FOUND, "no such topic")
        if len({message.ordering_key for message in request.messages}) > 1:
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "one ordering key for each request")
        if any(len(v.encode()) > MAX_ATTRIBUTE_BYTES for m in request.messages for v in m.attributes.values()):
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "an attribute is too large")
        ids = []
        for message in request.messages:
            self._numbers += 1
            ids.append(str(self._numbers))
            for waiting in self.subscriptions.values():
                if waiting.settings.topic == request.topic:
                    waiting.queue.append(message)
                    waiting.changed.set()
        if self.fails:
            self.fails -= 1
            await call.abort(grpc.StatusCode.INTERNAL, "accepted, and the answer is lost")
        return pb.PublishResponse(message_ids=ids)

    async def _create_subscription(self, request: pb.Subscription, call: Any) -> pb.Subscription:
        if request.name in self.subscriptions:
            await call.abort(grpc.StatusCode.ALREADY_EXISTS, "it exists")
        assert request.enable_message_ordering
        self.subscriptions[request.name] = Waiting(request)
        return request

    async def _get_subscription(self, request: pb.GetSubscriptionRequest, call: Any) -> pb.Subscription:
        if request.subscription not in self.subscriptions:
            await call.abort(grpc.StatusCode.NOT_FOUND, "no such subscription")
        return self.subscriptions[request.subscription].settings

    async def _pull(self, request: pb.PullRequest, _: Any) -> pb.PullResponse:
        waiting = self.subscriptions[request.subscription]
        while not waiting.queue:
            waiting.changed.clear()
            await waiting.changed.wait()
        messages, waiting.queue = waiting.queue[: request.max_messages], waiting.queue[request.max_messages :]
        received = []
        for message in messages:
            self._numbers += 1
            waiting.outstanding[str(self._numbers)] = message
            received.append(pb.ReceivedMessage(ack_id=str(self._numbers), message=message))
        return pb.PullResponse(received_messages=received)

    async def _acknowledge(self, request: pb.AcknowledgeRequest, _: Any) -> Empty:
        for ack_id in request.ack_ids:
            self.subscriptions[request.subscription].outstanding.pop(ack_id, None)
        return Empty()

    async def _modify(self, request: pb.ModifyAckDeadlineRequest, _: Any) -> Empty:
        if request.ack_deadline_seconds == 0:
            self.subscriptions[request.subscription].redeliver(set(request.ack_ids))
        return Empty()


def _method(request: Any, response: Any, handler: Handler) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        handler,
        request_deserializer=request.deserialize,
        response_serializer=response.serialize if response else Empty.SerializeToString,
    )
