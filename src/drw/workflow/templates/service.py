"""Templates: workflow templates and their versions."""

from __future__ import annotations

from drw.api.workflow.v1 import templates_rpc as contract
from drw.api.workflow.v1.templates_pb2 import (
    GetTemplateRequest,
    ListTemplatesRequest,
    ListTemplatesResponse,
    Template,
)
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.runtime.host import ServiceContext
from drw.workflow.templates.settings import Settings
from drw.workflow.templates.template_store import TemplateStore


class Templates(contract.Templates):
    """Serves `drw.api.workflow.v1.Templates`."""

    def __init__(self, store: TemplateStore) -> None:
        self._store = store

    async def list_templates(self, request: ListTemplatesRequest, /) -> ListTemplatesResponse:
        """Return the newest version of each template."""
        templates = await self._store.latest_versions()
        return ListTemplatesResponse(templates=[templates[name] for name in sorted(templates)])

    async def get_template(self, request: GetTemplateRequest, /) -> Template:
        """Return one template in the requested version."""
        if request.version:
            return await self._store.version(request.name, request.version)
        templates = await self._store.latest_versions()
        if request.name not in templates:
            raise NotFound(f"there is no template {request.name!r}; there are: {', '.join(sorted(templates))}")
        return templates[request.name]

    async def describe(self) -> str:
        """Report the number of templates. An invalid file degrades the service."""
        count = len(await self._store.latest_versions())
        if self._store.invalid_files:
            raise Unavailable("; ".join(self._store.invalid_files))
        return f"{count} templates"


async def build(scope: ServiceContext) -> Templates:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    service = Templates(TemplateStore(await scope.database(), settings.folder))
    scope.describe(service.describe)
    return service
