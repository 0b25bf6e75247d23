"""Promotions by two persons, the history of aliases, and rollbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources

import psycopg
import pytest

from drw.api.models.v1.discovery_pb2 import (
    Alias,
    DeleteAliasRequest,
    ListAliasesRequest,
    ListVersionsRequest,
    ModelVersion,
    PromoteAliasRequest,
    ResolvePlanRequest,
    WeightedTarget,
)
from drw.api.models.v1.versions_pb2 import (
    AliasEntry,
    ApprovePromotionRequest,
    ApproveVersionRequest,
    CreatePromotionRequest,
    GetAliasHistoryRequest,
    GetVersionRequest,
    ListPromotionsRequest,
    Promotion,
    RejectPromotionRequest,
    RetireVersionRequest,
    RevokeValidationRequest,
    RollbackAliasRequest,
    ValidationRecord,
)
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from drw.routing.permits import ModelNotValidated
from models.registry.harness import RegistryWorld, finding, registry_world
from support.database.published import published
from support.json_types import Json, JsonObject

ALIASES = {"shared": {"targets": {"small": 1}, "total_seconds": 30}}


@pytest.fixture
async def world(profile: Profile) -> AsyncIterator[RegistryWorld]:
    async with registry_world(profile, aliases=ALIASES) as running:
        yield running


async def history(world: RegistryWorld, name: str, by: Principal | None = None, **fields: Json) -> list[AliasEntry]:
    with acting_for(by or world.developer):
        request = GetAliasHistoryRequest(name=name, **fields)
        return list((await world.client.get_alias_history(request)).entries)


def named(entries: list[AliasEntry]) -> list[list[str]]:
    return [[target.model for target in entry.targets] for entry in entries]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_promotion_needs_a_second_person_and_is_recorded(profile: Profile, how: str) -> None:
    async with registry_world(profile, how, aliases=ALIASES) as world:
        first = await world.approved()
        with acting_for(world.developer):
            request = CreatePromotionRequest(alias="prod", version=first.id, reason="first")
            promotion = await world.client.create_promotion(request)
            with pytest.raises(Conflict, match="is pending"):
                await world.client.create_promotion(request)
            with pytest.raises(Forbidden, match="same person"):
                await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))
            with pytest.raises(NotFound):
                await world.client.resolve_plan(ResolvePlanRequest(id="prod"))
        with acting_for(world.stranger), pytest.raises(NotFound):
            await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))
        with acting_for(world.approver):
            approved = await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))
            with pytest.raises(Conflict, match="was approved"):
                await world.client.reject_promotion(RejectPromotionRequest(id=promotion.id, reason="late"))
        assert (approved.state, approved.decided_by) == (Promotion.APPROVED, world.approver.key)
        with acting_for(world.developer):
            live = await world.client.get_version(GetVersionRequest(id=first.id))
            assert (live.stage, list(live.aliases)) == (ModelVersion.LIVE, ["prod"])
            listed = await world.client.list_versions(ListVersionsRequest(stage=ModelVersion.LIVE))
            assert [version.id for version in listed.versions] == [first.id]
            aliases = (await world.client.list_aliases(ListAliasesRequest())).aliases
            assert [(alias.name, alias.owner) for alias in aliases] == [("shared", ""), ("prod", "acme")]
        (entry,) = await history(world, "prod")
        assert (entry.promotion, entry.changed_by, entry.targets[0].digest) == (
            promotion.id,
            world.approver.key,
            first.digest,
        )
        actions = [r["action"] for r in world.audit("promotion.", "alias.promote")]
        assert actions == ["promotion.request", "alias.promote", "promotion.approve"]
    (promoted,), (moved,) = (published(profile.postgres, name) for name in ("model.promoted", "alias.moved"))
    assert promoted["data"] == {
        "version": first.id, "alias": "prod", "previous_version": "", "promotion": promotion.id, "reason": "first",
    }  # fmt: skip
    assert moved["data"] == {"alias": "prod", "targets": {first.id: 1}, "previous_targets": {}, "reason": "first"}
    assert {(e["org"], e["actor"], e["partitionkey"]) for e in (promoted, moved)} == {
        ("acme", world.approver.key, "acme//alias/prod")
    }


async def test_a_repeated_request_promotes_once(world: RegistryWorld) -> None:
    version, other = await world.approved(), await world.approved(model="other")
    request = CreatePromotionRequest(alias="prod", version=version.id, reason="r", request_id="run-1/promote")
    with acting_for(world.developer):
        promotion = await world.client.create_promotion(request)
        assert await world.client.create_promotion(request) == promotion
        with pytest.raises(Conflict, match="is that of another request"):
            await world.client.create_promotion(
                CreatePromotionRequest(alias="prod", version=other.id, reason="r", request_id="run-1/promote")
            )
    with acting_for(world.approver):
        await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))
    with acting_for(world.developer):
        repeated = await world.client.create_promotion(request)
        assert (repeated.id, repeated.state) == (promotion.id, Promotion.APPROVED)
        assert len((await world.client.list_promotions(ListPromotionsRequest())).promotions) == 1


async def test_a_rejected_promotion_moves_nothing(world: RegistryWorld) -> None:
    version = await world.approved()
    with acting_for(world.developer):
        promotion = await world.client.create_promotion(
            CreatePromotionRequest(alias="prod", version=version.id, reason="r")
        )
        await world.client.reject_promotion(RejectPromotionRequest(id=promotion.id, reason="withdrawn"))
        with pytest.raises(NotFound):
            await world.client.resolve_plan(ResolvePlanRequest(id="prod"))
        request = ListPromotionsRequest(state=Promotion.REJECTED)
        (listed,) = (await world.client.list_promotions(request)).promotions
        assert (listed.decision_reason, listed.state) == ("withdrawn", Promotion.REJECTED)
    with acting_for(world.approver), pytest.raises(Conflict, match="was rejected"):
        await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))


async def test_a_version_that_lost_its_record_is_not_promoted(world: RegistryWorld) -> None:
    version = await world.approved()
    with acting_for(world.developer):
        promotion = await world.client.create_promotion(
            CreatePromotionRequest(alias="prod", version=version.id, reason="r")
        )
    with acting_for(world.validator):
        await world.client.revoke_validation(RevokeValidationRequest(id=version.id, reason="drift"))
    with acting_for(world.approver), pytest.raises(ModelNotValidated, match="revoked: drift"):
        await world.client.approve_promotion(ApprovePromotionRequest(id=promotion.id))


async def test_history_says_what_an_alias_named_at_a_time(world: RegistryWorld) -> None:
    first, second = await world.approved(), await world.approved(upstream_model="m2")
    await world.promoted("prod", first.id)
    between = datetime.now(UTC)
    await world.promoted("prod", second.id)
    assert named(await history(world, "prod")) == [[second.id], [first.id]]
    assert named(await history(world, "prod", at=between)) == [[first.id]]
    newest, oldest = await history(world, "prod")
    assert oldest.valid_to == newest.valid_from
    assert not newest.HasField("valid_to")
    with acting_for(world.developer):
        page = await world.client.get_alias_history(GetAliasHistoryRequest(name="prod", page_size=1))
        rest = await world.client.get_alias_history(
            GetAliasHistoryRequest(name="prod", page_size=1, page_token=page.next_page_token)
        )
    assert (named(list(page.entries)), named(list(rest.entries))) == ([[second.id]], [[first.id]])
    with pytest.raises(NotFound):
        await history(world, "prod", by=world.stranger)


async def test_one_person_rolls_back_step_by_step(world: RegistryWorld) -> None:
    versions = [await world.approved(upstream_model=name) for name in ("m1", "m2", "m3")]
    for version in versions:
        await world.promoted("prod", version.id)

    async def rollback() -> Alias:
        with acting_for(world.developer):
            return await world.client.rollback_alias(RollbackAliasRequest(name="prod", reason="losses"))

    assert [(await rollback()).targets[0].model for _ in range(2)] == [versions[1].id, versions[0].id]
    assert not (await rollback()).targets
    with acting_for(world.developer), pytest.raises(NotFound):
        await world.client.resolve_plan(ResolvePlanRequest(id="prod"))
    entries = await history(world, "prod")
    assert (entries[0].deleted, entries[0].reason, len(entries)) == (True, "losses", 6)
    await world.promoted("prod", versions[2].id)
    await world.promoted("prod", versions[0].id)
    with acting_for(world.approver):
        await world.client.retire_version(RetireVersionRequest(id=versions[2].id, reason="old"))
    with pytest.raises(ModelNotValidated, match="retired: old"):
        await rollback()
    assert [r["actor"] for r in world.audit("alias.rollback")] == [world.developer.key] * 3
    with acting_for(world.developer), pytest.raises(InvalidRequest, match="is the platform's"):
        await world.client.rollback_alias(RollbackAliasRequest(name="shared", reason="r"))


async def test_an_alias_of_an_org_overrides_that_of_the_platform_for_the_org_only(world: RegistryWorld) -> None:
    version = await world.approved()
    await world.promoted("shared", version.id)
    with acting_for(world.developer):
        plan = await world.client.resolve_plan(ResolvePlanRequest(id="shared"))
        assert ([t.model.model.id for t in plan.targets], plan.total_seconds) == ([version.id], 30)
    with acting_for(world.stranger):
        plan = await world.client.resolve_plan(ResolvePlanRequest(id="shared"))
        assert [t.model.model.id for t in plan.targets] == ["small"]
    assert named(await history(world, "shared", by=world.stranger)) == [["small"]]
    with acting_for(world.developer), pytest.raises(InvalidRequest, match="'small' is a model"):
        await world.client.create_promotion(CreatePromotionRequest(alias="small", version=version.id, reason="r"))


async def test_a_rollout_ends_with_the_alias_of_its_org(world: RegistryWorld) -> None:
    version = await world.approved()
    request = PromoteAliasRequest(alias="prod", model=version.id, rollout="canary-1", org="acme")
    moved = await world.client.promote_alias(request)  # a service without a caller
    assert (moved.owner, moved.targets[0].model) == ("acme", version.id)
    await world.client.promote_alias(request)
    (entry,) = await history(world, "prod")
    assert (entry.promotion, entry.changed_by) == ("canary-1", "platform")
    with acting_for(world.stranger), pytest.raises(NotFound):
        await world.client.promote_alias(PromoteAliasRequest(alias="prod", model=version.id, rollout="r"))
    with pytest.raises(NotFound):
        await world.client.promote_alias(PromoteAliasRequest(alias="prod", model=version.id, rollout="r"))
    await world.client.promote_alias(PromoteAliasRequest(alias="canary", model="small", rollout="r"))


async def test_changes_of_the_settings_enter_the_history(profile: Profile) -> None:
    async with registry_world(profile, aliases=ALIASES) as world:
        first = await history(world, "shared")
    async with registry_world(profile, aliases=ALIASES) as world:
        assert await history(world, "shared") == first  # nothing changed
    changed = {"small": {"engine": "openai", "base_url": "https://other.example/v1"}}
    async with registry_world(profile, aliases=ALIASES, models=changed) as world:
        entries = await history(world, "shared")
        assert [e.changed_by for e in entries] == ["settings", "settings"]
        assert entries[0].targets[0].digest != entries[1].targets[0].digest
        with acting_for(OPERATOR):
            await world.client.set_alias(Alias(name="x", targets=[WeightedTarget(model="small", weight=1)]))
            await world.client.delete_alias(DeleteAliasRequest(name="x"))
        assert [entry.deleted for entry in await history(world, "x")] == [True, False]
    async with registry_world(profile) as world:
        assert (await history(world, "shared"))[0].deleted


async def test_aliases_from_before_the_history_are_entered(profile: Profile) -> None:
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("create schema discovery")
        connection.execute("set search_path to discovery")
        connection.execute("create table migration (name text primary key, at timestamptz default now())")
        for name in ("0001_aliases.sql", "0002_models.sql"):
            connection.execute(_migration(name))
            connection.execute("insert into migration (name) values (%s)", (name,))
        connection.execute(
            "insert into alias (name, targets, fallbacks, total_seconds, changed_at)"
            " values ('old', '{\"small\": 3}', '[]', 5, '2026-01-02T03:04:05Z')"
        )
    async with registry_world(profile) as world:
        entries = await history(world, "old")
        assert [(e.targets[0].model, e.targets[0].weight) for e in entries] == [("small", 3)] * 2
        assert entries[-1].valid_from.ToJsonString() == "2026-01-02T03:04:05Z"


def _migration(name: str) -> bytes:
    return (resources.files("drw.models.discovery") / "migrations" / name).read_bytes()


async def test_an_incomplete_record_is_refused_with_its_field(world: RegistryWorld) -> None:
    version = await world.registered()
    for fields, param in (
        ({"purpose": ""}, "record.purpose"),
        ({"exposure": ""}, "record.exposure"),
        ({"materiality": ValidationRecord.MATERIALITY_UNSPECIFIED}, "record.materiality"),
        ({"limits": []}, "record.limits"),
        ({"owner": ""}, "record.owner"),
        ({"scope_reason": ""}, "record.scope_reason"),
        ({"scope": ValidationRecord.NOT_IN_SCOPE, "scope_reason": ""}, "record.scope_reason"),
        ({"days": 500}, "record.expires_at"),
        ({"days": -1}, "record.expires_at"),
        ({"findings": [finding(-1)]}, "record.findings"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await world.validated(version.id, **fields)
        assert caught.value.metadata["param"] == param


async def test_a_model_out_of_scope_still_needs_a_second_person(world: RegistryWorld) -> None:
    version = await world.registered()
    fields: JsonObject = {
        "scope": ValidationRecord.NOT_IN_SCOPE,
        "scope_reason": "it drafts emails",
        "purpose": "",
        "limits": [],
    }
    with pytest.raises(Forbidden, match="same person"):
        await world.validated(version.id, by=world.developer, **fields)
    await world.validated(version.id, **fields)
    with acting_for(world.developer), pytest.raises(Forbidden, match="same person"):
        await world.client.approve_version(ApproveVersionRequest(id=version.id))
    with acting_for(world.validator):
        approved = await world.client.approve_version(ApproveVersionRequest(id=version.id))
    assert (approved.stage, approved.blocked) == (ModelVersion.APPROVED, "")


async def test_a_new_record_replaces_the_old_one_only_once_approved(world: RegistryWorld) -> None:
    version = await world.approved()
    in_force = version.validations[0].id
    renewed = await world.validated(version.id, days=90)
    assert (renewed.permit.validation, renewed.stage) == (in_force, ModelVersion.APPROVED)
    with acting_for(world.approver):
        approved = await world.client.approve_version(ApproveVersionRequest(id=version.id))
    assert approved.permit.validation == approved.validations[0].id != in_force
    assert approved.validations[1].HasField("superseded_at")
    with acting_for(world.validator):
        revoked = await world.client.revoke_validation(RevokeValidationRequest(id=version.id, reason="drift"))
    assert (revoked.stage, revoked.blocked) == (ModelVersion.REGISTERED, "its validation was revoked: drift")
