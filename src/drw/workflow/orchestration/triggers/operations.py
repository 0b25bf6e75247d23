"""Operations of API callers on triggers: create, list, get, pause, resume, delete."""

from __future__ import annotations

from uuid import uuid4

from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.api.workflow.v1.triggers_pb2 import (
    CreateTriggerRequest,
    ListTriggersRequest,
    ListTriggersResponse,
    Trigger,
    TriggerSpec,
)
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_message
from drw.workflow.orchestration import messages
from drw.workflow.orchestration.permissions import PresentPermissions, check_scopes
from drw.workflow.orchestration.settings import Settings
from drw.workflow.orchestration.triggers import conditions
from drw.workflow.orchestration.triggers.store import TriggerStore
from drw.workflow.orchestration.triggers.stored import StoredTrigger, firing_message, trigger_message

DEFAULT_PAGE_SIZE = 50


class TriggerOperations:
    """Serves the methods of triggers."""

    def __init__(
        self, settings: Settings, store: TriggerStore, permissions: PresentPermissions, templates: TemplatesClient
    ) -> None:
        self._settings = settings
        self._store = store
        self._permissions = permissions
        self._templates = templates

    async def create(self, request: CreateTriggerRequest) -> Trigger:
        """Store a trigger after checks of its event, its expressions and its template."""
        caller, spec = context.caller(), _normalised(request.spec)
        event = conditions.event_type(spec)
        conditions.check(spec, event)
        maximum = self._settings.max_trigger_runs_per_minute
        if spec.max_runs_per_minute > maximum:
            raise InvalidRequest(
                f"max_runs_per_minute is {spec.max_runs_per_minute}; at most {maximum}", param="max_runs_per_minute"
            )
        await self._check_permissions(caller, spec)
        row = await self._store.create(caller, f"trg_{uuid4().hex}", request.name, event.name, spec)
        return trigger_message(row)

    async def page(self, request: ListTriggersRequest) -> ListTriggersResponse:
        """Return a page of the desk's triggers."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._store.page(context.caller(), size + 1, request.page_token)
        token = rows[size - 1]["id"] if len(rows) > size else ""
        return ListTriggersResponse(triggers=[trigger_message(row) for row in rows[:size]], next_page_token=token)

    async def get(self, name: str) -> Trigger:
        """Return a trigger with its latest firings."""
        row = await self._store.get(context.caller(), name)
        trigger = trigger_message(row)
        trigger.firings.extend(map(firing_message, await self._store.firings(row["id"])))
        return trigger

    async def pause(self, name: str) -> Trigger:
        """Prevent further runs."""
        return trigger_message(await self._store.set_state(context.caller(), name, "PAUSED", "trigger.pause"))

    async def resume(self, name: str) -> Trigger:
        """Start runs again. The caller needs the permissions that it would need to create the trigger."""
        caller = context.caller()
        await self._check_permissions(caller, StoredTrigger.of(await self._store.get(caller, name)).spec)
        return trigger_message(await self._store.set_state(caller, name, "ACTIVE", "trigger.resume"))

    async def delete(self, name: str) -> None:
        """Delete a trigger."""
        await self._store.delete(context.caller(), name)

    async def _check_permissions(self, caller: Principal, spec: TriggerSpec) -> None:
        """Check that the caller could see the events and start the runs itself.

        Raises:
            Forbidden: it lacks a scope.
            InvalidRequest: the template has other inputs.
        """
        present = await self._permissions.of(caller)
        conditions.check_may_read(present, conditions.event_type(spec))
        template = await self._templates.get_template(GetTemplateRequest(name=spec.template))
        check_scopes(present, template)
        _check_inputs(spec, template)


def _check_inputs(spec: TriggerSpec, template: Template) -> None:
    given = messages.inputs(spec.inputs).keys()
    declared = {declared.name: declared for declared in template.inputs}
    if unknown := sorted(given - declared.keys()):
        names = ", ".join(sorted(declared)) or "none"
        raise InvalidRequest(
            f"{unknown[0]!r} is not an input of the template {template.name!r}; there are: {names}", param="inputs"
        )
    if missing := [name for name, of in declared.items() if of.required and name not in given]:
        raise InvalidRequest(f"the input {missing[0]!r} of the template {template.name!r} is missing", param="inputs")


def _normalised(spec: TriggerSpec) -> TriggerSpec:
    """Return a trigger with its type of events, and with inputs that are a JSON object in canonical form.

    Raises:
        InvalidRequest: the event does not exist, or the inputs are not an object.
    """
    normalised = TriggerSpec()
    normalised.CopyFrom(spec)
    normalised.event = conditions.event_type(spec).name
    normalised.inputs.CopyFrom(json_message(dict(sorted(messages.inputs(spec.inputs).items()))))
    return normalised
