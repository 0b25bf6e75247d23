"""Prepares the run of an occurrence: present permissions of the creator, template, inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.killswitch.watch import KillList
from drw.workflow.orchestration import inputs, messages
from drw.workflow.orchestration.permissions import PresentPermissions, check_scopes
from drw.workflow.orchestration.runs import RunRequest
from drw.workflow.orchestration.schedules.occurrence import Occurrence


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that can start."""

    caller: Principal
    request: RunRequest
    template: Template
    inputs: dict[str, Any]


class Preparation:
    """Checks everything that does not need the transaction of the start."""

    def __init__(self, permissions: PresentPermissions, templates: TemplatesClient, kills: KillList) -> None:
        self._permissions = permissions
        self._templates = templates
        self._kills = kills

    async def prepare(
        self, schedule: str, owner: Principal, spec: ScheduleSpec, occurrence: Occurrence, zone: ZoneInfo
    ) -> PreparedRun:
        """Return the run of an occurrence.

        Raises:
            Killed: a kill stops the key, the desk or the workflow.
            CredentialEnded: the key of the creator is not valid any more.
            InvalidRequest, NotFound, Forbidden: the run cannot start.
            Unavailable: a service does not answer.
        """
        date = occurrence.session or occurrence.at.astimezone(zone).date()
        variables = {"${tick.time}": occurrence.at.strftime("%Y-%m-%dT%H:%M:%SZ"), "${tick.date}": date.isoformat()}
        values = _rendered(messages.inputs(spec.inputs), variables)
        # A request id of a caller never starts with a space, so that none can be in the way.
        return await self.of(owner, RunRequest(f" {schedule}|{occurrence.key}", spec.template, values))

    async def of(self, owner: Principal, request: RunRequest) -> PreparedRun:
        """Return a run that acts for a key with the scopes that it has now.

        Raises:
            As `prepare`.
        """
        caller = await self._permissions.of(owner)
        self._kills.check(caller, workflow=request.template)
        with context.acting_for(caller):
            template = await self._templates.get_template(GetTemplateRequest(name=request.template))
        check_scopes(caller, template)
        return PreparedRun(caller, request, template, inputs.validate(template, request.inputs))


def _rendered(value: Any, variables: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _rendered(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, variables) for item in value]
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace(name, text)
    return value
