"""Tenants of schedules: visibility, fairness between desks, and the key that created a schedule."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Permissions, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.workflow.v1.schedules_pb2 import ListSchedulesRequest, Schedule
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from drw.workflow.orchestration.permissions import PresentPermissions
from workflow.schedules.scheduling import START, Scheduling, scheduling


async def test_a_schedule_is_visible_only_in_its_desk_and_inside_its_walls(profile: Profile, caller: Principal) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    async with scheduling(profile, caller) as s:
        walled = await s.create(principal=inside)
        strangers = (
            caller,
            replace(inside, desk="trading"),
            replace(inside, org="other"),
            replace(caller, walls=frozenset({"credit"})),
        )
        operations: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "get": lambda: s.operations.get(walled.id),
            "get by name": lambda: s.operations.get("s"),
            "pause": lambda: s.operations.pause(walled.id),
            "resume": lambda: s.operations.resume(walled.id),
            "delete": lambda: s.operations.delete(walled.id),
            "backfill": lambda: s.backfill(START, START, name=walled.id),
        }
        for stranger in strangers:
            s.caller = stranger
            with acting_for(stranger):
                for name, call in operations.items():
                    with pytest.raises(NotFound, match="there is no schedule") as raised:
                        await call()
                    assert "acme" not in raised.value.message, name
                assert (await s.operations.page(ListSchedulesRequest())).schedules == []
                with pytest.raises(InvalidRequest, match="page_token"):
                    await s.operations.page(ListSchedulesRequest(page_token=walled.id))
        for stranger in strangers:
            assert (await s.create(principal=stranger, cron="30 * * * *")).id != walled.id  # the name is free
        await s.tick(hours=1)
        runs = s.rows("select org, desk, walls from run where scheduled_for = %s", s.clock.moment)
        assert [(r["org"], r["desk"], r["walls"]) for r in runs] == [("acme", "research", ["m-and-a"])]


async def test_pages_list_all_schedules_by_name(profile: Profile, caller: Principal) -> None:
    async with scheduling(profile, caller) as s:
        for name in ("c", "a", "b"):
            await s.create(name)
        names, token = [], ""
        with acting_for(caller):
            for _ in range(2):
                page = await s.operations.page(ListSchedulesRequest(page_size=2, page_token=token))
                names += [schedule.name for schedule in page.schedules]
                token = page.next_page_token
        assert names == ["a", "b", "c"] and token == ""


async def test_ten_thousand_due_schedules_of_one_desk_do_not_delay_those_of_another(
    profile: Profile, caller: Principal
) -> None:
    async with scheduling(profile, caller, max_open_runs=100_000) as s:
        await s.create("big")
        s.rows(
            "insert into schedule select (jsonb_populate_record(s, jsonb_build_object("
            "'id', 'sch_a' || n, 'name', 'big' || n))).* from schedule s, generate_series(1, 9999) n"
        )
        other = replace(caller, desk="trading", key="key_other")
        third = replace(caller, org="zeta", key="key_third")
        await s.create("small", principal=other)
        await s.create("small", principal=third)
        s.rows("update schedule set due_at = due_at + interval '1 millisecond' where desk = 'trading' or org = 'zeta'")
        s.clock.advance(hours=1, seconds=1)
        await s.scheduler.step()
        order = [(r["org"], r["desk"]) for r in s.rows("select org, desk from run order by created_at")]
        assert len(order) == 100  # one batch of 10,002
        assert set(order[:3]) == {("acme", "research"), ("acme", "trading"), ("zeta", "research")}


async def test_a_desk_with_too_many_open_runs_waits_without_delaying_others(
    profile: Profile, caller: Principal
) -> None:
    async with scheduling(profile, caller, max_open_runs=2) as s:
        for number in range(5):
            await s.create(f"s{number}")
        other = replace(caller, desk="trading", key="key_other")
        await s.create("other", principal=other)
        await s.tick(hours=1)
        desks = [r["desk"] for r in s.rows("select desk from run")]
        assert sorted(desks) == ["research", "research", "trading"]
        for _ in range(2):
            s.end_runs()
            await s.tick(seconds=6)
        assert len(s.started()) == 6  # nothing is lost within the catch-up window


@pytest.fixture
def with_authentication(profile: Profile) -> Callable[[], Any]:
    return lambda: scheduling(
        profile, Principal("", "", "", frozenset()), ("templates", "authentication", "rate_limiting")
    )


async def key_of(s: Scheduling, desk: str, *scopes: str) -> Principal:
    client = s.host.client(AuthenticationClient)
    with acting_for(replace(OPERATOR, org="acme", desk=desk)):
        created = await client.create_key(CreateKeyRequest(name="schedules", desk=desk, scopes=scopes))
    return Principal("acme", desk, created.key.id, frozenset(scopes))


SCOPES_OF_DIGEST = ("workflows:run", "workflows:read", "documents:read", "documents:write", "models:invoke")


async def test_a_revoked_key_stops_its_schedules_and_cancels_their_runs(with_authentication: Callable[[], Any]) -> None:
    async with with_authentication() as s:
        revoked = await key_of(s, "research", *SCOPES_OF_DIGEST)
        valid = await key_of(s, "research", *SCOPES_OF_DIGEST)
        await s.create("revoked", principal=revoked, overlap="ALLOW")
        await s.create("valid", principal=valid, overlap="ALLOW")
        await s.tick(hours=1)
        assert len(s.started()) == 2
        with acting_for(replace(OPERATOR, org="acme", desk="research")):
            await s.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=revoked.key))
        await s.tick(hours=1)
        stopped = await s.get("revoked", valid)
        assert stopped.state == Schedule.STOPPED and f"'{revoked.key}' is revoked" in stopped.detail
        runs = s.rows("select key, state from run order by created_at, key")
        assert sorted((r["key"] == revoked.key, r["state"]) for r in runs) == [
            (False, "QUEUED"),
            (False, "QUEUED"),
            (True, "CANCELLED"),
        ]
        assert [r["outcome"] for r in s.audit("schedule.stop")] == ["denied"]
        with pytest.raises(Forbidden, match="is revoked"):
            await s.create("again", principal=revoked)


class DoublePermissions(PresentPermissions):
    """The desk of an issuer's caller has lost a scope, or a wall."""

    def __init__(self, lost: str) -> None:
        super().__init__(None)
        self._lost = lost

    async def _ask(self, principal: Principal) -> Permissions:
        return Permissions(scopes=principal.scopes - {self._lost}, walls=principal.walls - {self._lost})


@pytest.mark.parametrize(
    ("lost", "message"), [("models:invoke", "lacks 'models:invoke'"), ("m-and-a", "outside of its walls")]
)
async def test_an_occurrence_is_refused_while_the_creator_lacks_a_scope_or_a_wall(
    profile: Profile, caller: Principal, lost: str, message: str
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    async with scheduling(profile, inside) as s:
        await s.create()
        s.scheduler._preparation._permissions = DoublePermissions(lost)
        await s.tick(hours=1)
        assert s.started() == [] and message in (await s.get()).ticks[0].detail
        s.scheduler._preparation._permissions = PresentPermissions(None)
        await s.tick(hours=1)
        assert s.started() == ["24 14:00"]


async def test_a_caller_without_a_credential_on_record_cannot_create_a_schedule(
    with_authentication: Callable[[], Any], caller: Principal
) -> None:
    async with with_authentication() as s:
        with pytest.raises(Forbidden, match="key_test"):
            await s.create(principal=caller)
