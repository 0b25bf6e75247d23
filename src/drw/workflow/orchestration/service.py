"""Orchestration: durable execution of workflow runs."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import jsonschema_rs

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
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
    ListFailuresRequest,
    ListFailuresResponse,
    ListRunsRequest,
    ListRunsResponse,
    Replay,
    ReplayRunRequest,
    RestartRunRequest,
    Run,
    StartRunRequest,
    Vote,
)
from drw.api.workflow.v1.schedules_pb2 import (
    Backfill,
    BackfillScheduleRequest,
    CreateScheduleRequest,
    DeleteScheduleRequest,
    DeleteScheduleResponse,
    GetScheduleRequest,
    ListSchedulesRequest,
    ListSchedulesResponse,
    PauseScheduleRequest,
    Preview,
    PreviewScheduleRequest,
    ResumeScheduleRequest,
    Schedule,
)
from drw.api.workflow.v1.state_rpc import StateClient
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.api.workflow.v1.triggers_pb2 import (
    CreateTriggerRequest,
    DeleteTriggerRequest,
    DeleteTriggerResponse,
    GetTriggerRequest,
    ListTriggersRequest,
    ListTriggersResponse,
    PauseTriggerRequest,
    ResumeTriggerRequest,
    Trigger,
)
from drw.egress.addresses import InvalidAddress
from drw.egress.http_hosts import HttpHosts
from drw.events.publisher import create_tables
from drw.kernel.errors import ConfigError, Conflict, InvalidRequest, Unavailable
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.workflow.orchestration import failed_runs, inputs, messages, restarts
from drw.workflow.orchestration.activities import Services, python_function
from drw.workflow.orchestration.activities.http_requests import HttpRequests
from drw.workflow.orchestration.approvals import Approvals
from drw.workflow.orchestration.execution.child_runs import ChildRuns
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.leader_election import LeaderElection
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.execution.signals import Signals
from drw.workflow.orchestration.execution.step_executor import StepExecutor
from drw.workflow.orchestration.execution.waiting import WaitingSteps
from drw.workflow.orchestration.metrics import update_gauges
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.permissions import PresentPermissions, check_scopes
from drw.workflow.orchestration.ports import Engine, HttpClient
from drw.workflow.orchestration.replay.operations import ReplayOperations
from drw.workflow.orchestration.runs import KeptSteps, Row, RunRequest, Runs
from drw.workflow.orchestration.schedules.build import build_schedules
from drw.workflow.orchestration.schedules.operations import ScheduleOperations
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.secrets.source import SecretSource
from drw.workflow.orchestration.settings import Settings
from drw.workflow.orchestration.triggers.build import build_triggers
from drw.workflow.orchestration.triggers.operations import TriggerOperations

DEFAULT_PAGE_SIZE = 50


class Orchestration(contract.Orchestration):
    """Serves `drw.api.workflow.v1.Orchestration`."""

    def __init__(
        self,
        database: Database,
        runs: Runs,
        approvals: Approvals,
        templates: TemplatesClient,
        kills: KillList,
        schedules: ScheduleOperations,
        triggers: TriggerOperations,
    ) -> None:
        self._database = database
        self._runs = runs
        self._approvals = approvals
        self._templates = templates
        self._kills = kills
        self._schedules = schedules
        self._triggers = triggers
        self._replays = ReplayOperations(runs)

    async def start_run(self, request: StartRunRequest, /) -> Run:
        """Validate the request and queue the run."""
        caller = context.caller()
        run_request = RunRequest(request.request_id or uuid4().hex, request.template, messages.inputs(request.inputs))
        run = await self._runs.find_by_request_id(caller, run_request)
        if run is None:
            self._kills.check(caller, workflow=request.template)
            template = await self._templates.get_template(GetTemplateRequest(name=request.template))
            check_scopes(caller, template)
            run = await self._runs.start(caller, run_request, template, inputs.validate(template, run_request.inputs))
        return messages.run(*await self._runs.get(caller, run))

    async def get_run(self, request: GetRunRequest, /) -> Run:
        """Return a run of the caller's desk with its steps."""
        return messages.run(*await self._runs.get(context.caller(), request.run))

    async def list_runs(self, request: ListRunsRequest, /) -> ListRunsResponse:
        """Return a page of the desk's runs."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._runs.page(context.caller(), request, size + 1)
        token = rows[size - 1]["id"] if len(rows) > size else ""
        return ListRunsResponse(runs=[messages.run(row, []) for row in rows[:size]], next_page_token=token)

    async def cancel_run(self, request: CancelRunRequest, /) -> Run:
        """Cancel a run of the caller's desk."""
        caller = context.caller()
        await self._runs.cancel(caller, request.run)
        return messages.run(*await self._runs.get(caller, request.run))

    async def restart_run(self, request: RestartRunRequest, /) -> Run:
        """Validate the request and queue the new run."""
        caller = context.caller()
        old_run, old_steps = await self._runs.get(caller, request.run)
        restart = restarts.RestartRequest(
            request.request_id,
            old_run["template_name"],
            messages.inputs(request.inputs),
            restart_of=request.run,
            template_version=request.template_version,
            from_step=request.from_step,
        )
        run = await self._runs.find_by_request_id(caller, restart)
        if run is None:
            undone = restarts.undone_nodes(old_steps)
            run = await self._restart(caller, restart, old_run, undone)
        return messages.run(*await self._runs.get(caller, run))

    async def replay_run(self, request: ReplayRunRequest, /) -> Replay:
        """Replay a run of the caller's desk."""
        return await self._replays.replay(request.run)

    async def list_failures(self, request: ListFailuresRequest, /) -> ListFailuresResponse:
        """Return failed runs of all tenants; wait for one if there are none."""
        rows = await failed_runs.after(self._database, request.after, request.wait_seconds)
        return ListFailuresResponse(failures=[messages.failure(row) for row in rows])

    async def _restart(
        self, caller: context.Principal, restart: restarts.RestartRequest, old_run: Row, undone: frozenset[str]
    ) -> str:
        if old_run["state"] != "FAILED":
            state = old_run["state"].lower()
            raise Conflict(f"the run {old_run['id']!r} is {state}: only a failed run can be restarted")
        self._kills.check(caller, workflow=restart.template)
        template = old_template = Template.FromString(old_run["template"])
        if restart.template_version:
            version = restart.template_version.removeprefix("latest")
            template = await self._templates.get_template(GetTemplateRequest(name=restart.template, version=version))
        check_scopes(caller, template)
        old_inputs = old_run["inputs"]
        values = inputs.validate(template, restarts.merged_inputs(template, old_inputs, restart.inputs))
        steps = restarts.kept_steps(template, values, old_template, old_inputs, restart.from_step, undone)
        return await self._runs.start(caller, restart, template, values, kept=KeptSteps(old_run["id"], steps))

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

    async def create_schedule(self, request: CreateScheduleRequest, /) -> Schedule:
        """Create a schedule."""
        return await self._schedules.create(request)

    async def preview_schedule(self, request: PreviewScheduleRequest, /) -> Preview:
        """Return the next occurrences of a schedule that is not stored."""
        return await self._schedules.preview(request.spec)

    async def list_schedules(self, request: ListSchedulesRequest, /) -> ListSchedulesResponse:
        """Return a page of the desk's schedules."""
        return await self._schedules.page(request)

    async def get_schedule(self, request: GetScheduleRequest, /) -> Schedule:
        """Return a schedule of the caller's desk."""
        return await self._schedules.get(request.schedule)

    async def pause_schedule(self, request: PauseScheduleRequest, /) -> Schedule:
        """Pause a schedule."""
        return await self._schedules.pause(request.schedule)

    async def resume_schedule(self, request: ResumeScheduleRequest, /) -> Schedule:
        """Resume a schedule."""
        return await self._schedules.resume(request.schedule)

    async def backfill_schedule(self, request: BackfillScheduleRequest, /) -> Backfill:
        """Back-fill a range of a schedule."""
        return await self._schedules.backfill(request)

    async def delete_schedule(self, request: DeleteScheduleRequest, /) -> DeleteScheduleResponse:
        """Delete a schedule."""
        await self._schedules.delete(request.schedule)
        return DeleteScheduleResponse()

    async def create_trigger(self, request: CreateTriggerRequest, /) -> Trigger:
        """Create a trigger."""
        return await self._triggers.create(request)

    async def list_triggers(self, request: ListTriggersRequest, /) -> ListTriggersResponse:
        """Return a page of the desk's triggers."""
        return await self._triggers.page(request)

    async def get_trigger(self, request: GetTriggerRequest, /) -> Trigger:
        """Return a trigger of the caller's desk."""
        return await self._triggers.get(request.trigger)

    async def pause_trigger(self, request: PauseTriggerRequest, /) -> Trigger:
        """Pause a trigger."""
        return await self._triggers.pause(request.trigger)

    async def resume_trigger(self, request: ResumeTriggerRequest, /) -> Trigger:
        """Resume a trigger."""
        return await self._triggers.resume(request.trigger)

    async def delete_trigger(self, request: DeleteTriggerRequest, /) -> DeleteTriggerResponse:
        """Delete a trigger."""
        await self._triggers.delete(request.trigger)
        return DeleteTriggerResponse()


