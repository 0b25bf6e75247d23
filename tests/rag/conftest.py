"""Profile of the rag tests: an embedding service without a model."""

from __future__ import annotations

import pytest

from drw.kernel.runtime.settings import Profile, ServiceAddress


@pytest.fixture
def hashing(profile: Profile) -> Profile:
    """A profile with the double of a text encoder, and with a request router that does not answer."""
    gateway = ServiceAddress(services=("request_router",), grpc="unix:/nothing", http="")
    encoder = {"embedding": {"encoder": "hashing"}}
    return profile.model_copy(update={"services": encoder, "processes": {"gateway": gateway}})
