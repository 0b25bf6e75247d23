"""Runs the cases against a server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import grpc
import httpx

from conformance.open_inference import grpc_cases, rest_cases
from conformance.open_inference.case import CASES, Case, Failed, Model, Server, Skipped, ok

MODULES = (rest_cases, grpc_cases)
"""Register their cases when they are imported."""
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Result:
    """The outcome of one case for one model."""

    case: Case
    model: str
    outcome: str
    detail: str = ""


def read_model(server: Server, name: str) -> Model:
    """Return a model of the server, as its metadata describes it.

    Raises:
        Failed: it is not a model that returns its only input as its only output.
    """
    body = ok(server.http.get(f"/v2/models/{name}"))
    try:
        ((given,), (returned,)) = body["inputs"], body["outputs"]
        versions = body.get("versions") or [""]
        return Model(name, versions[0], given["name"], returned["name"], given["datatype"])
    except (KeyError, ValueError, TypeError):
        raise Failed(f"{name!r} needs one input and one output of the shape [-1, 2]: {body}") from None


def results(server: Server, models: Sequence[Model], parts: Collection[str]) -> Iterator[Result]:
    """Yield the result of each case."""
    for case in CASES:
        if case.part in parts:
            for model in models if case.per_model else models[:1]:
                yield _result(server, case, model)


def _result(server: Server, case: Case, model: Model) -> Result:
    name = f"{model.name} ({model.datatype})" if case.per_model else ""
    try:
        case.check(server, model)
    except Skipped as reason:
        return Result(case, name, SKIPPED, str(reason))
    except Failed as error:
        return Result(case, name, FAILED, str(error))
    except grpc.RpcError as error:
        return Result(case, name, FAILED, f"{error.code().name}: {error.details()}")
    except httpx.HTTPError as error:
        return Result(case, name, FAILED, f"no response: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        return Result(case, name, FAILED, f"unexpected response: {error!r}")
    return Result(case, name, PASSED)
