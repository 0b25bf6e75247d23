"""Tenants of triggers: their visibility, the events that they receive, and the key that created them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Permissions, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.workflow.v1.triggers_pb2 import ListTriggersRequest, Trigger
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from drw.workflow.orchestration.permissions import PresentPermissions
from workflow.triggers.triggering import Triggering, indexed, triggering


async def test_a_trigger_is_visible_only_in_its_desk_and_inside_its_walls(profile: Profile, caller: Principal) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    async with triggering(profile, caller) as t:
        walled = await t.create(principal=inside)
        strangers = (
            caller,
            replace(inside, desk="trading"),
            replace(inside, org="other"),
            replace(caller, walls=frozenset({"credit"})),
        )
        operations: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "get": lambda: t.operations.get(walled.id),
            "get by name": lambda: t.operations.get("t"),
            "pause": lambda: t.operations.pause(walled.id),
            "resume": lambda: t.operations.resume(walled.id),
            "delete": lambda: t.operations.delete(walled.id),
        }
        for stranger in strangers:
            with acting_for(stranger):
                for name, call in operations.items():
                    with pytest.raises(NotFound, match="there is no trigger") as raised:
                        await call()
                    assert "acme" not in raised.value.message, name
                assert (await t.operations.page(ListTriggersRequest())).triggers == []
                with pytest.raises(InvalidRequest, match="page_token"):
                    await t.operations.page(ListTriggersRequest(page_token=walled.id))
        for stranger in strangers:
            assert (await t.create(principal=stranger)).id != walled.id  # the name is free


async def test_pages_list_all_triggers_by_name(profile: Profile, caller: Principal) -> None:
    async with triggering(profile, caller) as t:
        for name in ("c", "a", "b"):
            await t.create(name)
        names, token = [], ""
        with acting_for(caller):
            for _ in range(2):
                page = await t.operations.page(ListTriggersRequest(page_size=2, page_token=token))
                names += [trigger.name for trigger in page.triggers]
                token = page.next_page_token
        assert names == ["a", "b", "c"] and token == ""


async def test_only_events_of_the_own_tenant_start_runs(profile: Profile, caller: Principal) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    async with triggering(profile, caller) as t:
        await t.create()
        own = [indexed(caller), indexed(replace(caller, desk="")), indexed(Principal("", "", ""))]
        foreign = [
            indexed(replace(caller, desk="trading")),
            indexed(replace(caller, org="other")),
            indexed(replace(caller, org="other", desk="")),
            indexed(caller, walls=("m-and-a",)),
        ]
        await t.receive(*foreign, *own)
        assert t.started() == [event.id for event in own]
        await t.create("inside", principal=inside)
        walled = indexed(caller, walls=("m-and-a",))
        await t.receive(walled)
        assert t.rows("select event, walls from run where event = %s", walled.id) == [
            {"event": walled.id, "walls": ["m-and-a"]}
        ]


class DoublePermissions(PresentPermissions):
    """The desk of an issuer's caller has lost a scope."""

    def __init__(self, lost: str) -> None:
        super().__init__(None)
        self._lost = lost

    async def _ask(self, principal: Principal) -> Permissions:
        return Permissions(scopes=principal.scopes - {self._lost}, walls=principal.walls)


@pytest.mark.parametrize("lost", ["events:read", "documents:read", "models:invoke"])
async def test_an_event_is_refused_while_the_creator_lacks_a_scope(
    profile: Profile, caller: Principal, lost: str
) -> None:
    async with triggering(profile, caller) as t:
        await t.create()
        t.preparation._permissions = DoublePermissions(lost)
        await t.receive(indexed(caller))
        assert t.started() == [] and lost in (await t.get()).firings[0].detail
        t.preparation._permissions = PresentPermissions(None)
        event = indexed(caller)
        await t.receive(event)
        assert t.started() == [event.id]


SCOPES = ("workflows:run", "workflows:read", "documents:read", "documents:write", "models:invoke", "events:read")


async def key_of(t: Triggering, desk: str) -> Principal:
    client = t.host.client(AuthenticationClient)
    with acting_for(replace(OPERATOR, org="acme", desk=desk)):
        created = await client.create_key(CreateKeyRequest(name="triggers", desk=desk, scopes=SCOPES))
    return Principal("acme", desk, created.key.id, frozenset(SCOPES))


async def test_a_revoked_key_stops_its_triggers_and_cancels_their_runs(profile: Profile) -> None:
    async with triggering(profile, Principal("", "", ""), ("templates", "authentication", "rate_limiting")) as t:
        revoked, valid = await key_of(t, "research"), await key_of(t, "research")
        await t.create("revoked", principal=revoked)
        await t.create("valid", principal=valid)
        await t.receive(indexed(valid))
        assert len(t.started()) == 2
        with acting_for(replace(OPERATOR, org="acme", desk="research")):
            await t.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=revoked.key))
        await t.receive(indexed(valid))
        stopped = await t.get("revoked", valid)
        assert stopped.state == Trigger.STOPPED and f"'{revoked.key}' is revoked" in stopped.detail
        assert stopped.waiting == 0
        runs = t.rows("select key, state from run")
        assert sorted((run["key"] == revoked.key, run["state"]) for run in runs) == [
            (False, "QUEUED"),
            (False, "QUEUED"),
            (True, "CANCELLED"),
        ]
        assert [record["outcome"] for record in t.audit("trigger.stop")] == ["denied"]


async def test_events_of_one_desk_do_not_delay_those_of_another(profile: Profile, caller: Principal) -> None:
    other, third = replace(caller, desk="trading", key="key_other"), replace(caller, org="zeta", key="key_third")
    async with triggering(profile, caller, max_triggers=1000, max_open_runs=1000) as t:
        for number in range(120):
            await t.create(f"t{number}")
        await t.create(principal=other)
        await t.create(principal=third)
        await t.receive_only(indexed(caller), indexed(other), indexed(third))
        await t.dispatcher.step()
        order = [(row["org"], row["desk"]) for row in t.rows("select org, desk from run order by created_at")]
        assert len(order) == 100  # one batch of 122
        assert set(order[:3]) == {("acme", "research"), ("acme", "trading"), ("zeta", "research")}