async def build(scope: ServiceContext) -> Orchestration:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    dsn = scope.profile.postgres
    database = await scope.database()
    await create_tables(database)
    journal = RunJournal(database, scope.audit(), settings.max_interruptions)
    services = _services(scope, settings)
    runs = Runs(database, scope.audit(), settings.max_open_runs)
    approvals = Approvals(database, scope.audit())
    signals = Signals(database)
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    step_executor = StepExecutor(journal, services, settings.initial_retry_seconds, kills)
    templates = scope.client(TemplatesClient)
    children = ChildRuns(database, runs, templates, kills, check_scopes)
    waiting = WaitingSteps(journal, approvals, children, signals)
    interpreter = Interpreter(journal, step_executor, waiting, settings.max_concurrent_steps)
    engine = scope.make_adapter(Engine, "dbos_engine", {"dsn": dsn, "executor": settings.executor})  # type: ignore[type-abstract]
    relay = OutboxRelay(database, scope.client(StateClient))
    leader = LeaderElection(settings.executor, database, journal, engine, interpreter, relay, signals)
    scope.background(leader.run)

    permissions = PresentPermissions(scope.client(AuthenticationClient) if scope.has("authentication") else None)
    preparation = Preparation(permissions, templates, kills)
    schedules = build_schedules(scope, settings, database, runs, preparation, lambda: leader.is_leader)
    triggers = await build_triggers(scope, settings, database, runs, preparation, permissions, templates)

    async def describe() -> str:
        if relay.error_message:
            raise Unavailable(f"the live view of runs is behind: {relay.error_message}")
        if schedules.error_message:
            raise Unavailable(schedules.error_message)
        role = "leader" if leader.is_leader else "standby"
        return f"{role} as {settings.executor!r}, {leader.active_run_count()} active runs"

    scope.describe(describe)
    scope.on_scrape(partial(update_gauges, database))
    return Orchestration(database, runs, approvals, templates, kills, schedules.operations, triggers)


def _services(scope: ServiceContext, settings: Settings) -> Services:
    workflow = scope.profile.workflow
    try:
        hosts = HttpHosts(workflow.http_hosts, workflow.http_networks)
        secrets = SecretSource(workflow.secrets)
        for event in workflow.events.values():
            jsonschema_rs.meta.validate(event.data_schema)
    except (InvalidAddress, ValueError) as error:
        raise ConfigError(f"a setting of [workflow] is wrong: {error}") from error
    http_client = scope.make_adapter(HttpClient, "aiohttp_client", {})  # type: ignore[type-abstract]
    return Services(
        scope.client(DocumentsClient),
        scope.client(ServingClient),
        scope.client(RetrievalClient),
        python_function.load(settings.functions),
        HttpRequests(http_client, hosts, workflow.http_max_response_bytes),
        workflow.events,
        secrets,
    )
