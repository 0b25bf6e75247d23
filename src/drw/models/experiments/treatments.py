"""Checks of treatments: what the arms of an experiment of an alias change in a call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from drw.api.models.v1.discovery_pb2 import ListAliasesRequest, Model, ResolvedModel, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import Experiment, Parameters, RetrievalSettings, Treatment
from drw.kernel import attribute_filters
from drw.kernel.errors import DeadlineExceeded, DrwError, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.json_messages import to_json

PARAMETERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "max_tokens": (1, 2**31 - 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
"""Bounds of parameters, those of the chat endpoint."""
RETRIEVAL = {"limit": (1, 20), "score_threshold": (0, 1)}
"""Bounds of retrieval settings, those of answers with citations."""
MAX_TREATMENT_BYTES = 16_384
"""Maximum size of all treatments of an experiment: serving holds those of all desks in memory."""
RESOLVE_SECONDS = 5.0


def check(definition: Experiment) -> None:
    """Check the treatments of an experiment by their fields.

    Raises:
        InvalidRequest: an arm has a treatment that it cannot have; `param` is the path of the field.
    """
    for number, arm in enumerate(definition.arms):
        path = f"arms[{number}].treatment"
        if not definition.alias and arm.HasField("treatment"):
            raise InvalidRequest(f"{path} needs an alias: set `alias` of the experiment", param=path)
        if definition.alias and number == 0 and arm.treatment != Treatment():
            raise InvalidRequest(f"{path}: the control arm is the alias as it is; leave it out", param=path)
        if definition.alias and number and arm.treatment == Treatment():
            raise InvalidRequest(f"{path} is empty, so that the arm is the control arm", param=path)
        _check_treatment(arm.treatment, path)
    if (size := sum(arm.treatment.ByteSize() for arm in definition.arms)) > MAX_TREATMENT_BYTES:
        message = f"the treatments have {size} bytes; they can have {MAX_TREATMENT_BYTES} together"
        raise InvalidRequest(message, param="arms")


def _check_treatment(treatment: Treatment, path: str) -> None:
    _check_bounds(treatment.parameters, PARAMETERS, f"{path}.parameters")
    if treatment.HasField("retrieval"):
        _check_retrieval(treatment.retrieval, f"{path}.retrieval")
    if treatment.replace_system_prompt and not treatment.system_prompt:
        field = f"{path}.replace_system_prompt"
        raise InvalidRequest(f"{field} needs system_prompt", param=field)


def _check_retrieval(settings: RetrievalSettings, path: str) -> None:
    if settings == RetrievalSettings():
        raise InvalidRequest(f"{path} is empty; leave it out, or set one of its fields", param=path)
    _check_bounds(settings, RETRIEVAL, path)
    if settings.HasField("filter"):
        attribute_filters.parse(to_json(settings.filter), f"{path}.filter")


def _check_bounds(message: Parameters | RetrievalSettings, bounds: Mapping[str, tuple[int, int]], path: str) -> None:
    for name, (low, high) in bounds.items():
        value = getattr(message, name)
        if message.HasField(name) and not (math.isfinite(value) and low <= value <= high):
            raise InvalidRequest(f"{path}.{name} is {value:g}; it can be {low} to {high}", param=f"{path}.{name}")


class AliasModels:
    """Checks aliases and models by discovery; None: the profile has no discovery."""

    def __init__(self, discovery: DiscoveryClient | None, now: Callable[[], float] = time.time) -> None:
        self._discovery = discovery
        self._now = now

    async def check_experiment(self, experiment: Experiment) -> None:
        """Check the alias of an experiment and the models of its arms.

        Raises:
            InvalidRequest: the alias does not exist, or a model cannot get traffic.
            Unavailable: discovery does not answer.
        """
        if not experiment.alias:
            return
        await self.check_alias(experiment.alias)
        for number, arm in enumerate(experiment.arms):
            if arm.treatment.model:
                await self.check_model(arm.treatment.model, f"arms[{number}].treatment.model")

    async def check_alias(self, name: str) -> None:
        """Raise `InvalidRequest` if there is no such alias."""
        aliases = (await self._client().list_aliases(ListAliasesRequest(), timeout=RESOLVE_SECONDS)).aliases
        if name not in (alias.name for alias in aliases):
            raise InvalidRequest(f"there is no alias {name!r}; `drw aliases list` lists them", param="alias")

    async def check_model(self, model: str, param: str) -> None:
        """Raise `InvalidRequest` if a model is no chat model, or has no valid permit for traffic."""
        if reason := await self.refusal(model):
            raise InvalidRequest(f"{param} is {model!r}, {reason}", param=param)

    async def owner(self, model: str) -> str:
        """Return the org that owns a registered version; empty for a model of the settings."""
        request = ResolveModelRequest(id=model)
        return (await self._client().resolve_model(request, timeout=RESOLVE_SECONDS)).org

    async def refusal(self, model: str) -> str:
        """Return why a model cannot get traffic; empty if it can.

        Raises:
            Unavailable: discovery does not answer.
        """
        try:
            request = ResolveModelRequest(id=model)
            resolved = await self._client().resolve_model(request, timeout=RESOLVE_SECONDS)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable("discovery does not answer", service="discovery") from error
        except NotFound:
            return "which does not exist"
        except DrwError as error:
            return f"which cannot get traffic: {error.message}"
        return self._problem(resolved)

    def _problem(self, resolved: ResolvedModel) -> str:
        if resolved.model.kind != Model.CHAT:
            return "which is no chat model"
        permit = resolved.permit
        if not permit.validation or 0 < permit.expires_at <= self._now():
            return "which has no valid validation record"
        return ""

    def _client(self) -> DiscoveryClient:
        if self._discovery is None:
            raise Unavailable("the platform runs without discovery, so there are no aliases", service="discovery")
        return self._discovery
