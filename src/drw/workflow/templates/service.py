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

    def __init__(self, shelf: TemplateStore) -> None:
        self._shelf = shelf

    async def list_templates(self, request: ListTemplatesRequest, /) -> ListTemplatesResponse:
        """Return the newest version of each template."""
        offered = await self._shelf.on_offer()
        return ListTemplatesResponse(templates=[offered[name] for name in sorted(offered)])

    async def get_template(self, request: GetTemplateRequest, /) -> Template:
        """Return one template in the requested version."""
        if request.version:
            return await self._shelf.version(request.name, request.version)
        offered = await self._shelf.on_offer()
        if request.name not in offered:
            raise NotFound(f"there is no template {request.name!r}; there are: {', '.join(sorted(offered))}")
        return offered[request.name]

    async def describe(self) -> str:
        """Report the number of templates. An invalid file degrades the service."""
        count = len(await self._shelf.on_offer())
        if self._shelf.faults:
            raise Unavailable("; ".join(self._shelf.faults))
        return f"{count} templates"


async def build(scope: ServiceContext) -> Templates:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    service = Templates(TemplateStore(await scope.database(), settings.folder))
    scope.describe(service.describe)
    return service
