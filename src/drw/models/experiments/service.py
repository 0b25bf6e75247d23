"""A/B experiments between model versions: the contract, without an implementation."""

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
    """Serves `drw.api.models.v1.Experiments`; no method is implemented."""


async def build(scope: ServiceContext) -> Experiments:
    """Build the service."""
    return Experiments()
