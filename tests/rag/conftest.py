"""A profile in which texts become vectors without a model."""

from __future__ import annotations

import pytest

from drw.kernel.runtime.settings import Profile, ServiceAddress


@pytest.fixture
def hashing(profile: Profile) -> Profile:
    """The embedding service with the double of an encoder; its request router has a place, and does not answer."""
    gateway = ServiceAddress(services=("request_router",), grpc="unix:/nothing", http="")
    encoder = {"embedding": {"encoder": "hashing"}}
    return profile.model_copy(update={"services": encoder, "processes": {"gateway": gateway}})
