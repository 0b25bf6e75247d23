"""Fixtures of the metering tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.kernel.runtime.settings import Profile
from money.metering_cluster import MeteringCluster, running_cluster
from money.protocol import DESK, POLICY, TOKEN


@pytest.fixture
async def cluster(profile: Profile) -> AsyncIterator[MeteringCluster]:
    """A cluster with a desk that has a budget of 100 tokens of the model `one`."""
    async with running_cluster(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as cluster:
        yield cluster
