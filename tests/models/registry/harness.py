"""A registry with three persons of one org, one of another, and an upstream; used by all tests of versions."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg

from drw.api.gateway.v1.authentication_pb2 import PutDeskRequest, PutOrgRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.models.v1.discovery_pb2 import Model, ModelVersion, RegisterVersionRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.versions_pb2 import (
    ApprovePromotionRequest,
    ApproveVersionRequest,
    CreatePromotionRequest,
    Finding,
    Promotion,
    ValidateVersionRequest,
    ValidationRecord,
    VersionEndpoint,
)
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.local.first_key import OPERATOR
from models.registry.double_vllm import DoubleVllm, double_vllm
from support.gateway.keys import issued
from support.hosting import hosted
from support.json_types import Json, JsonObject

SERVICES = ["authentication", "rate_limiting", "discovery"]
MODELS = {"small": {"engine": "openai", "base_url": "https://upstream.example/v1"}}
SCOPES_OF_ALL = ("models:read", "models:invoke", "models:write", "models:approve")


@dataclass
class RegistryWorld:
    """A running registry."""

    host: Host
    upstream: DoubleVllm
    developer: Principal
    validator: Principal
    approver: Principal
    stranger: Principal
    """Of another org, with all scopes of models."""
    profile: Profile

    @property
    def client(self) -> DiscoveryClient:
        """A client of discovery."""
        return self.host.client(DiscoveryClient)

    def http(self, principal: Principal) -> httpx.AsyncClient:
        """Return a client of the REST API, as a person behind the data plane."""
        headers = {
            "x-drw-key": principal.key,
            "x-drw-org": principal.org,
            "x-drw-desk": principal.desk,
            "x-drw-scopes": " ".join(principal.scopes),
            "x-drw-walls": " ".join(principal.walls),
        }
        transport = httpx.ASGITransport(app=self.host.app())
        return httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers, timeout=60)

    async def registered(self, model: str = "fraud", by: Principal | None = None, **fields: Json) -> ModelVersion:
        """Register a version with the upstream as its endpoint; `upstream_model` makes it another version."""
        endpoint = VersionEndpoint(
            base_urls=[self.upstream.base_url], upstream_model=fields.pop("upstream_model", "m1"), context_length=4096
        )
        fields = {"kind": Model.CHAT, "owner": "desk", "endpoint": endpoint, **fields}
        with acting_for(by or self.developer):
            return await self.client.register_version(RegisterVersionRequest(model=model, **fields))

    async def validated(self, version: str, by: Principal | None = None, **fields: Json) -> ModelVersion:
        """Submit a validation record."""
        with acting_for(by or self.validator):
            return await self.client.validate_version(ValidateVersionRequest(id=version, record=record(**fields)))

    async def approved(self, model: str = "fraud", **fields: Json) -> ModelVersion:
        """Register, validate and approve a version."""
        version = await self.registered(model, **fields)
        await self.validated(version.id)
        with acting_for(self.approver):
            return await self.client.approve_version(ApproveVersionRequest(id=version.id))

    async def promoted(self, alias: str, version: str) -> Promotion:
        """Let an alias name a version."""
        with acting_for(self.developer):
            request = CreatePromotionRequest(alias=alias, version=version, reason="better")
            promotion = await self.client.create_promotion(request)
        with acting_for(self.approver):
            return await self.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))

    async def uploaded(self, *contents: bytes, by: Principal | None = None) -> list[str]:
        """Upload files; return their digests."""
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        async with self.http(by or self.developer) as http:
            for digest, content in zip(digests, contents, strict=True):
                answer = await http.put(f"/api/v1/model-files/{digest}", content=content)
                assert answer.status_code == 200, answer.text
        return digests

    def audit(self, *prefixes: str) -> list[JsonObject]:
        """Return the audit records of actions with these prefixes."""
        with psycopg.connect(self.profile.postgres) as connection:
            rows = connection.execute("select record::jsonb from audit.inbox order by id").fetchall()
        return [row[0] for row in rows if row[0]["action"].startswith(prefixes)]


def record(days: float = 30, **fields: Json) -> ValidationRecord:
    """Return a complete record of a model in scope."""
    values: JsonObject = {
        "scope": ValidationRecord.IN_SCOPE,
        "scope_reason": "it estimates losses",
        "purpose": "screen orders",
        "exposure": "all orders of the desk",
        "materiality": ValidationRecord.MEDIUM,
        "owner": "head of desk",
        "limits": ["not for options"],
    } | fields
    result = ValidationRecord(**values)
    result.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return result


def finding(days: float, severity: Finding.Severity = Finding.HIGH, **fields: Json) -> Finding:
    """Return a finding that is due in some days."""
    result = Finding(title="drift", severity=severity, **fields)
    result.due_at.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return result


@asynccontextmanager
async def registry_world(
    profile: Profile, how: str = "together", *, services: list[str] | None = None, **discovery: Json
) -> AsyncIterator[RegistryWorld]:
    """Run the registry, and serving if `services` has it."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(double_vllm())
        settings: JsonObject = {
            "models": MODELS,
            "allowed_endpoints": ["127.0.0.1/32"],
            "probe_seconds": 3600,
            **discovery,
        }
        sockets = Path(profile.postgres.split("host=")[1].split()[0])
        absent = {"rag": ServiceAddress(services=("embedding",), grpc=f"unix:{sockets}/absent", http="")}
        profile = profile.model_copy(update={"services": profile.services | {"discovery": settings}})
        if services:
            profile = profile.model_copy(update={"processes": absent})
        host = await stack.enter_async_context(hosted(profile, services or SERVICES, how))
        grants: JsonObject = {"scopes": sorted(SCOPES), "walls": ["m-and-a"]}
        with acting_for(OPERATOR):
            authentication = host.client(AuthenticationClient)
            await authentication.put_org(PutOrgRequest(name="rival", **grants))
            await authentication.put_desk(PutDeskRequest(org="rival", name="desk", **grants))
        people = [await issued(host, *SCOPES_OF_ALL) for _ in range(3)]
        stranger = await issued(host, *SCOPES_OF_ALL, org="rival", desk="desk")
        yield RegistryWorld(host, upstream, people[0], people[1], people[2], stranger, profile)
