"""OpenFeature Remote Evaluation Protocol: with the official OpenFeature client, and invalid requests by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx
import pytest
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, GeneralError, TargetingKeyMissingError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails

from drw.api.models.v1.experiments_pb2 import (
    GetResultsRequest,
    RecordExposuresRequest,
    StartExperimentRequest,
    StopExperimentRequest,
)
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.kernel.rpc.context import acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from models.experiments.test_experiments import WHO, definition
from support.json_types import Json

T = TypeVar("T")

HEADERS = {
    "x-drw-key": WHO.key,
    "x-drw-org": WHO.org,
    "x-drw-desk": WHO.desk,
    "x-drw-scopes": "experiments:record",
}


@dataclass
class Flags:
    """A running service with the official provider."""

    client: ExperimentsClient
    url: str
    provider: OFREPProvider

    async def resolve(
        self, resolve: Callable[..., FlagResolutionDetails[T]], key: str, default: T, unit: str = "u"
    ) -> FlagResolutionDetails[T]:
        """Resolve a flag in a thread: the provider blocks."""
        return await asyncio.to_thread(resolve, key, default, EvaluationContext(unit, {"country": "CA"}))

    async def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as http:
            return await http.post(path, content=content, headers=HEADERS | headers)


@asynccontextmanager
async def flags(profile: Profile) -> AsyncIterator[Flags]:
    host = Host(profile, "test", ["experiments"])
    try:
        _, address = await host.start(http_address="127.0.0.1:0")
        url = f"http://{address}"
        yield Flags(host.client(ExperimentsClient), url, OFREPProvider(url, headers_factory=lambda: HEADERS))
    finally:
        await host.stop()


async def started(client: ExperimentsClient, name: str, *values: object) -> None:
    arms = [{"name": f"arm{n}", "weight": 1, "value": value} for n, value in enumerate(values)]
    with acting_for(WHO):
        await client.create_experiment(definition(name, arms=arms))
        await client.start_experiment(StartExperimentRequest(name=name))


async def test_the_official_client_resolves_every_type_and_records_the_exposure(profile: Profile) -> None:
    async with flags(profile) as service:
        values: dict[str, tuple[Json, Json]] = {
            "bool": (True, False),
            "string": ("small", "large"),
            "integer": (10, 20),
            "float": (1.0, 2.5),
            "object": ({"top_p": 1}, {"top_p": 0.5}),
        }
        kinds = {"bool": "boolean"}
        for name, arms in values.items():
            await started(service.client, name, *arms)
            resolve = getattr(service.provider, f"resolve_{kinds.get(name, name)}_details")
            found = [await service.resolve(resolve, name, arms[0], f"user-{number}") for number in range(20)]
            assert {repr(each.value) for each in found} == {repr(value) for value in arms}
            assert {(each.variant, repr(each.value)) for each in found} == {
                (f"arm{n}", repr(value)) for n, value in enumerate(arms)
            }
            assert {each.reason for each in found} == {"SPLIT"}
            again = await service.resolve(resolve, name, arms[0], "user-7")
            assert again.value == found[7].value
            with acting_for(WHO):
                results = await service.client.get_results(GetResultsRequest(name=name))
            assert sum(arm.units for arm in results.arms) == 20


async def test_the_official_client_gets_the_errors_of_the_protocol(profile: Profile) -> None:
    async with flags(profile) as service:
        await started(service.client, "size", "small", "large")
        with pytest.raises(FlagNotFoundError, match="no experiment 'other'"):
            await service.resolve(service.provider.resolve_string_details, "other", "x")
        with pytest.raises(TargetingKeyMissingError):
            await service.resolve(service.provider.resolve_string_details, "size", "x", "")
        with pytest.raises(TypeMismatchError):
            await service.resolve(service.provider.resolve_boolean_details, "size", False)


async def test_a_refused_exposure_is_an_error_of_the_protocol(profile: Profile) -> None:
    limited = profile.model_copy(update={"services": {"experiments": {"max_units": 1000}}})
    async with flags(limited) as service:
        await started(service.client, "size", "small", "large")
        units = [f"user-{number}" for number in range(1000)]
        with acting_for(WHO):
            await service.client.record_exposures(RecordExposuresRequest(name="size", units=units))
    async with flags(limited) as service:  # which counts the units anew
        with pytest.raises(GeneralError, match="1000 units, the maximum is 1000"):
            await service.resolve(service.provider.resolve_string_details, "size", "x", "user-new")


async def test_a_stopped_experiment_is_a_disabled_flag_with_the_control_value(profile: Profile) -> None:
    async with flags(profile) as service:
        await started(service.client, "size", "small", "large")
        with acting_for(WHO):
            await service.client.stop_experiment(StopExperimentRequest(name="size", reason="enough"))
        for number in range(10):
            found = await service.resolve(service.provider.resolve_string_details, "size", "x", f"user-{number}")
            assert (found.value, found.reason) == ("small", "DISABLED")


async def test_all_flags_have_an_etag_and_record_no_exposure(profile: Profile) -> None:
    async with flags(profile) as service:
        await started(service.client, "size", "small", "large")
        await started(service.client, "fast", True, False)
        body = b'{"context": {"targetingKey": "user-1"}}'
        response = await service.post("/ofrep/v1/evaluate/flags", body)
        assert [flag["key"] for flag in response.json()["flags"]] == ["fast", "size"]
        same = await service.post("/ofrep/v1/evaluate/flags", body, **{"if-none-match": response.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        with acting_for(WHO):
            results = await service.client.get_results(GetResultsRequest(name="size"))
        assert sum(arm.units for arm in results.arms) == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"[]", "PARSE_ERROR"),
        (b"{}", "INVALID_CONTEXT"),
        (b'{"context": 1}', "INVALID_CONTEXT"),
        (b'{"context": {}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": 5}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "' + b"x" * 513 + b'"}}', "INVALID_CONTEXT"),
    ],
)
async def test_wrong_requests_have_the_error_codes_of_the_protocol(profile: Profile, body: bytes, code: str) -> None:
    async with flags(profile) as service:
        await started(service.client, "size", "small", "large")
        one = await service.post("/ofrep/v1/evaluate/flags/size", body)
        assert (one.status_code, one.json()["errorCode"], one.json()["key"]) == (400, code, "size")
        every = await service.post("/ofrep/v1/evaluate/flags", body)
        assert (every.status_code, every.json()["errorCode"]) == (400, code)


async def test_a_key_without_the_scope_or_of_another_desk_evaluates_nothing(profile: Profile) -> None:
    async with flags(profile) as service:
        await started(service.client, "size", "small", "large")
        body = b'{"context": {"targetingKey": "user-1"}}'
        refused = await service.post("/ofrep/v1/evaluate/flags/size", body, **{"x-drw-scopes": "experiments:read"})
        assert refused.status_code == 403
        foreign = await service.post("/ofrep/v1/evaluate/flags/size", body, **{"x-drw-desk": "equities"})
        assert (foreign.status_code, foreign.json()["errorCode"]) == (404, "FLAG_NOT_FOUND")
        every = await service.post("/ofrep/v1/evaluate/flags", body, **{"x-drw-desk": "equities"})
        assert every.json() == {"flags": []}
