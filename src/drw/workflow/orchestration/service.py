"""Orchestration: durable execution of workflow runs."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.api.workflow.v1 import orchestration_rpc as contract
from drw.api.workflow.v1.orchestration_pb2 import (
    Approval,
    CancelRunRequest,
    DecideApprovalRequest,
    GetRunRequest,
    ListApprovalsRequest,
    ListApprovalsResponse,
    ListRunsRequest,
    ListRunsResponse,
    Run,
    StartRunRequest,
    Vote,
)
from drw.api.workflow.v1.state_rpc import StateClient
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import Forbidden, InvalidRequest, Unavailable
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.killswitch.watch import KillList
from drw.workflow.orchestration import inputs, messages
from drw.workflow.orchestration.activities import ACTIVITIES, Services, python_function, scopes
from drw.workflow.orchestration.approvals import Approvals
from drw.workflow.orchestration.child_runs import ChildRuns
from drw.workflow.orchestration.execution.dependency_graph import all_nodes
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.leader_election import LeaderElection
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.execution.signals import Signals
from drw.workflow.orchestration.execution.step_executor import StepExecutor
from drw.workflow.orchestration.execution.waiting import WAITING, WaitingSteps
from drw.workflow.orchestration.metrics import update_gauges
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine
from drw.workflow.orchestration.runs import RunRequest, Runs
from drw.workflow.orchestration.settings import Settings

DEFAULT_PAGE_SIZE = 50
CONTROL = frozenset({"loop", "map", "switch"})


class Orchestration(contract.Orchestration):
    """Serves `drw.api.workflow.v1.Orchestration`."""

    def __init__(self, runs: Runs, approvals: Approvals, templates: TemplatesClient, kills: KillList) -> None:
        self._runs = runs
        self._approvals = approvals
        self._templates = templates
        self._kills = kills

    async def start_run(self, request: StartRunRequest, /) -> Run:
        """Validate the request and queue the run."""
        caller = context.caller()
        run_request = RunRequest(request.request_id or uuid4().hex, request.template, messages.inputs(request.inputs))
        run = await self._runs.find_by_request_id(caller, run_request)
        if run is None:
            self._kills.check(caller, workflow=request.template)
            template = await self._templates.get_template(GetTemplateRequest(name=request.template))
            _check_scopes(caller, template)
            run = await self._runs.start(caller, run_request, template, inputs.validate(template, run_request.inputs))
        return messages.run(*await self._runs.get(caller, run))

    async def get_run(self, request: GetRunRequest, /) -> Run:
        """Return a run of the caller's desk with its steps."""
        return messages.run(*await self._runs.get(context.caller(), request.run))

    async def list_runs(self, request: ListRunsRequest, /) -> ListRunsResponse:
        """Return a page of the desk's runs."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._runs.page(context.caller(), size + 1, request.page_token)
        token = rows[size - 1]["id"] if len(rows) > size else ""
        return ListRunsResponse(runs=[messages.run(row, []) for row in rows[:size]], next_page_token=token)

    async def cancel_run(self, request: CancelRunRequest, /) -> Run:
        """Cancel a run of the caller's desk."""
        caller = context.caller()
        await self._runs.cancel(caller, request.run)
        return messages.run(*await self._runs.get(caller, request.run))

    async def list_approvals(self, request: ListApprovalsRequest, /) -> ListApprovalsResponse:
        """Return the waiting approvals of the desk."""
        rows = await self._approvals.pending(context.caller())
        return ListApprovalsResponse(approvals=[messages.approval(*row) for row in rows])

    async def decide_approval(self, request: DecideApprovalRequest, /) -> Approval:
        """Record the decision of the caller's key."""
        if request.decision == Vote.DECISION_UNSPECIFIED:
            raise InvalidRequest("decision must be APPROVE or REJECT", param="decision")
        decision = Vote.Decision.Name(request.decision)
        caller = context.caller()
        return messages.approval(
            *await self._approvals.vote(caller, request.run, request.step, decision, request.comment)
        )


def _check_scopes(caller: context.Principal, template: Template) -> None:
    names = {node.uses for node in all_nodes(template.nodes)} - CONTROL
    if unknown := sorted(names - ACTIVITIES.keys() - WAITING.keys()):
        raise InvalidRequest(f"the template {template.name!r} uses {unknown[0]!r}, which this release does not have")
    waiting_scopes = {scope for name in names & WAITING.keys() for scope in WAITING[name][1]}
    required = sorted({*scopes(names & ACTIVITIES.keys()), *waiting_scopes})
    if missing := [scope for scope in required if scope not in caller.scopes]:
        raise Forbidden(
            f"a run of {template.name!r} needs the scopes {' and '.join(map(repr, required))};"
            f" the key {caller.key!r} lacks {' and '.join(map(repr, missing))}",
            scope=missing[0],
        )


async def build(scope: ServiceContext) -> Orchestration:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    dsn = scope.profile.postgres
    database = await scope.database()
    journal = RunJournal(database, scope.audit())
    services = Services(
        scope.client(DocumentsClient),
        scope.client(ServingClient),
        scope.client(RetrievalClient),
        python_function.load(settings.functions),
    )
    runs = Runs(database, scope.audit(), settings.max_open_runs)
    approvals = Approvals(database, scope.audit())
    signals = Signals(database)
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    step_executor = StepExecutor(journal, services, settings.initial_retry_seconds, kills)
    templates = scope.client(TemplatesClient)
    children = ChildRuns(database, runs, templates, kills, _check_scopes)
    waiting = WaitingSteps(journal, approvals, children, signals)
    interpreter = Interpreter(journal, step_executor, waiting, settings.max_concurrent_steps)
    engine = scope.make_adapter(Engine, "dbos_engine", {"dsn": dsn, "executor": settings.executor})  # type: ignore[type-abstract]
    relay = OutboxRelay(database, scope.client(StateClient))
    leader = LeaderElection(settings.executor, database, journal, engine, interpreter, relay, signals)
    scope.background(leader.run)

    async def describe() -> str:
        if relay.error_message:
            raise Unavailable(f"the live view of runs is behind: {relay.error_message}")
        role = "leader" if leader.is_leader else "standby"
        return f"{role} as {settings.executor!r}, {leader.active_run_count()} active runs"

    scope.describe(describe)
    scope.on_scrape(partial(update_gauges, database))
    return Orchestration(runs, approvals, templates, kills)
