"""The brokers of the conformance suite: Valkey, Kafka and a double of Pub/Sub, each without events."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from uuid import uuid4

from confluent_kafka import Producer

from drw.kernel.runtime.settings import Bus, KafkaBus, Profile, PubSubBus
from events.pubsub_double import PubSubDouble

BROKERS = ["valkey", "kafka-mock", "kafka", "pubsub-double"]
KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker, and the profile that selects it."""

    name: str
    profile: Profile
    double: PubSubDouble | None = None


@contextmanager
def kafka_mock() -> Iterator[str]:
    """Run the mock cluster of librdkafka; yields its bootstrap address."""
    producer = Producer({"test.mock.num.brokers": 3, "log_level": 3})
    brokers = producer.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    producer.flush(0)  # the cluster lives as long as its producer


@asynccontextmanager
async def broker(name: str, profile: Profile) -> AsyncIterator[Broker]:
    """Yield a broker without events."""
    topic = f"drw.test.{uuid4().hex}"
    if name == "kafka-mock":
        with kafka_mock() as bootstrap:
            yield Broker(name, _with(profile, Bus(adapter="kafka", kafka=KafkaBus(bootstrap=bootstrap, topic=topic))))
    elif name == "kafka":
        yield Broker(name, _with(profile, Bus(adapter="kafka", kafka=KafkaBus(bootstrap=KAFKA, topic=topic))))
    elif name == "pubsub-double":
        double = PubSubDouble()
        address = await double.start()
        pubsub = PubSubBus(project="test", topic=topic, emulator=address)
        yield Broker(name, _with(profile, Bus(adapter="pubsub", pubsub=pubsub)), double)
        await double.stop()
    else:
        yield Broker(name, profile)


def _with(profile: Profile, bus: Bus) -> Profile:
    return profile.model_copy(update={"bus": bus})
