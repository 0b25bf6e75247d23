"""Orchestration: durable execution of workflow runs."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import jsonschema_rs

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.kernel.v1.kernel_pb2 import Json as JsonText
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.api.workflow.v1 import orchestration_rpc as contract
from drw.api.workflow.v1.approvals_pb2 import (
    Approval,
    ApprovalLink,
    CreateApprovalLinkRequest,
    CreateDelegationRequest,
    DecideApprovalRequest,
    Delegation,
    EndDelegationRequest,
    ListApprovalsRequest,
    ListApprovalsResponse,
    ListDelegationsRequest,
    ListDelegationsResponse,
    OpenApprovalLinkRequest,
    UseApprovalLinkRequest,
)
from drw.api.workflow.v1.orchestration_pb2 import (
    CancelRunRequest,
    ForkRunRequest,
    GetRunPayloadRequest,
    GetRunRequest,
    ListFailuresRequest,
    ListFailuresResponse,
    ListRunsRequest,
    ListRunsResponse,
    PauseRunRequest,
    QueryRunRequest,
    Replay,
    ReplayRunRequest,
    RestartRunRequest,
    ResumeRunRequest,
    RetryRunRequest,
    Run,
    RunPayload,
    RunQuery,
    SendSignalRequest,
    Signal,
    StartRunRequest,
)
from drw.api.workflow.v1.retention_pb2 import (
    Hold,
    ListHoldsRequest,
    ListHoldsResponse,
    PlaceHoldRequest,
    ReleaseHoldRequest,
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
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest
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
from drw.kernel.errors import ConfigError, NotFound, Unavailable
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.persons.second_person import SecondPerson
from drw.workflow.orchestration import failed_runs, inputs, messages, run_search
from drw.workflow.orchestration.activities import Services, python_function
from drw.workflow.orchestration.activities.http_requests import HttpRequests
from drw.workflow.orchestration.approvals.operations import ApprovalOperations
from drw.workflow.orchestration.approvals.store import Approvals
from drw.workflow.orchestration.control import queries
from drw.workflow.orchestration.control.derived_runs import DerivedRuns
from drw.workflow.orchestration.control.run_control import RunControl
from drw.workflow.orchestration.control.run_queue import QueueLimits
from drw.workflow.orchestration.control.run_signals import RunSignals
from drw.workflow.orchestration.execution.child_runs import ChildRuns
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.journal.run_journal import RunJournal
from drw.workflow.orchestration.execution.journal.signals import Signals
from drw.workflow.orchestration.execution.leader_election import LeaderElection
from drw.workflow.orchestration.execution.lease import Lease
from drw.workflow.orchestration.execution.step_executor import StepExecutor
from drw.workflow.orchestration.execution.waiting import WaitingSteps
from drw.workflow.orchestration.metrics import update_gauges
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.payloads.payload_store import Limits, PayloadStore
from drw.workflow.orchestration.permissions import PresentPermissions, check_scopes
from drw.workflow.orchestration.ports import Engine, HttpClient
from drw.workflow.orchestration.replay.operations import ReplayOperations
from drw.workflow.orchestration.retention.build import build_retention
from drw.workflow.orchestration.retention.holds import Holds
from drw.workflow.orchestration.runs import RunRequest, Runs
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
        approvals: ApprovalOperations,
        holds: Holds,
        templates: TemplatesClient,
        kills: KillList,
        schedules: ScheduleOperations,
        control: RunControl,
        run_signals: RunSignals,
        triggers: TriggerOperations,
    ) -> None:
        self._database = database
        self._runs = runs
        self._approvals = approvals
        self._holds = holds
        self._templates = templates
        self._kills = kills
        self._schedules = schedules
        self._control = control
        self._run_signals = run_signals
        self._derived = DerivedRuns(runs, templates, kills)
        self._triggers = triggers
        self._replays = ReplayOperations(runs)

    async def start_run(self, request: StartRunRequest, /) -> Run:
        """Validate the request and queue the run."""
        caller = context.caller()
        run_request = RunRequest(
            request.request_id or uuid4().hex,
            request.template,
            messages.inputs(request.inputs),
            priority=messages.priority(request.priority),
        )
        run = await self._runs.find_by_request_id(caller, run_request)
        if run is None:
            self._kills.check(caller, workflow=request.template)
            template = await self._templates.get_template(GetTemplateRequest(name=request.template))
            check_scopes(caller, template)
            values = inputs.validate(template, run_request.inputs, self._runs.payloads.limits.value)
            run = await self._runs.start(caller, run_request, template, values)
        return messages.run(*await self._runs.get(caller, run))

    async def get_run(self, request: GetRunRequest, /) -> Run:
        """Return a run of the caller's desk with its steps."""
        return messages.run(*await self._runs.get(context.caller(), request.run))

    async def list_runs(self, request: ListRunsRequest, /) -> ListRunsResponse:
        """Return a page of the desk's runs."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._runs.page(run_search.reader(context.caller(), request.desk), request, size + 1)
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
        return messages.run(*await self._runs.get(caller, await self._derived.restart(caller, request)))

    async def fork_run(self, request: ForkRunRequest, /) -> Run:
        """Validate the request and queue the new run."""
        caller = context.caller()
        return messages.run(*await self._runs.get(caller, await self._derived.fork(caller, request)))

    async def retry_run(self, request: RetryRunRequest, /) -> Run:
        """Validate the request and queue the new run."""
        caller = context.caller()
        return messages.run(*await self._runs.get(caller, await self._derived.retry(caller, request)))

    async def pause_run(self, request: PauseRunRequest, /) -> Run:
        """Pause a run of the caller's desk."""
        caller = context.caller()
        await self._control.pause(caller, request.run, request.reason)
        return messages.run(*await self._runs.get(caller, request.run))

    async def resume_run(self, request: ResumeRunRequest, /) -> Run:
        """Resume a run of the caller's desk."""
        caller = context.caller()
        await self._control.resume(caller, request.run)
        return messages.run(*await self._runs.get(caller, request.run))

    async def get_run_payload(self, request: GetRunPayloadRequest, /) -> RunPayload:
        """Return a large value of a run of the caller's desk."""
        caller = context.caller()
        await self._runs.check_visible(caller, request.run)
        value = await self._runs.payloads.read(caller, request.run, request.sha256)
        if value is None:
            raise NotFound(f"the run {request.run!r} has no payload {request.sha256!r}")
        return RunPayload(sha256=request.sha256, bytes=len(value), value=JsonText(text=value.decode()))

    async def send_signal(self, request: SendSignalRequest, /) -> Signal:
        """Store a signal for a run of the caller's desk."""
        return messages.signal(await self._run_signals.send(context.caller(), request))

    async def query_run(self, request: QueryRunRequest, /) -> RunQuery:
        """Return the state of a run of the caller's desk."""
        caller = context.caller()
        row, _ = await self._runs.get(caller, request.run, steps=False)
        return await queries.query(self._database, row)

    async def replay_run(self, request: ReplayRunRequest, /) -> Replay:
        """Replay a run of the caller's desk."""
        return await self._replays.replay(request.run)

    async def list_failures(self, request: ListFailuresRequest, /) -> ListFailuresResponse:
        """Return failed runs of all tenants; wait for one if there are none."""
        rows = await failed_runs.after(self._database, request.after, request.wait_seconds)
        return ListFailuresResponse(failures=[messages.failure(row) for row in rows])

    async def list_approvals(self, request: ListApprovalsRequest, /) -> ListApprovalsResponse:
        """Return the waiting approvals that the caller sees."""
        return await self._approvals.pending()

    async def decide_approval(self, request: DecideApprovalRequest, /) -> Approval:
        """Record the decision of the caller."""
        return await self._approvals.decide(request)

    async def create_delegation(self, request: CreateDelegationRequest, /) -> Delegation:
        """Let another person decide for the caller."""
        return await self._approvals.delegate(request)

    async def list_delegations(self, request: ListDelegationsRequest, /) -> ListDelegationsResponse:
        """Return the delegations in force of the desk and to the caller."""
        return await self._approvals.delegations()

    async def end_delegation(self, request: EndDelegationRequest, /) -> Delegation:
        """End a delegation."""
        return await self._approvals.end_delegation(request.delegation)

    async def create_approval_link(self, request: CreateApprovalLinkRequest, /) -> ApprovalLink:
        """Create a link to an approval."""
        return await self._approvals.create_link(request)

    async def open_approval_link(self, request: OpenApprovalLinkRequest, /) -> Approval:
        """Return the approval of a link."""
        return await self._approvals.open_link(request.token)

    async def use_approval_link(self, request: UseApprovalLinkRequest, /) -> Approval:
        """Decide the approval of a link."""
        return await self._approvals.use_link(request)

    async def place_hold(self, request: PlaceHoldRequest, /) -> Hold:
        """Place a legal hold."""
        return await self._holds.place(request)

    async def list_holds(self, request: ListHoldsRequest, /) -> ListHoldsResponse:
        """Return the legal holds of the desk and the org."""
        return await self._holds.page(include_released=request.all)

    async def release_hold(self, request: ReleaseHoldRequest, /) -> Hold:
        """Release a legal hold."""
        return await self._holds.release(request)

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
    database = await scope.database(idle_transaction_seconds=settings.lease_seconds)
    await create_tables(database)
    limits = Limits(settings.max_payload_bytes, settings.max_run_payload_bytes, settings.max_desk_payload_bytes)
    payloads = PayloadStore(database, scope.folder / "payloads", limits)
    scope.background(payloads.run)
    signals = Signals(database)
    queue = QueueLimits(settings.max_active_runs, settings.max_active_runs_per_desk)
    journal = RunJournal(
        database, scope.audit(), payloads, signals, queue, settings.max_interruptions, settings.executor
    )
    lease = Lease()
    services = _services(scope, settings, lease)
    runs = Runs(database, scope.audit(), settings.max_open_runs, payloads)
    approvals = Approvals(database, scope.audit())
    authentication = scope.client(AuthenticationClient) if scope.has("authentication") else None
    permissions = PresentPermissions(authentication)
    decisions = ApprovalOperations(database, scope.audit(), approvals, SecondPerson(authentication), permissions)
    run_signals = RunSignals(database, scope.audit(), settings.max_run_signals)
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    step_executor = StepExecutor(journal, services, settings.initial_retry_seconds, kills, lease)
    templates = scope.client(TemplatesClient)
    children = ChildRuns(database, runs, templates, kills, check_scopes)
    waiting = WaitingSteps(journal, approvals, children, signals, run_signals)
    interpreter = Interpreter(journal, step_executor, waiting, settings.max_concurrent_steps)
    engine_settings = {"dsn": dsn, "executor": settings.executor, "idle_transaction_seconds": settings.lease_seconds}
    engine = scope.make_adapter(Engine, "dbos_engine", engine_settings)  # type: ignore[type-abstract]
    state = scope.client(StateClient)
    relay = OutboxRelay(database, state)
    retention = build_retention(scope, settings, database, engine, state, payloads)
    leader = LeaderElection(
        settings.executor,
        settings.lease_seconds,
        database,
        journal,
        engine,
        interpreter,
        relay,
        signals,
        lease,
        retention.run,
    )
    scope.background(leader.run)

    preparation = Preparation(permissions, templates, kills)
    schedules = build_schedules(scope, settings, database, runs, preparation, lambda: leader.is_coordinator)
    triggers = await build_triggers(scope, settings, database, runs, preparation, permissions, templates)

    async def describe() -> str:
        if relay.error_message:
            raise Unavailable(f"the live view of runs is behind: {relay.error_message}")
        if schedules.error_message:
            raise Unavailable(schedules.error_message)
        if retention.error_message:
            raise Unavailable(f"expired runs are not deleted: {retention.error_message}")
        role = "leader" if leader.is_leader else "standby"
        return f"{role} as {settings.executor!r}, {leader.active_run_count()} active runs"

    scope.describe(describe)
    scope.on_scrape(partial(update_gauges, database))
    holds = Holds(database, scope.audit())
    control = RunControl(database, scope.audit())
    return Orchestration(
        database, runs, decisions, holds, templates, kills, schedules.operations, control, run_signals, triggers
    )


def _services(scope: ServiceContext, settings: Settings, lease: Lease) -> Services:
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
        lease.fenced(scope.client(DocumentsClient)),
        lease.fenced(scope.client(ServingClient)),
        lease.fenced(scope.client(RetrievalClient)),
        python_function.load(settings.functions),
        HttpRequests(http_client, hosts, workflow.http_max_response_bytes, lease.check),
        workflow.events,
        secrets,
        discovery=lease.fenced(scope.client(DiscoveryClient)) if scope.has("discovery") else None,
    )
