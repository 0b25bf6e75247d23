"""A real Envoy with its agent, in front of the real gateway services and of a double of the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.data_plane import Fed, Front, front_profile_of, running
from drw.kernel.runtime.settings import Profile


@pytest.fixture
def front_profile(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with four processes and a data plane; nothing runs yet."""
    # Envoy is not there yet when the agent first looks for it, and nobody should wait until it looks again.
    monkeypatch.setattr("drw.agent.agent.RETRY_SECONDS", 0.05)
    return front_profile_of(profile, folder)


@pytest.fixture
async def front(front_profile: Profile) -> AsyncIterator[Front]:
    """Everything, running."""
    async with running(Front(front_profile)) as found:
        yield found


@pytest.fixture
async def fed(front_profile: Profile) -> AsyncIterator[Fed]:
    """Everything but the gateway services, which the test plays."""
    async with running(Fed(front_profile)) as found:
        yield found
