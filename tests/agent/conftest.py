"""Harnesses that run a real Envoy with its agent, the gateway services and a double of the model services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.data_plane import DataPlaneHarness, GatewayHarness, running, with_data_plane
from drw.kernel.runtime.settings import Profile


@pytest.fixture
def data_plane_profile(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with four processes and a data plane; nothing runs yet."""
    # The agent looks for Envoy before Envoy has started; a short retry keeps the tests fast.
    monkeypatch.setattr("drw.agent.agent.RETRY_SECONDS", 0.05)
    return with_data_plane(profile, folder)


@pytest.fixture
async def gateway(data_plane_profile: Profile) -> AsyncIterator[GatewayHarness]:
    """A running gateway."""
    async with running(GatewayHarness(data_plane_profile)) as harness:
        yield harness


@pytest.fixture
async def data_plane(data_plane_profile: Profile) -> AsyncIterator[DataPlaneHarness]:
    """A running data plane whose configuration the test sets."""
    async with running(DataPlaneHarness(data_plane_profile)) as harness:
        yield harness
