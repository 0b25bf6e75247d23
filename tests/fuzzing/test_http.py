"""Requests made up from docs/reference/openapi.json, right and wrong ones: none is answered with a 5xx.

A longer run, with other requests each time: `python -m bench.fuzz`.
"""

from __future__ import annotations

import os
from zlib import crc32

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from fuzzing.services import DOCUMENT, KEY, SECONDS, Served, check
from support.json_types import Json

MANY = int(os.environ.get("DRW_FUZZ_EXAMPLES", "0"))
"""Requests to each endpoint, other ones in each run; 0: a few, the same in every run."""
FEW = 10

schema = schemathesis.openapi.from_dict(DOCUMENT)


@schema.parametrize()
@settings(
    max_examples=MANY or FEW,
    derandomize=not MANY,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# The services draw random ids in their own thread meanwhile, which looks as if the examples were drawn from there.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_no_request_breaks_a_service(served: Served, case: schemathesis.Case[Json]) -> None:
    _name_what_there_is(case, served)
    answer = case.call(base_url=served.url, headers=KEY, timeout=SECONDS)
    check(case.operation.path, answer.status_code, answer.content, case.as_curl_command())
    if answer.status_code == 200:
        case.validate_response(answer, [content_type_conformance, response_schema_conformance])


def _name_what_there_is(case: schemathesis.Case[Json], served: Served) -> None:
    """Put the id of something that exists in every second place that takes one: the others are answered with 404."""
    places: tuple[Json, ...] = (case.path_parameters, case.body)
    for fields in places:
        for name, value in list(fields.items()) if isinstance(fields, dict) else ():
            if isinstance(value, str) and crc32(value.encode(errors="replace")) % 2:
                fields[name] = served.id_of(name, case.operation.path) or value
