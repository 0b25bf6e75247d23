"""Experiments: assignment of units to arms, exposures, outcomes and results."""

from __future__ import annotations

from drw.api.models.v1 import experiments_rpc as contract
from drw.api.models.v1.experiments_pb2 import (
    Assignment,
    AssignUnitRequest,
    DeleteExperimentRequest,
    DeleteExperimentResponse,
    Experiment,
    GetExperimentRequest,
    GetResultsRequest,
    ListExperimentsRequest,
    ListExperimentsResponse,
    RecordExposuresRequest,
    RecordExposuresResponse,
    RecordOutcomesRequest,
    RecordOutcomesResponse,
    Results,
    StartExperimentRequest,
    StopExperimentRequest,
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
from drw.models.experiments.recording import Recorder
from drw.models.experiments.settings import Settings
from drw.models.experiments.store import ExperimentStore

PAGE_SIZE = 100


class Experiments(contract.Experiments):
    """Serves `drw.api.models.v1.Experiments`."""

    def __init__(self, database: Database, store: ExperimentStore, recorder: Recorder) -> None:
        self._database = database
        self._store = store
        self._recorder = recorder

    async def create_experiment(self, request: Experiment, /) -> Experiment:
        """Store a draft after checks of its definition and of the validity of its statistics."""
        caller = context.caller()
        checked = definition.normalised(request)
        design_of(checked)
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
        """Start a draft."""
        return (await self._store.start(context.caller(), request.name)).experiment

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


async def build(scope: ServiceContext) -> Experiments:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database()
    store = ExperimentStore(database, scope.audit())
    recorder = Recorder(database, Clock(), settings.max_units)
    scope.routes += Evaluation(store, recorder).routes()
    watch = GuardrailWatch(database, store, recorder, settings)
    scope.background(watch.run)

    async def describe() -> str:
        return f"{len(await store.running())} running"

    scope.describe(describe)
    return Experiments(database, store, recorder)
