"""Fixtures of the metering tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.kernel.runtime.settings import Profile
from money.protocol import DESK, POLICY, TOKEN
from money.world import World, world


@pytest.fixture
async def on(profile: Profile) -> AsyncIterator[World]:
    """A desk that may spend what 100 tokens of the model `one` cost."""
    async with world(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as made:
        yield made
