"""A double of a service that has only its contract."""

from __future__ import annotations

import importlib

import pytest

from drw.catalog import BY_NAME
from drw.kernel.runtime.host import ServiceContext


def double_unimplemented(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Replace a service by one without methods, until the end of the test."""
    service = BY_NAME[name]
    contract = importlib.import_module(f"{service.contract.rpartition('.')[0]}.{name}_rpc")
    servicer = getattr(contract, service.contract.rpartition(".")[2])

    async def build(scope: ServiceContext) -> object:
        return servicer()

    monkeypatch.setattr(importlib.import_module(f"drw.{service.cluster}.{name}.service"), "build", build)
