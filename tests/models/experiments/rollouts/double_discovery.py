"""A double of discovery with one alias, and one model or an error."""

from __future__ import annotations

from typing import Any

from drw.api.models.v1.discovery_pb2 import (
    Alias,
    ListAliasesRequest,
    ListAliasesResponse,
    Model,
    Permit,
    PromoteAliasRequest,
    ResolvedModel,
    ResolveModelRequest,
)
from drw.api.models.v1.discovery_rpc import Discovery, DiscoveryClient
from drw.kernel.errors import DrwError
from drw.kernel.rpc.transport import LocalTransport
from drw.models.experiments.treatments import AliasModels


class DoubleDiscovery(Discovery):
    """Has the alias `fast`, and one model or an error."""

    def __init__(self, model: ResolvedModel | DrwError) -> None:
        self.model = model
        self.promoted: list[str] = []
        self.promotion_error: DrwError | None = None
        """Raised after the alias was changed."""

    async def list_aliases(self, request: ListAliasesRequest, /) -> ListAliasesResponse:
        return ListAliasesResponse(aliases=[Alias(name="fast")])

    async def resolve_model(self, request: ResolveModelRequest, /) -> ResolvedModel:
        if isinstance(self.model, DrwError):
            raise self.model
        return self.model

    async def promote_alias(self, request: PromoteAliasRequest, /) -> Alias:
        self.promoted.append(request.model)
        if self.promotion_error:
            raise self.promotion_error
        return Alias(name=request.alias)

    def client(self) -> DiscoveryClient:
        return DiscoveryClient(LocalTransport(lambda: self, "discovery"))


def models(answer: ResolvedModel | DrwError) -> AliasModels:
    return AliasModels(DoubleDiscovery(answer).client(), now=lambda: 1000.0)


def resolved(kind: Model.Kind = Model.CHAT, **permit: Any) -> ResolvedModel:
    return ResolvedModel(model=Model(id="m", kind=kind), permit=Permit(**permit))
