"""`POST /v1/moderations` through the official client: the local policy, and a double of an upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from aiohttp import web

from drw.kernel.errors import ConfigError
from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json, JsonObject

RULES: JsonObject = {
    "categories": {
        "violence": {"words": ["attack", "Überfall"]},
        "account-number": {"patterns": [r"\b\d{10}\b"]},
    }
}


@pytest.fixture
async def policy(start: StartCluster) -> AsyncIterator[ModelsCluster]:
    async with start(moderation=RULES) as cluster:
        yield cluster


async def test_the_policy_flags_what_its_rules_name(policy: ModelsCluster) -> None:
    texts = ["Rates rose.", "An ATTACK!", "counterattacks", "account 1234567890", "ein ÜBERFALL", "Überfalls"]
    answer = await policy.client.moderations.create(input=texts, model="policy")
    assert [result.flagged for result in answer.results] == [False, True, False, True, True, False]
    assert answer.results[1].categories.violence and answer.results[1].category_scores.violence == 1.0
    assert answer.results[1].category_applied_input_types.violence == ["text"]
    assert not answer.results[1].categories.hate_threatening and answer.model == "policy"
    extra = answer.results[3].categories.model_extra
    assert extra is not None and extra["account-number"] is True
    record = policy.records()[-1]
    assert (record["action"], record["resource"]) == ("model.moderation", "model/policy")
    assert "ATTACK" not in str(record)


async def test_the_policy_is_the_default_and_reads_content_parts(policy: ModelsCluster) -> None:
    assert (await policy.client.moderations.create(input="an attack")).results[0].flagged
    parts: Json = [{"type": "text", "text": "an"}, {"type": "text", "text": "attack"}]
    (result,) = (await policy.client.moderations.create(input=parts)).results
    assert result.flagged
    image: Json = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    with pytest.raises(openai.BadRequestError, match="texts only"):
        await policy.client.moderations.create(input=image)


async def test_patterns_take_linear_time(start: StartCluster) -> None:
    rules = {"categories": {"violence": {"patterns": ["(a+)+$", "(x+x+)+y"]}}}
    async with start(moderation=rules) as cluster:
        text = "a" * 200_000 + "!" + "x" * 200_000
        (result,) = (await cluster.client.moderations.create(input=text)).results
        assert not result.flagged


async def test_patterns_that_are_not_linear_are_refused_at_start(start: StartCluster) -> None:
    with pytest.raises(ConfigError, match="violence.patterns"):
        async with start(moderation={"categories": {"violence": {"patterns": [r"(a)\1"]}}}):
            pass


async def test_invalid_requests_are_named(policy: ModelsCluster) -> None:
    for body, param in (
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [{"type": "audio"}]}, "input"),
        ({"input": [{"type": "text", "text": "a", "more": 1}]}, "input"),
        ({"input": "x" * ((1 << 20) + 1)}, "input"),
        ({"input": "a", "threshold": 1}, "threshold"),
        ({"input": "a", "model": "double"}, "model"),
    ):
        answer = await policy.http.post("/v1/moderations", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_without_rules_there_is_no_policy(cluster: ModelsCluster) -> None:
    with pytest.raises(openai.BadRequestError, match="no local policy") as caught:
        await cluster.client.moderations.create(input="a")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        await cluster.client.moderations.create(input="a", model="policy")


async def test_an_upstream_classifies(start: StartCluster, tmp_path: Path) -> None:
    bodies: list[Json] = []
    answers: list[Json] = []

    async def moderate(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response(answers[-1])

    app = web.Application()
    app.router.add_post("/v1/moderations", moderate)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "m")).start()
    model = {"kind": "moderation", "engine": "openai", "base_url": f"unix:{tmp_path}/m", "upstream_model": "omni"}
    vectors = {"kind": "embedding", "engine": "onnx", "dimensions": 2}
    result = {"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 0.9}}
    chat = {"engine": "openai", "base_url": f"unix:{tmp_path}/x"}
    try:
        async with start(discovery={"models": {"judge": model, "vectors": vectors, "chat": chat}}) as cluster:
            answers.append({"id": "m", "model": "omni", "results": [result]})
            answer = await cluster.client.moderations.create(input="an attack", model="judge")
            assert answer.results[0].flagged and answer.results[0].category_scores.violence == 0.9
            assert bodies == [{"model": "omni", "input": ["an attack"]}]
            invalid: list[Json] = [{}, {"results": []}, {"results": [result] * 2}, {"results": [{"flagged": "yes"}]}]
            for wrong in invalid:
                answers.append(wrong)
                with pytest.raises(openai.InternalServerError):
                    await cluster.client.moderations.create(input="an attack", model="judge")
    finally:
        await runner.cleanup()
