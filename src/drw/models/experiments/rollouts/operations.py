"""Operations of persons on rollouts: create, approve, start, pause, advance, roll back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from drw.api.gateway.v1.authentication_pb2 import ComparePrincipalsRequest, ComparePrincipalsResponse
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.models.v1.experiments_pb2 import AdvanceRolloutRequest, Rollout, RolloutReport
from drw.kernel import tenancy
from drw.kernel.errors import Conflict, Forbidden, Unavailable
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.models.experiments.rollouts import definition
from drw.models.experiments.rollouts.decisions import decide, harm
from drw.models.experiments.rollouts.leader import advance
from drw.models.experiments.rollouts.numbers import numbers_of
from drw.models.experiments.rollouts.store import ENDED, RUNNING, RolloutStore, StoredRollout
from drw.models.experiments.treatments import AliasModels

MAX_TRIES = 5
"""Maximum number of tries of a change while others change the same rollout."""

Change = Callable[[StoredRollout], Awaitable[StoredRollout | None]]


class RolloutOperations:
    """Creates and changes rollouts for platform administrators."""

    def __init__(
        self,
        database: Database,
        store: RolloutStore,
        models: AliasModels,
        authentication: AuthenticationClient | None,
    ) -> None:
        self._database = database
        self._store = store
        self._models = models
        self._authentication = authentication

    async def create(self, request: Rollout) -> Rollout:
        """Store a draft after checks of its definition, alias and candidate."""
        tenancy.check_change(tenancy.PLATFORM)
        checked = definition.normalised(request)
        await self._check_models(checked)
        org = await self._models.owner(checked.model)
        return (await self._store.create(checked, org)).rollout

    async def page(self, after: str, size: int) -> list[Rollout]:
        """Return up to `size` rollouts by name, after a name."""
        tenancy.check_change(tenancy.PLATFORM)
        return [stored.rollout for stored in await self._store.page(after, size)]

    async def get(self, name: str) -> Rollout:
        """Return a rollout."""
        tenancy.check_change(tenancy.PLATFORM)
        return (await self._store.get(name)).rollout

    async def report(self, name: str) -> RolloutReport:
        """Return the comparison, the shadow calls and the history of a rollout."""
        tenancy.check_change(tenancy.PLATFORM)
        stored = await self._store.get(name)
        numbers = await numbers_of(self._database, stored)  # also while discovery is down
        async with self._database.transaction() as connection:
            history = await self._store.history(connection, stored.key)
        watched = stored.rollout.state in (Rollout.SHADOW, Rollout.RAMP)
        return RolloutReport(
            rollout=stored.rollout,
            arms=numbers.results.arms,
            sample_ratio=numbers.results.sample_ratio,
            comparisons=numbers.results.comparisons,
            delivery=numbers.results.delivery,
            shadow=numbers.shadow,
            waits_for=decide(stored.rollout, numbers).reason if watched else "",
            history=history,
        )

    async def approve(self, name: str) -> Rollout:
        """Approve a draft as another principal than its creator.

        Raises:
            Forbidden: the caller is the creator, or their relation is not on record.
            Unavailable: the callers cannot be compared now.
        """

        async def change(stored: StoredRollout) -> StoredRollout | None:
            if stored.rollout.state == Rollout.APPROVED and stored.rollout.approved_by == context.caller().key:
                return stored
            _check_state(stored, Rollout.DRAFT, action="approved")
            await self._check_other_person(stored.rollout.created_by)
            key = context.caller().key
            return await self._store.change(stored, "approve", numbers={}, state=Rollout.APPROVED, approved_by=key)

        return await self._changed(name, change)

    async def start(self, name: str) -> Rollout:
        """Start an approved rollout with its shadow phase, or with its first step if it has none."""

        async def change(stored: StoredRollout) -> StoredRollout | None:
            if stored.rollout.state in RUNNING:
                return stored
            _check_state(stored, Rollout.APPROVED, action="started")
            await self._check_models(stored.rollout)
            if stored.rollout.shadow_percent:
                return await self._store.change(stored, "start", numbers={}, state=Rollout.SHADOW)
            first = stored.rollout.steps[0]
            return await self._store.change(stored, "start", numbers={}, state=Rollout.RAMP, percent=first)

        return await self._changed(name, change)

    async def pause(self, name: str, *, paused: bool) -> Rollout:
        """Hold a running rollout at its step, or let it advance again."""

        async def change(stored: StoredRollout) -> StoredRollout | None:
            action = "pause" if paused else "resume"
            _check_state(stored, Rollout.SHADOW, Rollout.RAMP, action=f"{action}d")
            if stored.rollout.paused == paused:
                return stored
            return await self._store.change(stored, action, numbers={}, paused=paused)

        return await self._changed(name, change)

    async def advance(self, request: AdvanceRolloutRequest) -> Rollout:
        """Go to the next step without waiting for time and units.

        Raises:
            Conflict: the rollout does not run, or must end.
        """

        async def change(stored: StoredRollout) -> StoredRollout | None:
            rollout = stored.rollout
            promoting = rollout.state in (Rollout.PROMOTING, Rollout.PROMOTED)
            if promoting or (rollout.state == Rollout.RAMP and rollout.percent > request.from_percent):
                return stored  # a retry
            _check_state(stored, Rollout.SHADOW, Rollout.RAMP, action="advanced")
            if rollout.percent != request.from_percent:
                message = f"{rollout.name!r} is at {rollout.percent} %, not at {request.from_percent} %"
                raise Conflict(message, param="from_percent")
            numbers = await numbers_of(self._database, stored, self._models)
            if reason := harm(rollout, numbers):
                raise Conflict(f"{rollout.name!r} cannot advance: {reason}", param="name")
            return await advance(self._store, stored, numbers, "advanced by hand")

        return await self._changed(request.name, change)

    async def roll_back(self, name: str, reason: str) -> Rollout:
        """End a rollout; one that has not started is cancelled, and one that ended stays as it is."""

        async def change(stored: StoredRollout) -> StoredRollout | None:
            if stored.rollout.state in (Rollout.PROMOTING, Rollout.PROMOTED):
                message = f"{name!r} is promoted: set the alias, or roll out its former model"
                raise Conflict(message, param="name")
            if stored.rollout.state in ENDED:
                return stored
            started = stored.rollout.state in RUNNING
            state, action = (Rollout.ROLLED_BACK, "rollback") if started else (Rollout.CANCELLED, "cancel")
            numbers = (await numbers_of(self._database, stored)).summary() if started else {}
            return await self._store.change(
                stored, action, reason=reason, numbers=numbers, state=state, percent=0, paused=False
            )

        return await self._changed(name, change)

    async def _changed(self, name: str, change: Change) -> Rollout:
        """Apply a change to the present state; again if another change came first."""
        tenancy.check_change(tenancy.PLATFORM)
        for _ in range(MAX_TRIES):
            if (changed := await change(await self._store.get(name))) is not None:
                return changed.rollout
        raise Conflict(f"others change {name!r} at the same time: try again", param="name")

    async def _check_models(self, rollout: Rollout) -> None:
        await self._models.check_alias(rollout.alias)
        await self._models.check_model(rollout.model, "model")

    async def _check_other_person(self, creator: str) -> None:
        if self._authentication is None:
            raise Unavailable("the platform runs without authentication, so nobody can approve", part="authentication")
        comparison = await self._authentication.compare_principals(ComparePrincipalsRequest(others=[creator]))
        if list(comparison.relations) != [ComparePrincipalsResponse.DIFFERENT]:
            message = f"your key is of the same principal as {creator!r}, which created the rollout, or this is not on "
            raise Forbidden(message + "record: another principal must approve it", param="name")


def _check_state(stored: StoredRollout, *states: Rollout.State, action: str) -> None:
    if stored.rollout.state not in states:
        state = Rollout.State.Name(stored.rollout.state).lower().replace("_", " ")
        wanted = " or ".join(Rollout.State.Name(one).lower().replace("_", " ") for one in states)
        raise Conflict(
            f"{stored.rollout.name!r} is {state}; only a rollout that is {wanted} can be {action}", param="name"
        )
