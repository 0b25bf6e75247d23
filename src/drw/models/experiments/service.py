"""Experiments: assignment of units to arms, exposures, outcomes and results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.models.v1 import experiments_rpc as contract
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import (
    AdvanceRolloutRequest,
    ApproveRolloutRequest,
    Assignment,
    AssignUnitRequest,
    DeleteExperimentRequest,
    DeleteExperimentResponse,
    Experiment,
    GetExperimentRequest,
    GetResultsRequest,
    GetRolloutReportRequest,
    GetRolloutRequest,
    ListExperimentsRequest,
    ListExperimentsResponse,
    ListRolloutsRequest,
    ListRolloutsResponse,
    PauseRolloutRequest,
    RecordExposuresRequest,
    RecordExposuresResponse,
    RecordFeedbackRequest,
    RecordFeedbackResponse,
    RecordOutcomesRequest,
    RecordOutcomesResponse,
    Results,
    ResumeRolloutRequest,
    RollBackRolloutRequest,
    Rollout,
    RolloutReport,
    Routing,
    StartExperimentRequest,
    StartRolloutRequest,
    StopExperimentRequest,
    WatchRoutingRequest,
)
from drw.kernel import walls
from drw.kernel.errors import Conflict
from drw.kernel.rpc import context
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.models.experiments import definition
from drw.models.experiments.analysis import results
from drw.models.experiments.design import assign, design_of
from drw.models.experiments.guardrails import GuardrailWatch
from drw.models.experiments.ofrep import Evaluation
from drw.models.experiments.recording import feedback
from drw.models.experiments.recording.call_events import CallEvents
from drw.models.experiments.recording.recorder import Recorder
from drw.models.experiments.rollouts.leader import RolloutLeader
from drw.models.experiments.rollouts.operations import RolloutOperations
from drw.models.experiments.rollouts.store import RolloutStore
from drw.models.experiments.routing_feed import RoutingFeed
from drw.models.experiments.settings import Settings
from drw.models.experiments.store import ExperimentStore
from drw.models.experiments.treatments import AliasModels

PAGE_SIZE = 100


class Experiments(contract.Experiments):
    """Serves `drw.api.models.v1.Experiments`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ExperimentStore,
        recorder: Recorder,
        models: AliasModels,
        rollouts: RolloutOperations,
        feed: RoutingFeed,
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._recorder = recorder
        self._models = models
        self._rollouts = rollouts
        self._feed = feed

    async def create_experiment(self, request: Experiment, /) -> Experiment:
        """Store a draft after checks of its definition and of the validity of its statistics."""
        caller = context.caller()
        checked = definition.normalised(request)
        design_of(checked)
        await self._models.check_experiment(checked)
        return (await self._store.create(caller, checked, walls.for_new_object(request.walls, caller))).experiment

    async def list_experiments(self, request: ListExperimentsRequest, /) -> ListExperimentsResponse:
        """List the experiments of the desk by name; the page token is the last name."""
        size = request.page_size or PAGE_SIZE
        stored = await self._store.page(context.caller(), request.page_token, size + 1)
        experiments = [each.experiment for each in stored[:size]]
        token = experiments[-1].name if len(stored) > size else ""
        return ListExperimentsResponse(experiments=experiments, next_page_token=token)

    async def get_experiment(self, request: GetExperimentRequest, /) -> Experiment:
        """Return an experiment."""
        return (await self._store.get(context.caller(), request.name)).experiment

    async def start_experiment(self, request: StartExperimentRequest, /) -> Experiment:
        """Start a draft, after another check of the models of its arms."""
        stored = await self._store.get(context.caller(), request.name)
        if stored.experiment.state == Experiment.DRAFT:
            await self._models.check_experiment(stored.experiment)
        return (await self._store.start(context.caller(), request.name, self._settings)).experiment

    async def stop_experiment(self, request: StopExperimentRequest, /) -> Experiment:
        """Stop a running experiment; one that was stopped already stays as it is."""
        caller = context.caller()
        stored = await self._store.get(caller, request.name)
        if stored.experiment.state == Experiment.DRAFT:
            raise Conflict(f"{request.name!r} is a draft, which cannot be stopped: delete it", param="name")
        stopped = await self._store.stop(stored.key, request.reason)
        return (stopped or await self._store.get(caller, request.name)).experiment

    async def delete_experiment(self, request: DeleteExperimentRequest, /) -> DeleteExperimentResponse:
        """Delete an experiment with its data."""
        await self._store.delete(context.caller(), request.name)
        return DeleteExperimentResponse()

    async def assign_unit(self, request: AssignUnitRequest, /) -> Assignment:
        """Return the arm of a unit without recording an exposure."""
        stored = await self._store.get(context.caller(), request.name)
        arm = assign(stored.experiment, request.unit) if stored.running else None
        chosen = stored.experiment.arms[arm or 0]
        return Assignment(arm=chosen.name, value=chosen.value, in_experiment=arm is not None)

    async def record_exposures(self, request: RecordExposuresRequest, /) -> RecordExposuresResponse:
        """Record exposures; a unit that has one already is not counted again."""
        stored = await self._store.get(context.caller(), request.name)
        return await self._recorder.exposures(stored, request.units)

    async def record_outcomes(self, request: RecordOutcomesRequest, /) -> RecordOutcomesResponse:
        """Record outcomes, all or none."""
        stored = await self._store.get(context.caller(), request.name)
        return await self._recorder.outcomes(stored, request.outcomes)

    async def get_results(self, request: GetResultsRequest, /) -> Results:
        """Compare each arm with the control arm."""
        return await results(self._database, await self._store.get(context.caller(), request.name))

    async def record_feedback(self, request: RecordFeedbackRequest, /) -> RecordFeedbackResponse:
        """Record a value for a call by its response id."""
        return await feedback.record(self._database, context.caller(), request)

    async def create_rollout(self, request: Rollout, /) -> Rollout:
        """Store a draft of a rollout."""
        return await self._rollouts.create(request)

    async def list_rollouts(self, request: ListRolloutsRequest, /) -> ListRolloutsResponse:
        """List the rollouts by name; the page token is the last name."""
        size = request.page_size or PAGE_SIZE
        rollouts = await self._rollouts.page(request.page_token, size + 1)
        token = rollouts[size - 1].name if len(rollouts) > size else ""
        return ListRolloutsResponse(rollouts=rollouts[:size], next_page_token=token)

    async def get_rollout(self, request: GetRolloutRequest, /) -> Rollout:
        """Return a rollout."""
        return await self._rollouts.get(request.name)

    async def get_rollout_report(self, request: GetRolloutReportRequest, /) -> RolloutReport:
        """Return the numbers and the history of a rollout."""
        return await self._rollouts.report(request.name)

    async def approve_rollout(self, request: ApproveRolloutRequest, /) -> Rollout:
        """Approve a draft as another principal than its creator."""
        return await self._rollouts.approve(request.name)

    async def start_rollout(self, request: StartRolloutRequest, /) -> Rollout:
        """Start an approved rollout."""
        return await self._rollouts.start(request.name)

    async def pause_rollout(self, request: PauseRolloutRequest, /) -> Rollout:
        """Hold a rollout at its step."""
        return await self._rollouts.pause(request.name, paused=True)

    async def resume_rollout(self, request: ResumeRolloutRequest, /) -> Rollout:
        """Let a rollout advance again."""
        return await self._rollouts.pause(request.name, paused=False)

    async def advance_rollout(self, request: AdvanceRolloutRequest, /) -> Rollout:
        """Go to the next step."""
        return await self._rollouts.advance(request)

    async def roll_back_rollout(self, request: RollBackRolloutRequest, /) -> Rollout:
        """End a rollout."""
        return await self._rollouts.roll_back(request.name, request.reason)

    async def watch_routing(self, request: WatchRoutingRequest, /) -> AsyncIterator[Routing]:
        """Stream the running experiments of aliases and rollouts."""
        async with aclosing(self._feed.watch()) as states:  # type: ignore[type-var]
            async for state in states:
                yield state


async def build(scope: ServiceContext) -> Experiments:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database()
    audit = scope.audit()
    store, rollouts = ExperimentStore(database, audit), RolloutStore(database, audit)
    recorder = Recorder(database, Clock(), settings.max_units)
    events = CallEvents(database, recorder, settings.consume_seconds, settings.max_backlog)
    scope.background(events.run)
    feed = RoutingFeed(database, store, rollouts, events, settings.routing_seconds)
    scope.background(feed.follow)
    discovery = scope.client(DiscoveryClient) if scope.has("discovery") else None
    authentication = scope.client(AuthenticationClient) if scope.has("authentication") else None
    models = AliasModels(discovery)
    scope.background(RolloutLeader(database, rollouts, models, discovery, settings.rollout_seconds).run)
    scope.routes += Evaluation(store, recorder).routes()
    watch = GuardrailWatch(database, store, recorder, settings)
    scope.background(watch.run)

    async def describe() -> str:
        experiments, active = len(await store.running()), len(await rollouts.running())
        return f"{experiments} running" + (f", {active} rollouts" if active else "")

    scope.describe(describe)
    operations = RolloutOperations(database, rollouts, models, authentication)
    return Experiments(settings, database, store, recorder, models, operations, feed)
