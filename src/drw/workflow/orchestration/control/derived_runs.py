"""Starts a run from another one: restarts of dead letters, forks and retries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from drw.api.workflow.v1.orchestration_pb2 import ForkRunRequest, RestartRunRequest, RetryRunRequest
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import Conflict
from drw.kernel.rpc.context import Principal
from drw.killswitch.watch import KillList
from drw.workflow.orchestration import inputs, messages
from drw.workflow.orchestration.permissions import check_scopes
from drw.workflow.orchestration.restarts import (
    RestartRequest,
    edited_inputs,
    kept_steps,
    merged_inputs,
    steps_not_undone,
    undone_nodes,
)
from drw.workflow.orchestration.runs import KeptSteps, Row, Runs


@dataclass(frozen=True, slots=True)
class ForkRequest(RestartRequest):
    """A request to fork or retry a run."""

    kind: str = "fork"

    @property
    def fingerprint(self) -> str:
        """Implement the base class."""
        fields = [self.kind, self.restart_of, self.template_version, self.from_step, self.inputs]
        return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """Implement the base class."""
        edited = edited_inputs(self.inputs)
        return {f"{self.kind}_of": self.restart_of, "from_step": self.from_step, "edited_inputs": edited}


class DerivedRuns:
    """Starts runs that have the template, the inputs and some outputs of another run."""

    def __init__(self, runs: Runs, templates: TemplatesClient, kills: KillList) -> None:
        self._runs = runs
        self._templates = templates
        self._kills = kills

    async def restart(self, caller: Principal, request: RestartRunRequest) -> str:
        """Start a run from a failed one, for a dead letter; return its id. The arguments of the request are optional.

        Raises:
            NotFound: the desk has no such run.
            Conflict: the run has not failed, or the request id was used with other contents.
            InvalidRequest: the inputs or the node are invalid.
        """
        old_run, old_steps = await self._runs.get(caller, request.run)
        restart = RestartRequest(
            request.request_id,
            old_run["template_name"],
            messages.inputs(request.inputs),
            restart_of=request.run,
            template_version=request.template_version,
            from_step=request.from_step,
            priority=old_run["priority"],
        )
        return await self._start(caller, restart, old_run, old_steps, ("FAILED",))

    async def fork(self, caller: Principal, request: ForkRunRequest) -> str:
        """Start a run from one that has ended; return its id. Errors as `restart`."""
        old_run, old_steps = await self._runs.get(caller, request.run)
        fork = ForkRequest(
            request.request_id or uuid4().hex,
            old_run["template_name"],
            messages.inputs(request.inputs),
            restart_of=request.run,
            template_version=request.template_version,
            from_step=request.from_step,
            priority=old_run["priority"],
        )
        return await self._start(caller, fork, old_run, old_steps, ("SUCCEEDED", "FAILED", "CANCELLED"))

    async def retry(self, caller: Principal, request: RetryRunRequest) -> str:
        """Start a run from a failed or cancelled one, from a node on; return its id. Errors as `restart`.

        Without a node, all outputs are kept.
        """
        old_run, old_steps = await self._runs.get(caller, request.run)
        retry = ForkRequest(
            request.request_id or uuid4().hex,
            old_run["template_name"],
            {},
            restart_of=request.run,
            from_step=request.from_step,
            priority=old_run["priority"],
            kind="retry",
        )
        return await self._start(caller, retry, old_run, old_steps, ("FAILED", "CANCELLED"))

    async def _start(
        self, caller: Principal, request: RestartRequest, old_run: Row, old_steps: list[Row], states: Sequence[str]
    ) -> str:
        if (existing := await self._runs.find_by_request_id(caller, request)) is not None:
            return existing
        if old_run["state"] not in states:
            allowed = " or ".join(state.lower() for state in states)
            state = "paused" if old_run["is_paused"] else old_run["state"].lower()
            raise Conflict(f"the run {old_run['id']!r} is {state}; it must be {allowed}")
        undone = undone_nodes(old_steps)
        self._kills.check(caller, workflow=request.template)
        template = old_template = Template.FromString(old_run["template"])
        if request.template_version:
            version = request.template_version.removeprefix("latest")
            template = await self._templates.get_template(GetTemplateRequest(name=request.template, version=version))
        check_scopes(caller, template)
        old_inputs = await self._runs.payloads.load(caller, old_run["inputs"], old_run["inputs_payload"])
        merged = merged_inputs(template, old_inputs, request.inputs)
        values = inputs.validate(template, merged, self._runs.payloads.limits.value)
        if isinstance(request, ForkRequest) and request.kind == "retry" and not request.from_step:
            steps = steps_not_undone(template, values, undone)
        else:
            steps = kept_steps(template, values, old_template, old_inputs, request.from_step, undone)
        kept = KeptSteps(old_run["id"], steps, request.from_step, is_fork=isinstance(request, ForkRequest))
        return await self._runs.start(caller, request, template, values, kept=kept)
