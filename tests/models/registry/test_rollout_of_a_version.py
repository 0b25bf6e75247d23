"""A rollout of a registered version ends with the alias of the org that owns it."""

from __future__ import annotations

import asyncio

from drw.api.models.v1.discovery_pb2 import ListAliasesRequest
from drw.api.models.v1.experiments_pb2 import (
    AdvanceRolloutRequest,
    ApproveRolloutRequest,
    GetRolloutRequest,
    Rollout,
    StartRolloutRequest,
)
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.api.models.v1.versions_pb2 import GetAliasHistoryRequest
from drw.kernel.rpc.context import SCOPES, acting_for
from drw.kernel.runtime.settings import Profile
from models.registry.harness import SERVICES, registry_world
from support.gateway.keys import issued


async def test_the_leader_promotes_a_version_for_its_org(profile: Profile) -> None:
    experiments = {"rollout_seconds": 0.05}
    profile = profile.model_copy(update={"services": profile.services | {"experiments": experiments}})
    async with registry_world(profile, services=[*SERVICES, "experiments"]) as world:
        old, new = await world.approved(), await world.approved(upstream_model="m2")
        await world.promoted("prod", old.id)
        ann, bob = [await issued(world.host, *SCOPES) for _ in range(2)]
        client = world.host.client(ExperimentsClient)
        with acting_for(ann):
            await client.create_rollout(
                Rollout(name="swap", alias="prod", model=new.id, unit="request", steps=[50], step_seconds=3600)
            )
        with acting_for(bob):
            await client.approve_rollout(ApproveRolloutRequest(name="swap"))
        with acting_for(ann):
            await client.start_rollout(StartRolloutRequest(name="swap"))
            await client.advance_rollout(AdvanceRolloutRequest(name="swap", from_percent=50))
            async with asyncio.timeout(30):
                while (ended := await client.get_rollout(GetRolloutRequest(name="swap"))).state == Rollout.PROMOTING:
                    await asyncio.sleep(0.01)
            assert (ended.state, ended.reason) == (Rollout.PROMOTED, "")
            aliases = (await world.client.list_aliases(ListAliasesRequest())).aliases
            entries = (await world.client.get_alias_history(GetAliasHistoryRequest(name="prod"))).entries
        assert [(alias.name, alias.owner, alias.targets[0].model) for alias in aliases] == [("prod", "acme", new.id)]
        assert (entries[0].promotion, entries[0].owner, entries[0].changed_by) == ("swap", "acme", "rollout")
        with acting_for(world.stranger):
            assert not (await world.client.list_aliases(ListAliasesRequest())).aliases
