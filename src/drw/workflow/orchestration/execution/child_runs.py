"""Runs that a step of another run starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.workflow.orchestration import inputs
from drw.workflow.orchestration.execution.journal.run_journal import Run
from drw.workflow.orchestration.runs import ParentRun, RunRequest, Runs

MAX_DEPTH = 5
"""Maximum number of runs above a run."""

Check = Callable[[context.Principal, Template], None]


class ChildRuns:
    """Starts child runs, and reads how they ended. They act for the key of the parent."""

    def __init__(
        self, database: Database, runs: Runs, templates: TemplatesClient, kills: KillList, check: Check
    ) -> None:
        self._database = database
        self._runs = runs
        self._templates = templates
        self._kills = kills
        self._check = check

    async def start(self, parent: Run, step: str, name: str, values: dict[str, Any]) -> str:
        """Start the child of a step; return its id. Repeated after a crash, it returns the same run.

        Raises:
            InvalidRequest: the template or the inputs are invalid, or the runs are nested too deep.
        """
        request = RunRequest(f"{parent.id}/{step}", name, values)
        if (existing := await self._runs.find_by_request_id(parent.caller, request)) is not None:
            return existing
        if parent.depth >= MAX_DEPTH:
            raise InvalidRequest(f"runs are nested more than {MAX_DEPTH} deep")
        self._kills.check(parent.caller, workflow=name)
        template = await self._templates.get_template(GetTemplateRequest(name=name))
        self._check(parent.caller, template)
        return await self._runs.start(
            parent.caller,
            request,
            template,
            inputs.validate(template, values, self._runs.payloads.limits.value),
            parent=ParentRun(parent.id, parent.depth),
        )

    async def outcome(self, parent: Run, run: str) -> dict[str, Any] | None:
        """Return state, output and error of a child run that has ended, or None.

        Raises:
            PayloadDamaged: its output cannot be read.
        """
        row = await self._database.one(
            "select state, output, output_payload, error from run where id = %s and state not in ('QUEUED', 'RUNNING')",
            run,
        )
        if row is None:
            return None
        return row | {"output": await self._runs.payloads.load(parent.caller, row["output"], row["output_payload"])}
