"""Documents together with what it calls, in a few settings."""

from __future__ import annotations

import pytest

from drw.demo.pdf import pdf
from rag.documents.desks import running


@pytest.fixture
def rag(hashing):
    return hashing


@pytest.fixture
async def platform(rag):
    async with running(rag) as platform:
        yield platform


@pytest.fixture
def idle(rag):
    """The same, with nobody who indexes."""
    return running(rag.model_copy(update={"services": rag.services | {"documents": {"indexers": 0}}}))


@pytest.fixture
def narrow(rag):
    """The same, with room for few attached files."""
    bounds = {"max_attached_files": 3, "max_attached_bytes": 5000, "max_attachment_depth": 2, "workers": 1}
    return running(rag.model_copy(update={"services": rag.services | {"documents": bounds}}))


@pytest.fixture
def report():
    return pdf([["Harbour Lane Trading Ltd", "For the quarter ended December 31, 2025"], ["Rates 17.8 16.1"]])
