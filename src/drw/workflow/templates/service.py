"""Templates: workflow templates and their versions."""

from __future__ import annotations

from drw.api.workflow.v1 import templates_rpc as contract
from drw.api.workflow.v1.templates_pb2 import (
    DeleteTemplateRequest,
    DeleteTemplateResponse,
    GetTemplateRequest,
    ListTemplatesRequest,
    ListTemplatesResponse,
    ListTemplateVersionsRequest,
    ListTemplateVersionsResponse,
    Problem,
    PutTemplateRequest,
    Template,
    ValidateTemplateRequest,
    ValidateTemplateResponse,
)
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import Workflow
from drw.workflow.templates import parser
from drw.workflow.templates.checks.environment_check import Environment
from drw.workflow.templates.desk_templates import DeskTemplates
from drw.workflow.templates.settings import Settings
from drw.workflow.templates.template_store import TemplateStore


class Templates(contract.Templates):
    """Serves `drw.api.workflow.v1.Templates`."""

    def __init__(self, store: TemplateStore, desk_templates: DeskTemplates, workflow: Workflow) -> None:
        self._store = store
        self._workflow = workflow
        self._desk_templates = desk_templates

    async def list_templates(self, request: ListTemplatesRequest, /) -> ListTemplatesResponse:
        """Return the newest version of each template."""
        templates = await self._visible_templates()
        return ListTemplatesResponse(templates=[templates[name] for name in sorted(templates)])

    async def get_template(self, request: GetTemplateRequest, /) -> Template:
        """Return one template in the requested version."""
        if caller := context.caller_or_none():
            template = await self._desk_templates.find(caller, request.name, request.version)
            if template is not None:
                return template
        if request.version:
            return await self._store.version(request.name, request.version)
        templates = await self._visible_templates()
        if request.name not in templates:
            raise NotFound(f"there is no template {request.name!r}; there are: {', '.join(sorted(templates))}")
        return templates[request.name]

    async def validate_template(self, request: ValidateTemplateRequest, /) -> ValidateTemplateResponse:
        """Return the mistakes of a template."""
        problems = parser.validate(request.source.encode(), "template", self._environment())
        return ValidateTemplateResponse(
            problems=[Problem(line=p.line, column=p.column, message=p.message) for p in problems]
        )

    async def put_template(self, request: PutTemplateRequest, /) -> Template:
        """Create or update a template of the caller's desk."""
        return await self._desk_templates.put(
            context.caller(), request.name, request.source, request.if_version, self._environment()
        )

    async def delete_template(self, request: DeleteTemplateRequest, /) -> DeleteTemplateResponse:
        """Delete a template of the caller's desk."""
        await self._desk_templates.delete(context.caller(), request.name)
        return DeleteTemplateResponse()

    async def list_template_versions(self, request: ListTemplateVersionsRequest, /) -> ListTemplateVersionsResponse:
        """Return the changes of a template of the caller's desk."""
        changes = await self._desk_templates.changes(context.caller(), request.name)
        if not changes:
            raise NotFound(f"the desk has no template {request.name!r} of its own")
        return ListTemplateVersionsResponse(changes=changes)

    def _environment(self) -> Environment | None:
        caller = context.caller_or_none()
        return Environment.of(self._workflow, caller) if caller else None

    async def _visible_templates(self) -> dict[str, Template]:
        templates = await self._store.latest_versions()
        caller = context.caller_or_none()
        return templates | (await self._desk_templates.current(caller) if caller else {})

    async def describe(self) -> str:
        """Report the number of templates. An invalid file degrades the service."""
        count = len(await self._store.latest_versions())
        if self._store.invalid_files:
            raise Unavailable("; ".join(self._store.invalid_files))
        return f"{count} templates"


async def build(scope: ServiceContext) -> Templates:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database()
    store = TemplateStore(database, settings.folder)
    service = Templates(store, DeskTemplates(database, scope.audit()), scope.profile.workflow)
    scope.describe(service.describe)
    return service
