"""The model-risk gate in the serving path: attempts to reach a version without a valid validation record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from drw.api.models.v1.discovery_pb2 import (
    Alias,
    ListModelsRequest,
    PromoteAliasRequest,
    ResolveModelRequest,
    ResolvePlanRequest,
    WeightedTarget,
)
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.versions_pb2 import (
    ApproveVersionRequest,
    CreatePromotionRequest,
    GetVersionRequest,
    ModelPrice,
    RetireVersionRequest,
    RevokeValidationRequest,
)
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import ConfigError, Profile
from drw.local.first_key import OPERATOR
from drw.models.discovery.service import Discovery
from drw.routing import permits
from drw.routing.permits import ModelNotValidated
from models.registry.harness import SERVICES, RegistryWorld, finding, registry_world
from support.gateway.keys import issued, rotated
from support.json_types import Json

WITH_SERVING = [*SERVICES, "load_balancer", "request_router", "serving"]


@pytest.fixture
async def world(profile: Profile) -> AsyncIterator[RegistryWorld]:
    async with registry_world(profile, services=WITH_SERVING, aliases={"shared": {"targets": {"small": 1}}}) as running:
        yield running


async def ask(world: RegistryWorld, model: str, by: Principal | None = None) -> httpx.Response:
    """Send a chat request, and return the response."""
    async with world.http(by or world.developer) as http:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return await http.post("/v1/chat/completions", json=body)


async def refused(world: RegistryWorld, model: str, reason: str = "") -> None:
    """Check that a model is refused, and that nothing reached the upstream."""
    before = list(world.upstream.chats)
    answer = await ask(world, model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_validated"), answer.text
    assert reason in answer.text
    assert world.upstream.chats == before


async def test_only_an_approved_record_lets_traffic_through(world: RegistryWorld) -> None:
    version = await world.registered()
    prefix = f"fraud@{version.digest.removeprefix('sha256:')[:20]}"
    for name in (version.id, prefix, f"fraud@{version.digest.removeprefix('sha256:')}"):
        await refused(world, name, "has no approved validation record")
    await world.validated(version.id)
    await refused(world, version.id, "waits for approval")
    with acting_for(world.approver):
        await world.client.approve_version(ApproveVersionRequest(id=version.id))
    for name in (version.id, prefix):
        assert (await ask(world, name)).status_code == 200
    assert world.upstream.chats == ["m1", "m1"]
    with acting_for(world.validator):
        await world.client.revoke_validation(RevokeValidationRequest(id=version.id, reason="drift"))
    await refused_soon(world, version.id, "revoked: drift")


async def refused_soon(world: RegistryWorld, model: str, reason: str) -> None:
    """Wait until a cached candidate is refused, far sooner than the cache ends."""
    async with asyncio.timeout(4):
        while (await ask(world, model)).status_code == 200:
            await asyncio.sleep(0.01)
    await refused(world, model, reason)


async def test_calls_of_a_version_cost_its_price(world: RegistryWorld) -> None:
    price = ModelPrice(prompt_usd_per_million="1000", completion_usd_per_million="2000")
    version = await world.approved(price=price)
    assert (await ask(world, version.id)).status_code == 200
    with psycopg.connect(world.profile.postgres, row_factory=dict_row) as connection:
        row = connection.execute("select * from metering.ledger where model = %s", (version.id,)).fetchone()
    assert row is not None
    assert row["cost"] == row["prompt_tokens"] * 1_000_000 + row["completion_tokens"] * 2_000_000 > 0


async def test_a_retired_version_is_refused_even_with_a_valid_record(world: RegistryWorld) -> None:
    version = await world.approved()
    assert (await ask(world, version.id)).status_code == 200
    with acting_for(world.approver):
        await world.client.retire_version(RetireVersionRequest(id=version.id, reason="replaced"))
    await refused_soon(world, version.id, "retired: replaced")
    with pytest.raises(Conflict, match="was retired"):
        await world.validated(version.id)


async def test_a_revoked_version_stops_while_discovery_is_down(
    world: RegistryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await world.approved()
    assert (await ask(world, version.id)).status_code == 200
    with acting_for(world.validator):
        await world.client.revoke_validation(RevokeValidationRequest(id=version.id, reason="drift"))
    await refused_soon(world, version.id, "revoked")

    async def down(*_: Json) -> None:
        raise Unavailable("discovery does not answer")

    monkeypatch.setattr(Discovery, "resolve_plan", down)
    assert (await ask(world, version.id)).status_code == 503  # the old answer does not come back
    assert world.upstream.chats == ["m1"]


async def test_a_cached_permit_expires_while_discovery_is_down(
    world: RegistryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await world.approved()
    assert (await ask(world, version.id)).status_code == 200

    async def down(*_: Json) -> None:
        raise Unavailable("discovery does not answer")

    monkeypatch.setattr(Discovery, "resolve_plan", down)
    assert (await ask(world, version.id)).status_code == 200  # cached
    move_clock(monkeypatch, minutes=16)  # beyond `permit_seconds`
    await refused(world, version.id, "its permit has expired")


def move_clock(monkeypatch: pytest.MonkeyPatch, **time: float) -> None:
    now = permits.now
    monkeypatch.setattr(permits, "now", lambda: now() + timedelta(**time).total_seconds())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (lambda: {}, "expired on"),
        (lambda: {"findings": [finding(3)]}, "a finding of high severity is overdue"),
    ],
)
async def test_a_record_ends_at_its_expiry_or_its_earliest_overdue_finding(
    world: RegistryWorld, monkeypatch: pytest.MonkeyPatch, fields: Callable[[], Json], reason: str
) -> None:
    version = await world.registered()
    await world.validated(version.id, **fields())
    with acting_for(world.approver):
        await world.client.approve_version(ApproveVersionRequest(id=version.id))
    assert (await ask(world, version.id)).status_code == 200
    if "overdue" in reason:
        with monkeypatch.context() as soon:
            move_clock(soon, days=2)
            await expire_cache(world)
            async with asyncio.timeout(4):
                while (await ask(world, version.id)).status_code != 200:
                    await asyncio.sleep(0.01)
    move_clock(monkeypatch, days=31 if "expired" in reason else 4)
    await expire_cache(world)
    async with asyncio.timeout(4):
        while reason not in (await ask(world, version.id)).text:
            await asyncio.sleep(0.01)
    await refused(world, version.id, reason)


async def expire_cache(world: RegistryWorld) -> None:
    """Make discovery report a change, so that serving resolves again."""
    await world.registered(f"other{len(world.audit('model_version.register'))}", upstream_model="m2")
    with acting_for(OPERATOR):
        await world.client.set_alias(Alias(name="tick", targets=[WeightedTarget(model="small", weight=1)]))


async def test_aliases_and_fallbacks_cannot_name_versions(world: RegistryWorld) -> None:
    version = await world.approved()
    with acting_for(OPERATOR):
        for alias in (
            Alias(name="a", targets=[WeightedTarget(model=version.id, weight=1)]),
            Alias(name="a", targets=[WeightedTarget(model="small", weight=1), WeightedTarget(model=version.id)]),
            Alias(name="a", targets=[WeightedTarget(model="small", weight=1)], fallbacks=[version.id]),
        ):
            with pytest.raises(InvalidRequest, match="`drw models promote a"):
                await world.client.set_alias(alias)
        with pytest.raises(InvalidRequest, match="form of a version"):
            await world.client.set_alias(Alias(name=version.id, targets=[WeightedTarget(model="small", weight=1)]))
    unvalidated = await world.registered(upstream_model="m2")
    with acting_for(world.developer), pytest.raises(ModelNotValidated):
        await world.client.create_promotion(CreatePromotionRequest(alias="a", version=unvalidated.id, reason="r"))
    with acting_for(world.developer), pytest.raises(ModelNotValidated):
        await world.client.promote_alias(PromoteAliasRequest(alias="a", model=unvalidated.id, rollout="r"))


async def test_an_alias_of_a_blocked_version_is_refused_or_falls_back(world: RegistryWorld) -> None:
    version = await world.approved()
    await world.promoted("prod", version.id)
    assert (await ask(world, "prod")).status_code == 200
    with acting_for(world.validator):
        await world.client.revoke_validation(RevokeValidationRequest(id=version.id, reason="drift"))
    await refused_soon(world, "prod", "revoked: drift")
    with acting_for(world.developer):
        names = [model.id for model in (await world.client.list_models(ListModelsRequest())).models]
    assert names == ["small", "shared"]


async def test_other_orgs_and_callers_outside_the_walls_see_nothing(world: RegistryWorld) -> None:
    insider = await issued(world.host, *world.developer.scopes, walls=["m-and-a"])
    version = await world.registered(by=insider)
    await world.validated(version.id, by=await issued(world.host, *world.developer.scopes, walls=["m-and-a"]))
    for outsider in (world.developer, world.stranger):
        with acting_for(outsider):
            with pytest.raises(NotFound):
                await world.client.get_version(GetVersionRequest(id=version.id))
            with pytest.raises(NotFound):
                await world.client.approve_version(ApproveVersionRequest(id=version.id))
            with pytest.raises(NotFound):
                await world.client.resolve_model(ResolveModelRequest(id=version.id))
        assert (await ask(world, version.id, outsider)).status_code == 404
    with pytest.raises(NotFound):  # a service without a caller
        await world.client.resolve_plan(ResolvePlanRequest(id=version.id))


async def test_the_second_person_cannot_be_a_second_key(world: RegistryWorld) -> None:
    version = await world.registered()
    own = await issued(world.host, *world.developer.scopes, "keys:write", by=OPERATOR)
    child = await issued(world.host, *world.developer.scopes, by=own)
    second = await world.registered(by=own, upstream_model="m2")
    for same, of in ((world.developer, version), (await rotated(world.host, own), second), (child, second)):
        with pytest.raises(Forbidden, match="another person|is not on record"):
            await world.validated(of.id, by=same)
    await world.validated(second.id)
    with acting_for(child), pytest.raises(Forbidden, match="same person"):
        await world.client.approve_version(ApproveVersionRequest(id=second.id))
    unknown = Principal("acme", "research", "key_unknown", world.developer.scopes)
    with pytest.raises(Forbidden, match="not on record"):
        await world.validated(version.id, by=unknown)


async def test_settings_cannot_name_a_version(profile: Profile) -> None:
    for section in (
        {"aliases": {"a": {"targets": {"fraud@0123456789ab": 1}}}},
        {"models": {"fraud@0123456789ab": {"engine": "openai", "base_url": "https://h.example/v1"}}},
    ):
        with pytest.raises(ConfigError, match="version"):
            async with registry_world(profile, **section):
                pass


async def test_configured_models_can_need_a_record_which_a_change_invalidates(profile: Profile) -> None:
    async with registry_world(profile, require_validation=True) as world:
        with acting_for(world.developer), pytest.raises(ModelNotValidated, match="no approved validation record"):
            await world.client.resolve_plan(ResolvePlanRequest(id="small"))
        with acting_for(world.developer):
            listed = (await world.client.list_models(ListModelsRequest())).models
        assert not listed
        admins = [await issued(world.host, *world.developer.scopes, "platform:admin") for _ in range(2)]
        version = await version_of(world, "small")
        with pytest.raises(Forbidden, match="platform:admin"):
            await world.validated(version)
        await world.validated(version, by=admins[0])
        with acting_for(admins[0]), pytest.raises(Forbidden, match="same person"):
            await world.client.approve_version(ApproveVersionRequest(id=version))
        with acting_for(admins[1]):
            await world.client.approve_version(ApproveVersionRequest(id=version))
        with acting_for(world.developer):
            plan = await world.client.resolve_plan(ResolvePlanRequest(id="small"))
        assert plan.targets[0].model.permit.validation.startswith("val_")
    changed = {"small": {"engine": "openai", "base_url": "https://other.example/v1"}}
    async with registry_world(profile, require_validation=True, models=changed) as world:
        with acting_for(world.developer), pytest.raises(ModelNotValidated):
            await world.client.resolve_plan(ResolvePlanRequest(id="small"))
        assert await version_of(world, "small") != version


async def version_of(world: RegistryWorld, model: str) -> str:
    """Return the id of the current version of a configured model."""
    async with world.http(world.developer) as http:
        versions = (await http.get(f"/api/v1/model-versions?model={model}")).json()["versions"]
    (current,) = [version["id"] for version in versions if version["stage"] != "RETIRED"]
    return str(current)


async def test_a_permit_is_short_lived_and_names_its_record(world: RegistryWorld) -> None:
    version = await world.approved()
    with acting_for(world.developer):
        resolved = await world.client.resolve_model(ResolveModelRequest(id=version.id))
    assert resolved.permit.validation == version.validations[0].id
    ends = datetime.fromtimestamp(resolved.permit.expires_at, UTC) - datetime.now(UTC)
    assert timedelta(minutes=14) < ends <= timedelta(minutes=15)
    assert (resolved.org, resolved.upstream_model) == ("acme", "m1")


@pytest.mark.parametrize("how", ["strict", "apart"])
async def test_the_gate_holds_between_processes(profile: Profile, how: str) -> None:
    async with registry_world(profile, how) as world:
        client = world.host.client(DiscoveryClient)
        version = await world.registered()
        with acting_for(world.developer), pytest.raises(ModelNotValidated) as caught:
            await client.resolve_plan(ResolvePlanRequest(id=version.id))
        assert caught.value.metadata["code"] == "model_not_validated"
        await world.validated(version.id)
        with acting_for(world.approver):
            await client.approve_version(ApproveVersionRequest(id=version.id))
        await world.promoted("prod", version.id)
        with acting_for(world.developer):
            plan = await client.resolve_plan(ResolvePlanRequest(id="prod"))
        assert [(target.model.model.id, target.weight) for target in plan.targets] == [(version.id, 1)]
        with acting_for(world.stranger), pytest.raises(NotFound):
            await client.resolve_plan(ResolvePlanRequest(id="prod"))
