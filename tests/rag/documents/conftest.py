"""Fixtures: the documents service with the services that it calls, in several configurations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from drw.demo.pdf import pdf
from drw.kernel.runtime.settings import Profile
from rag.documents.desks import Platform, running


@pytest.fixture
def rag(hashing: Profile) -> Profile:
    return hashing


@pytest.fixture
async def platform(rag: Profile) -> AsyncIterator[Platform]:
    async with running(rag) as platform:
        yield platform


@pytest.fixture
def idle(rag: Profile) -> AbstractAsyncContextManager[Platform]:
    """A platform without indexing workers."""
    return running(rag.model_copy(update={"services": rag.services | {"documents": {"indexers": 0}}}))


@pytest.fixture
def low_limits(rag: Profile) -> AbstractAsyncContextManager[Platform]:
    """A platform with low limits on attachments."""
    limits = {"max_attached_files": 3, "max_attached_bytes": 5000, "max_attachment_depth": 2, "workers": 1}
    return running(rag.model_copy(update={"services": rag.services | {"documents": limits}}))


@pytest.fixture
def report() -> bytes:
    return pdf([["Harbour Lane Trading Ltd", "For the quarter ended December 31, 2025"], ["Rates 17.8 16.1"]])
