"""The explanation of a request matches what Envoy does with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from agent.data_plane import DataPlaneHarness
from agent.reporting.test_pass_through import usage
from agent.upstream import DoubleVllm
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration, Explanation, Route, Share
from drw.gateway.authentication.keys.signing import Claims
from drw.gateway.request_router.explain.explanation import ExplainedRequest, explain
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject
from support.parts import until

CHAT = "/v1/chat/completions"
ORIGIN = {"path": CHAT, "upstream": "vllm", "pass_through": True}


def routes() -> Iterator[Route]:
    cases: list[JsonObject] = [
        {"name": "m", "models": ["llama", "qwen"], **ORIGIN},
        {"name": "m.acme", "models": ["llama"], "tenants": ["acme"], **ORIGIN},
        {"name": "m.desk", "models": ["llama"], "tenants": ["acme/trading"], "scopes": ["experiments:read"], **ORIGIN},
        {"name": "m.lab", "models": ["llama"], "headers": [{"name": "x-lab", "prefix": "q"}], **ORIGIN},
        {"name": "m.large", "models": ["large"], "model_header": True, **ORIGIN},
        {"name": "h.lab", "methods": ["POST"], "headers": [{"name": "x-lab", "exact": "z"}], **ORIGIN},
        {"name": "alone", "models": ["llama"], **ORIGIN, "path": "/v1/responses"},
        {
            "name": "below",
            "methods": ["GET"],
            "scopes": ["models:read"],
            "path": "/v1/responses/input",
            "upstream": "vllm",
        },
        {"name": "wide", "scopes": ["models:invoke"], "path": "/v1/responses/wide", "upstream": "models"},
        {"name": "wide.m", "models": ["qwen"], **ORIGIN, "path": "/v1/responses/wide/narrow"},
    ]
    for route in cases:
        yield with_defaults(Route(**route))


@dataclass(frozen=True)
class Case:
    """A request and its caller."""

    path: str = CHAT
    method: str = "POST"
    org: str = "local"
    desk: str = "research"
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ("models:invoke",)


CASES = [
    Case(org=org, desk=desk, model=model, headers=headers)
    for org, desk in [("local", "research"), ("acme", "research"), ("acme", "trading")]
    for model in ["", "llama", "qwen", "large", "other"]
    for headers in [{}, {"x-lab": "quant"}, {"x-lab": "z"}, {"x-model": "large"}, {"x-model": "llama"}]
] + [
    Case(path=path, method=method, model=model, scopes=scopes)
    for path in ["/v1/responses", "/v1/responses/input", "/v1/responses/wide/narrow/x", "/v1/responsesx", f"{CHAT}/x"]
    for method in ["POST", "GET"]
    for model in ["llama", "qwen"]
    for scopes in [("models:invoke",), ("models:read", "models:invoke")]
]
CASES += [
    Case(org="acme", desk="trading", model="llama", scopes=("models:invoke", "experiments:read")),
    Case(org="acme", desk="trading", model="llama", scopes=("experiments:read",)),
    Case(scopes=("documents:read",), model="llama"),
    Case(path="/v1/models", method="GET", scopes=("models:read",)),
    Case(path="/v1/models", method="DELETE", scopes=("models:read",)),
]


@pytest.fixture
async def vllm() -> AsyncIterator[DoubleVllm]:
    """A running OpenAI-compatible upstream."""
    double = await DoubleVllm().start()
    yield double
    await double.stop()


async def test_explanation_matches_what_envoy_does(data_plane: DataPlaneHarness, vllm: DoubleVllm) -> None:
    upstreams, records = (Upstream(name="vllm", addresses=[vllm.address]),), list(routes())
    assert (await data_plane.apply(routes=records, upstreams=upstreams)).error == ""
    configuration = data_plane.configuration(routes=records, upstreams=upstreams)
    log = data_plane.plane.folder / "access.log"
    expected = []
    async with data_plane.client() as client:
        for number, case in enumerate(CASES):
            body = {"model": case.model} if case.model else {}
            headers = case.headers | {
                "authorization": f"Bearer {token(data_plane, case)}",
                "user-agent": f"case-{number}",
            }
            body_argument: JsonObject = {"json": body} if case.method == "POST" else {}
            answer = await client.request(case.method, case.path, headers=headers, **body_argument)
            expected.append((answer.headers["x-request-id"], answer.status_code))

        async def last_line_is_logged() -> bool:
            return log.exists() and expected[-1][0] in log.read_text()

        await until(last_line_is_logged, "the last line of the log")
    lines = {line["request_id"]: line for line in map(parse_line, log.read_text().splitlines())}
    mismatches = []
    for case, (request_id, status) in zip(CASES, expected, strict=True):
        explanation = explain_case(configuration, case)
        line = lines[request_id]
        not_found = 405 if explanation.refused.endswith("405") else 404
        expected_status = 403 if explanation.refused.startswith("403") else not_found if not explanation.route else 0
        matches = (
            expected_status == status
            if expected_status
            else status not in (403, 404, 405) or bool(is_upstream_404(status, explanation))
        )
        name = explanation.route or ("wrong_method" if not_found == 405 else "nothing")
        if not (matches and (expected_status == 403 or line["route"] == name)):
            mismatches.append((case, name, explanation.refused, line["route"], status))
    assert mismatches == []
    assert {line["route"] for line in usage(data_plane)} >= {
        "m",
        "m.acme",
        "m.lab",
        "m.large",
        "h.lab",
        "alone",
        "wide.m",
    }


def is_upstream_404(status: int, explanation: Explanation) -> bool:
    """Return whether the upstream itself answered that the path or method does not exist."""
    return status in (404, 405) and explanation.taken.upstream == "vllm"


def explain_case(configuration: Configuration, case: Case) -> Explanation:
    principal = Principal(case.org, case.desk, "key_1", frozenset(case.scopes))
    return explain(configuration, ExplainedRequest(case.method, case.path, case.headers, case.model), principal)


def token(data_plane: DataPlaneHarness, case: Case) -> str:
    now = datetime.now(UTC)
    return data_plane.signing.sign(Claims("key_1", case.org, case.desk, case.scopes, now, now + timedelta(hours=1)))


def parse_line(line: str) -> JsonObject:
    return json.loads(line)


def test_explanation_reports_targets_deadlines_and_reasons(data_plane_profile: Profile) -> None:
    data_plane = DataPlaneHarness(data_plane_profile)
    upstreams = [Upstream(name=name, addresses=["127.0.0.1:9"], connect_ms=50) for name in ("a", "b", "c")]
    shares = [Share(upstream="a", weight=3), Share(upstream="b", weight=1)]
    route = with_defaults(
        Route(name="r", path=CHAT, split=shares, fallbacks=["c"], models=["llama"], first_byte_ms=9, total_ms=99)
    )
    configuration = data_plane.configuration(routes=[route], upstreams=upstreams)
    explanation = explain_case(configuration, Case(model="llama"))
    assert [(t.upstream, t.percent, t.fallback) for t in explanation.targets] == [
        ("a", 75, False),
        ("b", 25, False),
        ("c", 0, True),
    ]
    assert list(explanation.deadlines) == [
        "50 ms to connect", "9 ms until the first byte", "300 s without data", "99 ms in total",
    ]  # fmt: skip
    assert (explanation.reads_body, explanation.refused) == (True, "")
    assert explanation.why == f"the path is at or below {CHAT}; the method is POST; the body names the model 'llama'"
    explanation = explain_case(configuration, Case(model="other", scopes=("models:read",)))
    assert explanation.route == "chat" and explanation.refused.startswith(
        "403: the route 'chat' needs the scope 'models:invoke'"
    )
    assert [(miss.route, miss.why) for miss in explanation.misses] == [("r", "it serves llama; the body names 'other'")]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Block(subject=Block.KEY, org="local", name="key_1", reason=Block.TOKENS), "429: the key 'key_1' is blocked"),
        (Block(subject=Block.DESK, org="local", name="research", reason=Block.KILLED), "403: the desk 'research'"),
        (Block(subject=Block.ORG, org="local", reason=Block.MONEY), "429: the org 'local' is blocked (money)"),
        (Block(subject=Block.MODEL, name="llama", reason=Block.KILLED), "403: the model 'llama' is blocked (killed)"),
        (Block(subject=Block.KEY, org="other", name="key_1", reason=Block.KILLED), ""),
        (Block(subject=Block.MODEL, name="qwen", reason=Block.KILLED), ""),
        (Block(subject=Block.MODEL, org="local", name="llama", reason=Block.KILLED), "403: the model 'llama' is"),
        (Block(subject=Block.MODEL, org="other", name="llama", reason=Block.KILLED), ""),
    ],
)
def test_explanation_names_the_block(data_plane_profile: Profile, block: Block, expected: str) -> None:
    explanation = explain_case(DataPlaneHarness(data_plane_profile).configuration(blocks=[block]), Case(model="llama"))
    assert explanation.refused.startswith(expected) and bool(explanation.refused) == bool(expected)
