"""Envoy with its agent, in front of the gateway services and of a double of the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.data_plane import Fed, Front, front_profile_of, running
from drw.kernel.runtime.settings import Profile


@pytest.fixture
def front_profile(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with four processes and a data plane, which are not started yet."""
    # Envoy starts after the agent: shorten the interval at which the agent retries.
    monkeypatch.setattr("drw.agent.agent.AGAIN_SECONDS", 0.05)
    return front_profile_of(profile, folder)


@pytest.fixture
async def front(front_profile: Profile) -> AsyncIterator[Front]:
    """The running data plane, gateway services and double."""
    async with running(Front(front_profile)) as found:
        yield found


@pytest.fixture
async def fed(front_profile: Profile) -> AsyncIterator[Fed]:
    """The running data plane without gateway services, which the test replaces."""
    async with running(Fed(front_profile)) as found:
        yield found
