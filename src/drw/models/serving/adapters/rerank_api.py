"""Adapter for upstreams with `/rerank`: vLLM, Jina and Cohere, whose requests have `documents`, and TEI (`texts`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.models.serving.engines.openai_client import OpenAIClient, authorization_header, malformed_response
from drw.models.serving.ports import Body, EngineTarget, Ranking, RerankEngine
from drw.models.serving.settings import ClientSettings

MAX_BYTES = 16 << 20
MISSING_TEXTS = "missing field `texts`"
"""Part of TEI's error for a request in the format of the others."""


class RerankApi(RerankEngine):
    """Sends the query and all documents in one request."""

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        self._client = OpenAIClient(settings, reuse=True)
        self._seconds = settings.first_token_seconds
        self._tei: set[str] = set()
        """Base URLs of upstreams with TEI's format."""

    async def rank(self, target: EngineTarget, query: str, documents: Sequence[str]) -> Ranking:
        """Return the scores that the upstream computes."""
        if target.base_url not in self._tei:
            body = {"model": target.upstream_model, "query": query, "documents": list(documents)}
            try:
                return _ranking(target, await self._post(target, body), len(documents))
            except InvalidRequest as error:
                if MISSING_TEXTS not in error.message:
                    raise
            self._tei.add(target.base_url)
        return _ranking(target, await self._post(target, {"query": query, "texts": list(documents)}), len(documents))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(self, target: EngineTarget, body: Body) -> Any:
        seconds = target.deadlines.first_token or self._seconds
        return await self._client.fetch_json(target, "rerank", body, authorization_header(target), MAX_BYTES, seconds)


def _ranking(target: EngineTarget, answer: Any, count: int) -> Ranking:
    """Return the scores in the order of the documents; each document must have exactly one."""
    results = answer.get("results") if isinstance(answer, dict) else answer
    scores: dict[int, float] = {}
    for result in results if isinstance(results, list) else ():
        if not isinstance(result, dict):
            raise malformed_response(target)
        index: Any = result.get("index")
        score: Any = result.get("relevance_score", result.get("score"))
        if type(index) is not int or type(score) not in (int, float) or not math.isfinite(score):
            raise malformed_response(target)
        scores[index] = float(score)
    if len(results or ()) != count or scores.keys() != set(range(count)):
        raise malformed_response(target)
    return Ranking([scores[index] for index in range(count)], _tokens(answer))


def _tokens(answer: Any) -> int | None:
    """Return the tokens that the upstream reports: `usage` of vLLM and Jina, `meta` of Cohere."""
    if not isinstance(answer, dict):
        return None
    usage, meta = answer.get("usage"), answer.get("meta")
    counted = meta.get("tokens") if isinstance(meta, dict) else None
    for source, name in ((usage, "total_tokens"), (usage, "prompt_tokens"), (counted, "input_tokens")):
        value: Any = source.get(name) if isinstance(source, dict) else None
        if type(value) in (int, float) and value >= 0:
            return int(value)
    return None
